//! Requests in the formats of the field's datasets.

use easyedit_core::{EditRequest, EvaluationPrompt};
use serde_json::{Value, json};

/// In the keys of EasyEdit's zsRE files with portability.
pub(crate) fn zsre(request: &EditRequest) -> Value {
    let neighbour = request.locality.values().flatten().next();
    let mut record = json!({
        "case_id": request.case_id,
        "subject": request.subject,
        "src": request.prompt,
        "rephrase": request.rephrase_prompts.first(),
        "pred": request.ground_truth,
        "answers": [request.ground_truth],
        "alt": request.target_new,
        "loc": neighbour.map(|n| &n.prompt),
        "loc_ans": neighbour.map(|n| &n.ground_truth),
    });
    let first = |kind: &str| -> Option<&EvaluationPrompt> { request.portability.get(kind)?.first() };
    if let Some(hop) = first("Reasoning") {
        record["portability"] = json!({"New Question": hop.prompt, "New Answer": hop.ground_truth});
    }
    if let Some(inverse) = first("Logical_Generalization") {
        record["inverse question"] = json!(inverse.prompt);
    }
    if let Some(alias) = first("Subject_Aliasing") {
        record["alter_subject_question"] = json!(alias.prompt);
    }
    record
}

/// In the keys of EasyEdit's CounterFact files.
pub(crate) fn counterfact(request: &EditRequest) -> Value {
    let neighbour = request.locality.values().flatten().next();
    json!({
        "case_id": request.case_id,
        "prompt": request.prompt,
        "target_new": request.target_new,
        "subject": request.subject,
        "ground_truth": request.ground_truth,
        "rephrase_prompt": request.rephrase_prompts.first(),
        "locality_prompt": neighbour.map(|n| &n.prompt),
        "locality_ground_truth": neighbour.map(|n| &n.ground_truth),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::World;

    #[test]
    fn every_kind_of_portability_is_carried_over() {
        let requests = World::new(1).requests();
        let with = |kind: &str| requests.iter().find(|r| r.portability.contains_key(kind)).unwrap();
        let hop = with("Reasoning");
        assert_eq!(zsre(hop)["portability"]["New Question"], json!(hop.portability["Reasoning"][0].prompt));
        assert_eq!(zsre(hop)["portability"]["New Answer"], json!(hop.portability["Reasoning"][0].ground_truth));
        let inverse = with("Logical_Generalization");
        assert_eq!(zsre(inverse)["inverse question"], json!(inverse.portability["Logical_Generalization"][0].prompt));
        let alias = with("Subject_Aliasing");
        assert_eq!(zsre(alias)["alter_subject_question"], json!(alias.portability["Subject_Aliasing"][0].prompt));
        assert_eq!(counterfact(hop)["locality_prompt"], zsre(hop)["loc"]);
    }
}
