//! Every format, from the samples in the repository; and files that are none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use easyedit_core::{EditRequest, EvaluationPrompt};
use easyedit_data::{read_dataset, read_requests};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sample(name: &str) -> Vec<EditRequest> {
    read_requests(&root().join("data/samples").join(name)).unwrap()
}

fn prompt(prompt: &str, ground_truth: &str) -> EvaluationPrompt {
    EvaluationPrompt { prompt: prompt.into(), ground_truth: ground_truth.into() }
}

#[test]
fn reads_flat_counterfact() {
    let requests = sample("counterfact-flat.json");
    assert_eq!(requests.len(), 2);
    let first = &requests[0];
    assert_eq!((first.case_id, first.prompt.as_str(), first.target_new.as_str()), (7, "The mother tongue of Ada Quill is", "Welsh"));
    assert_eq!((first.subject.as_deref(), first.ground_truth.as_deref()), (Some("Ada Quill"), Some("French")));
    assert_eq!(first.rephrase_prompt.as_deref(), Some("Where Ada Quill is from, people speak"));
    assert_eq!(first.locality["neighborhood"], [prompt("The mother tongue of Jean Roux is", "French")]);
    assert!(first.portability.is_empty());
}

#[test]
fn reads_zsre_keeping_the_subject_and_leaving_out_empty_targets() {
    let dataset = read_dataset(&root().join("data/samples/zsre.json")).unwrap();
    assert_eq!((dataset.requests.len(), dataset.skipped), (2, 1));
    let first = &dataset.requests[0];
    assert_eq!((first.case_id, first.target_new.as_str(), first.subject.as_deref()), (0, "Bo Fenn", Some("Mill Bridge")));
    assert_eq!(first.ground_truth.as_deref(), Some("Cy Hart"));
    assert_eq!(first.locality["neighborhood"], [prompt("nq question: who wrote the song blue rain", "Dee Lane")]);
    assert_eq!(first.portability["one_hop"], [prompt("What nationality is the designer of Mill Bridge?", "Irish")]);
    let last = &dataset.requests[1];
    assert_eq!(last.case_id, 2, "the index in the file, not among those kept");
    assert_eq!(last.portability["inverse_relation"], [prompt("Whose spouse is Fay Hart?", "Bo Fenn")]);
    assert_eq!(last.portability["subject_replace"], [prompt("Who is Robert Fenn married to?", "Fay Hart")]);
}

#[test]
fn reads_the_original_counterfact() {
    let requests = sample("counterfact-original.json");
    let first = &requests[0];
    assert_eq!(first.prompt, "The mother tongue of Ada Quill is");
    assert_eq!((first.target_new.as_str(), first.ground_truth.as_deref()), ("Welsh", Some("French")));
    assert_eq!(first.rephrase_prompt.as_deref(), Some("It rained all day. Ada Quill spoke the language"));
    let names: Vec<&str> = first.locality.keys().map(String::as_str).collect();
    assert_eq!(names, ["distracting_neighbor", "neighborhood", "other_attribution"]);
    assert_eq!(first.locality["neighborhood"].len(), 2);
    assert_eq!(first.locality["other_attribution"], [prompt("Ada Quill was born in", "Lyon")]);
    assert_eq!(first.portability["subject_replace"], [prompt("The mother tongue of A. Quill is", "Welsh")]);
    assert_eq!(first.portability["one_hop"], [prompt("Ada Quill's mother tongue is spoken in", "Wales")]);
}

#[test]
fn reads_knowedit_with_the_first_of_each_alias_list() {
    let requests = sample("knowedit.json");
    let first = &requests[0];
    assert_eq!(first.ground_truth.as_deref(), Some("Jon Lake"));
    assert_eq!(first.locality["Relation_Specificity"], [prompt("Reed Warbler Inn was built in", "1901")]);
    assert_eq!(first.locality.len(), 1, "a name without a prompt that can be scored is not kept");
    assert_eq!(first.portability["Reasoning"], [prompt("The owner of Reed Warbler Inn was born in", "Dunmore")]);
    assert_eq!(first.portability["Subject_Aliasing"], [prompt("The owner of the Warbler is", "Ivy Stone")]);
    let bio = &requests[1];
    assert_eq!((bio.case_id, bio.subject.as_deref(), bio.target_new.as_str()), (1, Some("sam reed"), "He was born in Dunmore."));
}

#[test]
fn reads_request_dicts_from_json_lines() {
    let requests = sample("requests.jsonl");
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].locality["neighborhood"], [prompt("The capital of Sudland is", "Mere")]);
    let hops = [prompt("The mayor of Norland's capital is", "Ivy Stone"), prompt("The river of Norland's capital is", "Orrin")];
    assert_eq!(requests[0].portability["one_hop"], hops);
    assert_eq!(requests[1].filled_prompt(), "The largest lake of Sudland is");
    assert_eq!(requests[1].case_id, 1);
}

#[test]
fn reads_the_facts_of_causal_tracing() {
    let requests = read(
        r#"[{"known_id": 4, "subject": "Mill Bridge", "attribute": "Fenland", "template": "{} is in", "prediction": " Fenland.",
             "prompt": "Mill Bridge is in", "relation_id": "P17"}]"#,
    );
    let want = EditRequest { ground_truth: Some("Fenland".into()), ..EditRequest::new("Mill Bridge is in", "Mill Bridge", "Fenland") };
    assert_eq!(requests.unwrap(), [EditRequest { case_id: 4, ..want }]);
}

