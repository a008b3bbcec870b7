use serde::Serialize;
use serde_json::Value;

use crate::metrics::accuracy_key;
use crate::{MeanMetrics, Metrics, Record};

/// What a run was: everything that is needed to repeat it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunInfo {
    /// Name of the model.
    pub model: String,
    /// Its `model_type`.
    pub family: String,
    /// Name of the method.
    pub method: String,
    /// `independent`, `sequential` or `batch`.
    pub mode: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Hyperparameters.
    pub hparams: Value,
}

/// Seconds a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// What all edits share: context templates, statistics.
    pub prepare: f64,
    /// All edits together, without evaluation.
    pub edit: f64,
    /// All evaluations together.
    pub evaluate: f64,
    /// The whole run.
    pub total: f64,
}

/// Versions of what wrote a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// Version of easyedit.
    pub easyedit: &'static str,
    /// Version of the report's layout.
    pub report: u32,
}

impl Default for Versions {
    fn default() -> Self {
        Self { easyedit: env!("CARGO_PKG_VERSION"), report: 1 }
    }
}

/// Means before and after.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeanPair {
    /// Before the first edit.
    pub pre: MeanMetrics,
    /// Right after each edit.
    pub post: MeanMetrics,
    /// After the last edit of a sequence.
    #[serde(skip_serializing_if = "MeanMetrics::is_empty")]
    pub post_final: MeanMetrics,
}

/// A run in one object: the last line of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// What was run.
    #[serde(flatten)]
    pub run: RunInfo,
    /// Number of records.
    pub records: usize,
    /// How many of them could not be edited.
    pub failed: usize,
    /// How many edits moved no score, of the requests that were not answered in full before.
    pub unmoved: usize,
    /// What the user should know about the run as a whole, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Teacher-forced scores, as means over all records. After the edit, a request that could not be edited counts as 0.
    pub mean_metrics: MeanPair,
    /// The same by free greedy decoding.
    pub free_decoding: MeanPair,
    /// Seconds.
    pub seconds: Seconds,
    /// Largest peak memory of an edit, in 10^6 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_mb: Option<f64>,
    /// Name of the edited model, where a service keeps it under one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited_model: Option<String>,
    /// Versions.
    pub versions: Versions,
}

impl Summary {
    /// The summary of `records`.
    pub fn of(run: RunInfo, records: &[Record], seconds: Seconds) -> Self {
        let is_sequence = records.iter().any(|r| r.post_final.is_some());
        let pair = |pre: fn(&Record) -> &Metrics, post: fn(&Record) -> &Metrics, last: fn(&Record) -> Option<&Metrics>| {
            let scored = |r: &Record, after: Option<&Metrics>| match r.error {
                Some(_) => Some(zeros(r, pre(r))),
                None => after.cloned(),
            };
            let post: Vec<Metrics> = records.iter().filter_map(|r| scored(r, Some(post(r)))).collect();
            let last: Vec<Metrics> = records.iter().filter(|_| is_sequence).filter_map(|r| scored(r, last(r))).collect();
            MeanPair { pre: MeanMetrics::of(records.iter().map(pre)), post: MeanMetrics::of(&post), post_final: MeanMetrics::of(&last) }
        };
        Self {
            run,
            records: records.len(),
            failed: records.iter().filter(|r| r.error.is_some()).count(),
            unmoved: records.iter().filter(|r| r.could_move() && r.moved_nothing()).count(),
            warnings: Vec::new(),
            mean_metrics: pair(|r| &r.pre, |r| &r.post, |r| r.post_final.as_ref()),
            free_decoding: pair(|r| &r.free_decoding.pre, |r| &r.free_decoding.post, |r| r.free_decoding.post_final.as_ref()),
            seconds,
            peak_memory_mb: records.iter().filter_map(|r| r.peak_memory_mb).reduce(f64::max),
            edited_model: None,
            versions: Versions::default(),
        }
    }

    /// Adds a warning if edits moved no score, which names `settings`, the hyperparameters that decide how strong an edit is.
    pub fn warn_of_unmoved(&mut self, records: &[Record], settings: &[&str]) {
        let could = records.iter().filter(|r| r.could_move()).count();
        if self.unmoved == 0 {
            return;
        }
        let what = match (self.unmoved, could) {
            (1, 1) => "the edit moved no score: the model answers as before".to_owned(),
            (unmoved, could) if unmoved == could => format!("no score moved: the model answers all {could} requests as before"),
            (unmoved, could) => format!("{unmoved} of {could} edits moved no score"),
        };
        let values: Vec<String> = settings
            .iter()
            .filter_map(|key| self.run.hparams.get(key).filter(|value| !value.is_null()).map(|value| format!("{key} ({value})")))
            .collect();
        let way_out = if values.is_empty() { String::new() } else { format!("; the likely setting is {}", values.join(" or ")) };
        self.warnings.push(what + &way_out);
    }
}

/// The scores of a request that could not be edited: 0 wherever it would have been measured. `pre` are its scores before.
fn zeros(record: &Record, pre: &Metrics) -> Metrics {
    let zero = |values: &Vec<f64>| vec![0.0; values.len()];
    let locality = record.requested_rewrite.locality.iter().map(|(name, prompts)| (accuracy_key(name), vec![0.0; prompts.len()]));
    Metrics {
        rewrite_acc: zero(&pre.rewrite_acc),
        rephrase_acc: zero(&pre.rephrase_acc),
        // Locality compares with the model before the edit, so `pre` has none.
        locality: (*pre != Metrics::default()).then(|| locality.collect()),
        portability: pre.portability.as_ref().map(|all| all.iter().map(|(name, values)| (name.clone(), zero(values))).collect()),
    }
}
