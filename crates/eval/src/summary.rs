use serde::Serialize;
use serde_json::Value;

use crate::{MeanMetrics, Record};

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
    /// Teacher-forced scores, as means over the records that were edited.
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
        let edited: Vec<&Record> = records.iter().filter(|r| r.error.is_none()).collect();
        let pair = |pre: fn(&Record) -> &crate::Metrics,
                    post: fn(&Record) -> &crate::Metrics,
                    last: fn(&Record) -> Option<&crate::Metrics>| MeanPair {
            pre: MeanMetrics::of(edited.iter().map(|r| pre(r))),
            post: MeanMetrics::of(edited.iter().map(|r| post(r))),
            post_final: MeanMetrics::of(edited.iter().filter_map(|r| last(r))),
        };
        Self {
            run,
            records: records.len(),
            failed: records.len() - edited.len(),
            mean_metrics: pair(|r| &r.pre, |r| &r.post, |r| r.post_final.as_ref()),
            free_decoding: pair(|r| &r.free_decoding.pre, |r| &r.free_decoding.post, |r| r.free_decoding.post_final.as_ref()),
            seconds,
            peak_memory_mb: records.iter().filter_map(|r| r.peak_memory_mb).reduce(f64::max),
            edited_model: None,
            versions: Versions::default(),
        }
    }
}