#[test]
fn reads_facts_one_record_and_a_byte_order_mark() {
    let one = r#"{"prompt": "A is", "target_new": "B", "case_id": "12"}"#;
    for text in [format!(r#"{{"model": "m", "facts": [{one}]}}"#), one.to_owned(), format!("\u{feff}[{one}]")] {
        assert_eq!(read(&text).unwrap()[0].case_id, 12, "{text}");
    }
}

fn read(text: &str) -> Result<Vec<EditRequest>, String> {
    read_bytes(text.as_bytes())
}

fn read_bytes(bytes: &[u8]) -> Result<Vec<EditRequest>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("facts.json");
    std::fs::write(&path, bytes).unwrap();
    read_requests(&path).map_err(|e| e.to_string())
}

#[test]
fn errors_name_the_file_the_record_and_the_key() {
    let good = r#"{"prompt": "A is", "target_new": "B"}"#;
    for (record, parts) in [
        (r#"{"prompt": "A is"}"#, &["record 1", "target_new", "missing"][..]),
        (r#"{"target_new": "B"}"#, &["record 1", "prompt", "missing"]),
        (r#"{"prompt": {"x": 1}, "target_new": "B"}"#, &["record 1", "prompt", "object"]),
        (r#"{"prompt": "A is", "target_new": true}"#, &["record 1", "target_new"]),
        (r#"{"prompt": "A is", "target_new": "B", "case_id": -1}"#, &["record 1", "case_id", "-1"]),
        (r#"{"prompt": "A is", "target_new": "B", "case_id": "x"}"#, &["record 1", "case_id"]),
        (r#"{"prompt": "A is", "target_new": "B", "locality": []}"#, &["record 1", "locality"]),
        (r#"{"prompt": "A is", "target_new": "B", "locality": {"n": [{"ground_truth": "x"}]}}"#, &["locality.n", "entry 0", "prompt"]),
        (
            r#"{"prompt": "A is", "target_new": "B", "locality": {"n": {"prompt": ["x", "y"], "ground_truth": ["z"]}}}"#,
            &["2 prompts and 1"],
        ),
        (r#"{"prompt": "A is", "target_new": "B", "portability": {"n": 3}}"#, &["portability.n"]),
        (r#"{"requested_rewrite": {"prompt": "{} is", "subject": "A"}}"#, &["requested_rewrite", "target_new", "missing"]),
        (r#"{"requested_rewrite": []}"#, &["requested_rewrite", "0 rewrites"]),
        (r#"{"src": 4, "alt": {}}"#, &["record 1", "alt"]),
        (r#"{"question": "?"}"#, &["record 1", "no known format", "question"]),
        ("[]", &["record 1", "not an object"]),
    ] {
        let message = read(&format!("[{good}, {record}]")).unwrap_err();
        assert!(message.contains("facts.json") && parts.iter().all(|part| message.contains(part)), "{record}: {message}");
    }
}

#[test]
fn files_that_hold_no_records_are_errors() {
    let deep = "[".repeat(100_000);
    for (text, part) in [
        ("", "not JSON"),
        ("[]", "no records"),
        ("3", "neither a JSON array"),
        ("[{\"prompt\": ", "not JSON"),
        ("{\"facts\": 3}", "facts"),
        ("{\"prompt\": \"A\", \"target_new\": \"B\"}\n{\"prompt\"", "line 2"),
        (r#"[{"prompt": "A is", "target_new": " "}]"#, "empty target"),
        (deep.as_str(), "not JSON"),
    ] {
        let message = read(text).unwrap_err();
        assert!(message.contains("facts.json") && message.contains(part), "{message}");
    }
    assert!(read_bytes(&[b'[', 0xff, 0xfe]).unwrap_err().contains("UTF-8"));
    assert!(read_requests(Path::new("nowhere/facts.json")).unwrap_err().to_string().contains("nowhere"));
    assert!(read_requests(&root()).unwrap_err().to_string().contains("not a file"));
}

/// The public sets, whole, where they lie beside the repository.
#[test]
fn reads_the_shared_sets() {
    let shared = std::env::var_os("EASYEDIT_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    if !shared.is_dir() {
        eprintln!("skipped: the shared data sets are not beside the repository ({} is no folder)", shared.display());
        return;
    }
    for (file, records) in [
        ("counterfact/counterfact-edit.json", 9700),
        ("counterfact/counterfact-val.json", 1919),
        ("zsre/zsre_knowedit_test.json", 868),
        ("zsre/zsre_mend_train.json", 900),
        ("knowedit/wikibio_test.json", 74),
        ("smollm2_facts.json", 20),
    ] {
        let dataset = read_dataset(&shared.join("data").join(file)).unwrap();
        assert_eq!(dataset.requests.len() + dataset.skipped, records, "{file}");
        assert!(dataset.requests.iter().all(|r| !r.locality.is_empty() || file.contains("wikibio")), "{file}");
    }
}
