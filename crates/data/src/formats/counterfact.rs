use easyedit_core::EditRequest;
use serde_json::Value;

use super::prompts::{add, one_hop};
use super::{NEIGHBORHOOD, Record, target};
use crate::value::{list, optional, required};

/// The original CounterFact, with the additions of EasyEdit's locality and portability sets.
pub(super) fn request(record: &Record) -> Result<EditRequest, String> {
    let inside = |e: String| format!("requested_rewrite: {e}");
    let rewrite = match record.get("requested_rewrite") {
        Some(Value::Object(rewrite)) => rewrite,
        Some(Value::Array(rewrites)) => match rewrites.as_slice() {
            [Value::Object(rewrite)] => rewrite,
            _ => return Err(inside(format!("holds {} rewrites where one should be", rewrites.len()))),
        },
        _ => return Err(inside("is not an object".into())),
    };
    let mut request = self::rewrite(rewrite).map_err(inside)?;
    let template = required(rewrite, "prompt").map_err(inside)?;
    let texts = |key: &str| record.get(key).map_or(Ok(Vec::new()), list).map_err(|e| format!("{key}: {e}"));
    let (new, truth) = (vec![request.target_new.clone()], Vec::from_iter(request.ground_truth.clone()));
    for (name, key, answer) in [
        (NEIGHBORHOOD, "neighborhood_prompts", &truth),
        ("distracting_neighbor", "distracting_neighborhood_prompts", &truth),
        // Of other subjects, of whom the new answer is true already.
        ("attribute", "attribute_prompts", &new),
    ] {
        for prompt in texts(key)? {
            add(&mut request.locality, name, Some(prompt), answer.clone());
        }
    }
    if let Some(Value::Object(other)) = record.get("unrelated_relation") {
        let within = |e: String| format!("unrelated_relation: {e}");
        let (question, object) = (optional(other, "question").map_err(within)?, optional(other, "object").map_err(within)?);
        add(&mut request.locality, "other_attribution", question, object.into_iter().collect());
    }
    one_hop(record, &mut request.portability)?;
    let alternative = optional(record, "alternative_subject")?.map(|alternative| template.replacen("{}", &alternative, 1));
    add(&mut request.portability, "subject_replace", alternative, new);
    request.rephrase_prompts = texts("paraphrase_prompts")?;
    request.generation_prompts = texts("generation_prompts")?;
    Ok(request)
}

/// The fact of a `requested_rewrite`, with the template filled in.
pub(super) fn rewrite(rewrite: &Record) -> Result<EditRequest, String> {
    let subject = required(rewrite, "subject")?;
    let (target_new, target_new_aliases) = target(rewrite, "target_new")?;
    Ok(EditRequest {
        prompt: required(rewrite, "prompt")?.replacen("{}", &subject, 1),
        subject: Some(subject),
        target_new,
        target_new_aliases,
        ground_truth: optional(rewrite, "target_true")?,
        ..EditRequest::default()
    })
}
