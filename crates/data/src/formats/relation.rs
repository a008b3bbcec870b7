use easyedit_core::EditRequest;
use serde_json::Value;

use super::Record;
use crate::value::{list, required};

/// The facts of a relation of LRE (Hernandez et al. 2024): what is true is the answer, before an edit and after. The first template is the
/// prompt, the others are its other wordings.
pub(super) fn requests(record: &Record) -> Result<Vec<EditRequest>, String> {
    let mut templates = Vec::new();
    for key in ["prompt_templates", "prompt_templates_zs"] {
        templates.extend(record.get(key).map_or(Ok(Vec::new()), list).map_err(|e| format!("{key}: {e}"))?);
    }
    let Some((first, others)) = templates.split_first() else { return Err("prompt_templates: is empty".into()) };
    let Some(Value::Array(samples)) = record.get("samples") else { return Err("samples: is not a list".into()) };
    let sample = |(index, sample): (usize, &Value)| {
        let within = |e: String| format!("samples: entry {index}: {e}");
        let Value::Object(sample) = sample else { return Err(within("is not an object".into())) };
        let (subject, object) = (required(sample, "subject").map_err(within)?, required(sample, "object").map_err(within)?);
        let fill = |template: &String| template.replacen("{}", &subject, 1);
        Ok(EditRequest {
            case_id: index,
            prompt: fill(first),
            rephrase_prompts: others.iter().filter(|other| *other != first).map(fill).collect(),
            ground_truth: Some(object.clone()),
            target_new: object,
            subject: Some(subject),
            ..EditRequest::default()
        })
    };
    samples.iter().enumerate().map(sample).collect()
}
