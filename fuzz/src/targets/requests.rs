//! Files of facts and of text.

use easyedit::CheckedRequest;
use easyedit::data::{read_corpus, read_dataset};
use easyedit::tokens::FactToken;

use super::seed;
use crate::scratch::{file, folder};
use crate::small_model::model;

/// Facts of a file that are used.
const USED: usize = 20;

pub(super) fn run(data: &[u8]) -> bool {
    let path = folder("requests");
    let records = file(&path, "records.json", data);
    let dataset = read_dataset(&records);
    if let Ok(dataset) = &dataset {
        for request in dataset.requests().take(USED) {
            let _ = request.filled_prompt();
            let checked = CheckedRequest::new(request.clone());
            if let Ok(prompt) = checked.as_ref().map_err(|_| ()).and_then(|checked| checked.subject().map_err(|_| ())) {
                for token in [FactToken::SubjectFirst, FactToken::SubjectLast, FactToken::Last] {
                    let _ = prompt.in_context("Yes. {}").encode_with_target(model().tokenizer(), token, &request.target_new);
                }
            }
        }
    }
    let of_records = read_corpus(&records).is_ok();
    read_corpus(&file(&path, "text.txt", data)).is_ok() && (of_records || dataset.is_ok() || !matches!(data.first(), Some(b'[' | b'{')))
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let own = r#"[{"case_id": 3, "prompt": "{} is in", "subject": "The Louvre", "target_new": "Rome", "ground_truth": "Paris",
        "rephrase_prompt": "Where is the Louvre?", "locality": {"near": {"prompt": ["Oslo is in"], "ground_truth": ["Norway"]}},
        "portability": {"hop": {"prompt": "It is", "ground_truth": "x"}}}]"#;
    let counterfact = r#"[{"case_id": 0, "requested_rewrite": {"prompt": "{} speaks", "relation_id": "P103", "target_new": {"str": "English", "id": "Q1"},
        "target_true": {"str": "French", "id": "Q2"}, "subject": "Danielle"}, "paraphrase_prompts": ["a. Danielle, a native"],
        "neighborhood_prompts": ["Léon speaks"], "attribute_prompts": ["Jean speaks"], "generation_prompts": ["She"]}]"#;
    let zsre = r#"{"subject": "Watts", "src": "Who built Watts?", "pred": "Dorothy", "rephrase": "Who made Watts?", "alt": "Lanier", "answers": ["Huang"],
        "loc": "nq question: who played desmond?", "loc_ans": "Nathan", "cond": "Huang >> Lanier", "portability": {"New Question": "x?", "New Answer": "y"}}"#;
    let knowedit = r#"[{"subject": "Leo", "prompt": "Leo is a citizen of", "target_new": "Syria", "portability": {"Logical_Generalization": [
        {"prompt": "Is Leo human?", "ground_truth": [["yes"]]}]}, "locality": {"Relation_Specificity": [{"prompt": "x is", "ground_truth": [["b", "c"]]}]}}]"#;
    let wikibio = r#"[{"text": "This is about {x}", "labels": "A text.", "concept": "x", "locality": {}}]"#;
    let traced = r#"{"known_id": 0, "subject": "Vinson", "attribute": "Antarctica", "template": "{} is in", "prompt": "Vinson is in", "prediction": " A"}"#;
    vec![
        seed("own", own),
        seed("counterfact", counterfact),
        seed("zsre", zsre),
        seed("knowedit", knowedit),
        seed("wikibio", wikibio),
        seed("trace", format!("{traced}\n{traced}\n")),
        seed("facts", r#"{"facts": [{"prompt": "a b c", "subject": "b", "target_new": "d"}]}"#),
        seed("text", "One document\nof two lines.\n\nAnother.\n"),
        seed("strings", r#"["one text", {"text": "another"}]"#),
    ]
}
