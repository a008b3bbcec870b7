//! Files a stranger made: whatever they hold, reading ends with requests or with an error that names the file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit_data::{read_corpus, read_dataset};
use proptest::prelude::*;
use serde_json::{Map, Value};

const KEYS: &[&str] = &[
    "prompt",
    "target_new",
    "ground_truth",
    "subject",
    "case_id",
    "rephrase_prompt",
    "locality",
    "portability",
    "locality_prompt",
    "locality_ground_truth",
    "src",
    "alt",
    "answers",
    "loc",
    "loc_ans",
    "requested_rewrite",
    "target_true",
    "str",
    "paraphrase_prompts",
    "neighborhood_prompts",
    "unrelated_relation",
    "question",
    "object",
    "alternative_subject",
    "New Question",
    "New Answer",
    "inverse question",
    "text",
    "labels",
    "concept",
    "facts",
    "name",
];

/// Values built of the keys that mean something, in places where they mean nothing.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,6}|\\{\\}|.{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(KEYS), inner), 0..8)
                .prop_map(|entries| Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>())),
        ]
    })
}

#[test]
fn deep_nesting_and_numbers_beyond_all_bounds_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let digits = "9".repeat(1 << 20);
    for text in [
        "[".repeat(1 << 20),
        "{\"facts\": ".repeat(1 << 18),
        format!("[{{\"prompt\": {}\"x\"{}, \"target_new\": \"y\"}}]", "[".repeat(200_000), "]".repeat(200_000)),
        format!("[{{\"prompt\": \"x\", \"target_new\": \"y\", \"case_id\": {digits}}}]"),
        format!("[{{\"prompt\": \"x\", \"target_new\": \"y\", \"case_id\": 1.{digits}}}]"),
        "[{\"prompt\": \"x\", \"target_new\": \"y\", \"case_id\": 1e999999999}]".to_owned(),
        "[{\"prompt\": \"x\", \"target_new\": \"y\", \"case_id\": -1}]".to_owned(),
    ] {
        let path = dir.path().join("requests.json");
        std::fs::write(&path, &text).unwrap();
        let message = read_dataset(&path).unwrap_err().to_string();
        assert!(message.contains("requests.json") && message.len() < 2_000_000, "{message:.200}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["facts.json", "text.txt"] {
        let path = dir.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        for message in [read_dataset(&path).unwrap_err().to_string(), read_corpus(&path).unwrap_err().to_string()] {
            assert!(message.contains(name) && message.contains("a pipe or a device"), "{message}");
        }
    }
    assert!(read_corpus(std::path::Path::new("/dev/zero")).is_err());
    assert!(read_corpus(dir.path()).unwrap_err().to_string().contains("no files of text"), "pipes in a folder are passed over");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_gives_requests_or_a_named_error(value in value(), cut in 0usize..400) {
        let dir = tempfile::tempdir().unwrap();
        let text = value.to_string();
        let cut = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= cut).last().unwrap_or(0);
        for (name, text) in [("whole.json", text.as_str()), ("cut.json", &text[..cut])] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            match read_dataset(&path) {
                Ok(dataset) => for request in dataset.requests() {
                    prop_assert!(!request.target_new.trim().is_empty());
                    for prompts in request.locality.values().chain(request.portability.values()) {
                        prop_assert!(prompts.iter().all(|p| !p.prompt.trim().is_empty() && !p.ground_truth.trim().is_empty()));
                    }
                },
                Err(error) => prop_assert!(error.to_string().contains(name), "{}", error),
            }
            if let Err(error) = read_corpus(&path) {
                prop_assert!(error.to_string().contains(name), "{}", error);
            }
        }
    }

    #[test]
    fn any_bytes_give_a_corpus_or_a_named_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("corpus.txt");
        std::fs::write(&path, &bytes).unwrap();
        match read_corpus(&path) {
            Ok(documents) => prop_assert!(!documents.is_empty() && documents.iter().all(|d| !d.trim().is_empty())),
            Err(error) => prop_assert!(error.to_string().contains("corpus.txt")),
        }
    }
}
