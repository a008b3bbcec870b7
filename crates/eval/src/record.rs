use std::collections::BTreeMap;

use easyedit_core::{EditRequest, EvaluationPrompt};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::Metrics;

/// What one request did to the model: EasyEdit's record, and what we measure besides.
///
/// `pre`, `case_id`, `requested_rewrite`, `time` and `post` are EasyEdit's keys with EasyEdit's meaning; their metrics are
/// teacher-forced. The others are additions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Scores of the model before the first edit.
    pub pre: Metrics,
    /// Number of the request.
    pub case_id: usize,
    /// The request, as EasyEdit writes it.
    #[serde(serialize_with = "easyedit_form")]
    pub requested_rewrite: EditRequest,
    /// Seconds of the edit alone, without evaluation; of the whole batch in batch mode.
    pub time: f64,
    /// Scores right after the edit.
    pub post: Metrics,
    /// Scores after the last edit of a sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_final: Option<Metrics>,
    /// The same scores by free greedy decoding.
    #[serde(skip_serializing_if = "FreeDecoding::is_empty")]
    pub free_decoding: FreeDecoding,
    /// Peak memory of the process during the edit, in 10^6 bytes; absent where the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_mb: Option<f64>,
    /// Seed of the edit.
    pub seed: u64,
    /// Why the request could not be edited; the model is then as it was before the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Record {
    /// Whether the request was edited and measured, and not answered in full before.
    pub(crate) fn could_move(&self) -> bool {
        let answered = |metrics: &Metrics| metrics.rewrite_acc.iter().all(|score| *score >= 1.0);
        self.error.is_none() && !self.post.rewrite_acc.is_empty() && !(answered(&self.pre) && answered(&self.free_decoding.pre))
    }

    /// Whether every score is as before, and every neighbour is answered as before.
    pub(crate) fn moved_nothing(&self) -> bool {
        let same = |pre: &Metrics, post: &Metrics| {
            let kept = post.locality.iter().flatten().all(|(_, scores)| scores.iter().all(|score| *score >= 1.0));
            let answers = |m: &Metrics| (m.rewrite_acc.clone(), m.rephrase_acc.clone(), m.portability.clone());
            kept && answers(pre) == answers(post)
        };
        same(&self.pre, &self.post) && same(&self.free_decoding.pre, &self.free_decoding.post)
    }
}

/// Scores by free greedy decoding, before and after.
///
/// Values are 0 or 1: the continuation begins with the answer in whole words; for locality, as many tokens as the ground truth has
/// are continued alike before and after.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FreeDecoding {
    /// Of the model before the first edit.
    pub pre: Metrics,
    /// Right after the edit.
    pub post: Metrics,
    /// After the last edit of a sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_final: Option<Metrics>,
}

impl FreeDecoding {
    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn easyedit_form<S: Serializer>(request: &EditRequest, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = Map::new();
    map.insert("prompt".into(), json!(request.filled_prompt()));
    map.insert("target_new".into(), json!(request.target_new));
    let optional = [("ground_truth", &request.ground_truth), ("subject", &request.subject)];
    for (key, value) in optional {
        if let Some(value) = value {
            map.insert(key.into(), json!(value));
        }
    }
    match request.rephrase_prompts.as_slice() {
        [] => {}
        [one] => _ = map.insert("rephrase_prompt".into(), json!(one)),
        more => _ = map.insert("rephrase_prompt".into(), json!(more)),
    }
    map.insert("portability".into(), prompts_form(&request.portability));
    map.insert("locality".into(), prompts_form(&request.locality));
    map.serialize(serializer)
}

/// One prompt as two strings, several as two lists.
fn prompts_form(prompts: &BTreeMap<String, Vec<EvaluationPrompt>>) -> Value {
    let entry = |prompts: &Vec<EvaluationPrompt>| match prompts.as_slice() {
        [one] => json!({ "prompt": one.prompt, "ground_truth": one.ground_truth }),
        many => json!({
            "prompt": many.iter().map(|p| &p.prompt).collect::<Vec<_>>(),
            "ground_truth": many.iter().map(|p| &p.ground_truth).collect::<Vec<_>>(),
        }),
    };
    Value::Object(prompts.iter().map(|(name, prompts)| (name.clone(), entry(prompts))).collect())
}
