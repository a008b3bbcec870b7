//! Every format, from the samples in the repository; and files that are none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use easyedit_core::{EditRequest, EvaluationPrompt};
use easyedit_data::{Format, inspect, read_dataset, read_requests};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sample(name: &str) -> Vec<EditRequest> {
    read_requests(&root().join("data/samples").join(name)).unwrap()
}

fn prompt(prompt: &str, ground_truth: &str) -> EvaluationPrompt {
    EvaluationPrompt::new(prompt, ground_truth)
}

fn with_alias(text: &str, ground_truth: &str, alias: &str) -> EvaluationPrompt {
    EvaluationPrompt { aliases: vec![alias.into()], ..prompt(text, ground_truth) }
}

#[test]
fn reads_flat_counterfact() {
    let requests = sample("counterfact-flat.json");
    assert_eq!(requests.len(), 2);
    let first = &requests[0];
    assert_eq!((first.case_id, first.prompt.as_str(), first.target_new.as_str()), (7, "The mother tongue of Ada Quill is", "Welsh"));
    assert_eq!((first.subject.as_deref(), first.ground_truth.as_deref()), (Some("Ada Quill"), Some("French")));
    assert_eq!(first.rephrase_prompts, ["Where Ada Quill is from, people speak"]);
    assert_eq!(first.locality["neighborhood"], [prompt("The mother tongue of Jean Roux is", "French")]);
    assert!(first.portability.is_empty());
}

#[test]
fn reads_zsre_keeping_the_subject_and_leaving_out_empty_targets() {
    let dataset = read_dataset(&root().join("data/samples/zsre.json")).unwrap();
    assert_eq!((dataset.records.len(), dataset.without_target), (2, 1));
    let first = &dataset.records[0].requests[0];
    assert_eq!((first.case_id, first.target_new.as_str(), first.subject.as_deref()), (0, "Bo Fenn", Some("Mill Bridge")));
    assert_eq!(first.ground_truth.as_deref(), Some("Cy Hart"));
    assert_eq!(first.locality["neighborhood"], [prompt("nq question: who wrote the song blue rain", "Dee Lane")]);
    assert_eq!(first.portability["one_hop"], [prompt("What nationality is the designer of Mill Bridge?", "Irish")]);
    let last = &dataset.records[1].requests[0];
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
    assert_eq!(first.rephrase_prompts, ["It rained all day. Ada Quill spoke the language", "Where Ada Quill is from, people speak"]);
    let names: Vec<&str> = first.locality.keys().map(String::as_str).collect();
    assert_eq!(names, ["attribute", "distracting_neighbor", "neighborhood", "other_attribution"]);
    assert_eq!(first.locality["attribute"], [prompt("The mother tongue of Gwen Rees is", "Welsh")]);
    assert_eq!(first.generation_prompts, ["Ada Quill's mother tongue is"]);
    assert_eq!(first.locality["neighborhood"].len(), 2);
    assert_eq!(first.locality["other_attribution"], [prompt("Ada Quill was born in", "Lyon")]);
    assert_eq!(first.portability["subject_replace"], [prompt("The mother tongue of A. Quill is", "Welsh")]);
    assert_eq!(first.portability["one_hop"], [prompt("Ada Quill's mother tongue is spoken in", "Wales")]);
}

#[test]
fn reads_knowedit_with_all_aliases() {
    let requests = sample("knowedit.json");
    let first = &requests[0];
    assert_eq!(first.ground_truth.as_deref(), Some("Jon Lake"));
    assert_eq!(first.locality["Relation_Specificity"], [with_alias("Reed Warbler Inn was built in", "1901", "the year 1901")]);
    assert_eq!(first.locality.len(), 1, "a name without a prompt that can be scored is not kept");
    assert_eq!(first.portability["Reasoning"], [with_alias("The owner of Reed Warbler Inn was born in", "Dunmore", "Dun More")]);
    assert_eq!(first.portability["Subject_Aliasing"], [prompt("The owner of the Warbler is", "Ivy Stone")]);
    let bio = &requests[1];
    assert_eq!((bio.case_id, bio.subject.as_deref(), bio.target_new.as_str()), (1, Some("sam reed"), "He was born in Dunmore."));
}

#[test]
fn reads_request_dicts_from_json_lines() {
    let requests = sample("requests.jsonl");
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].locality["neighborhood"], [prompt("The capital of Sudland is", "Mere")]);
    let hops =
        [prompt("The mayor of Norland's capital is", "Ivy Stone"), with_alias("The river of Norland's capital is", "Orrin", "the Orrin")];
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

fn read_strictly(text: &str) -> Result<Vec<EditRequest>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("facts.json");
    std::fs::write(&path, text).unwrap();
    let dataset = read_dataset(&path).and_then(|dataset| dataset.strict(&path)).map_err(|e| e.to_string())?;
    Ok(dataset.requests().cloned().collect())
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
        (r#"{"body": "?"}"#, &["record 1", "no known format", "body"]),
        (r#"{"question": "?"}"#, &["record 1", "questions with answers", "no new answers"]),
        (r#"{"goal": "x", "sol1": "y", "sol2": "z"}"#, &["record 1", "PIQA"]),
        (r#"{"src": "x", "alt": "y", "image": "z.jpg"}"#, &["record 1", "E-VQA", "pictures"]),
        ("[]", &["record 1", "not an object"]),
    ] {
        let text = format!("[{good}, {record}]");
        assert_eq!(read(&text).unwrap().len(), 1, "the good record is used");
        let message = read_strictly(&text).unwrap_err();
        assert!(message.contains("facts.json") && parts.iter().all(|part| message.contains(part)), "{record}: {message}");
    }
}

#[test]
fn the_good_records_of_a_broken_file_are_used() {
    let good = r#"{"prompt": "A is", "target_new": "B"}"#;
    for (text, records, part) in [
        (format!("{good}\n{{\"prompt\"\n{good}"), 2, "line 2"),
        (format!("[{good}, {good}, {{\"prompt\": \"A"), 2, "what follows in the file is lost"),
        (format!("[{good}, 3, {good}]"), 2, "not an object"),
    ] {
        assert_eq!(read(&text).unwrap().len(), records, "{text}");
        let message = read_strictly(&text).unwrap_err();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn reads_tables_and_lists_of_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("facts.csv");
    std::fs::write(&path, "prompt,subject,target\n\"A, the first, is\",A,B\nC is,,D\n").unwrap();
    let requests = read_requests(&path).unwrap();
    assert_eq!(requests[0], EditRequest::new("A, the first, is", "A", "B"));
    assert_eq!(requests[1], EditRequest { case_id: 1, subject: None, ..EditRequest::new("C is", "", "D") });
    let columns = r#"{"prompts": ["A is", "C is"], "target_new": ["B", "D"], "subject": ["A", "C"], "rephrase_prompts": ["So A is", null],
        "locality_inputs": {"neighborhood": {"prompt": [["E is", "G is"], "H is"], "ground_truth": [["F", "f"], ["I", "i"]]}}}"#;
    let requests = read(columns).unwrap();
    assert_eq!((requests.len(), requests[0].rephrase_prompts.as_slice()), (2, &["So A is".to_owned()][..]));
    assert_eq!(requests[0].locality["neighborhood"], [prompt("E is", "F"), prompt("G is", "f")]);
    assert_eq!(requests[1].locality["neighborhood"], [with_alias("H is", "I", "i")]);
    assert_eq!((requests[1].case_id, requests[1].subject.as_deref()), (1, Some("C")));
    let message = read(&columns.replace(r#""target_new": ["B", "D"]"#, r#""target_new": ["B"]"#)).unwrap_err();
    assert!(message.contains("target_new") && message.contains("1 entries for 2 prompts"), "{message}");
}

#[test]
fn reads_several_facts_of_a_record_with_the_questions_that_need_all_of_them() {
    let rewrite = |subject: &str, target: &str| {
        format!(
            r#"{{"prompt": "The home of {{}} is", "subject": "{subject}", "target_new": {{"str": "{target}"}}, "target_true": {{"str": "Old"}},
                "question": "Where is the home of {subject}?"}}"#
        )
    };
    let text = format!(
        r#"[{{"case_id": 5, "requested_rewrite": [{}, {}], "questions": ["q1", "q2"], "new_answer": "N", "new_answer_alias": ["n", "N"],
            "new_single_hops": [{{"question": "h", "answer": "H", "answer_alias": []}}]}}]"#,
        rewrite("Ada", "Rome"),
        rewrite("Rome", "N")
    );
    let requests = read(&text).unwrap();
    assert_eq!(
        requests.iter().map(|r| (r.case_id, r.prompt.as_str())).collect::<Vec<_>>(),
        [(5, "The home of Ada is"), (5, "The home of Rome is")]
    );
    assert_eq!(requests[0].rephrase_prompts, ["Where is the home of Ada?"]);
    assert!(requests[0].portability.is_empty());
    assert_eq!(requests[1].portability["multi_hop"], [with_alias("q1", "N", "n"), with_alias("q2", "N", "n")]);
    assert_eq!(requests[1].portability["single_hop"], [prompt("h", "H")]);
}

#[test]
fn files_that_hold_no_records_are_errors() {
    let deep = "[".repeat(100_000);
    for (text, part) in [
        ("", "is empty"),
        ("[]", "no records"),
        ("3", "neither a JSON array"),
        ("[{\"prompt\": ", "not JSON"),
        ("{\"facts\": 3}", "facts"),
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

/// The public sets, whole, where they lie beside the repository: records, facts, prompts in other words, and prompts of locality and portability.
#[test]
fn reads_the_shared_sets() {
    let shared = std::env::var_os("EASYEDIT_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    if !shared.is_dir() {
        eprintln!("skipped: the shared data sets are not beside the repository ({} is no folder)", shared.display());
        return;
    }
    for (file, format, counts) in [
        ("counterfact/counterfact-edit.json", Format::Requests, [9700, 9700, 9700, 9700, 0]),
        ("counterfact/counterfact-train-2000.json", Format::Requests, [2000, 2000, 2000, 2000, 0]),
        ("counterfact/counterfact-val.json", Format::Requests, [1919, 1919, 1919, 1919, 0]),
        // Two have an empty target.
        ("zsre/zsre_mend_train.json", Format::Zsre, [898, 900, 898, 898, 0]),
        ("known_1000/known_1000.json", Format::Known, [1209, 1209, 0, 0, 0]),
        ("smollm2_facts.json", Format::Requests, [20, 20, 20, 20, 0]),
    ] {
        let dataset = read_dataset(&shared.join("data").join(file)).unwrap().strict(Path::new(file)).unwrap();
        assert_eq!(dataset.format, format, "{file}");
        let sum = |of: &dyn Fn(&EditRequest) -> usize| dataset.requests().map(of).sum::<usize>();
        let found = [
            dataset.records.len(),
            dataset.requests().count() + dataset.without_target,
            sum(&|r| r.rephrase_prompts.len()),
            sum(&|r| r.locality.values().map(Vec::len).sum()),
            sum(&|r| r.portability.values().map(Vec::len).sum()),
        ];
        assert_eq!(found, counts, "{file}");
    }
    for (file, format, records) in [
        ("me_ppl/ME-PPL_1k.json", Format::Texts, 1000),
        ("multimodal/vqa_eval.json", Format::Pictures, 2093),
        ("multimodal/vqa_train-2000.json", Format::Pictures, 2000),
        ("multimodal/caption_eval_edit.json", Format::Pictures, 1000),
        ("multimodal/caption_train_edit-2000.json", Format::Pictures, 2000),
    ] {
        let path = shared.join("data").join(file);
        let found = inspect(&path, 1).unwrap();
        assert_eq!((found.format, found.records, found.samples.len()), (format, records, 1), "{file}");
        assert!(read_requests(&path).unwrap_err().to_string().contains(format.no_facts().unwrap()), "{file}");
    }
    let read = |file: &str| read_dataset(&shared.join("data").join(file)).unwrap();
    let mquake = read("mquake/MQuAKE-hard.json");
    assert_eq!((mquake.format, mquake.records.len(), mquake.faults.len()), (Format::Mquake, 429, 0));
    for record in &mquake.records {
        let (last, others) = record.requests.split_last().unwrap();
        assert_eq!(last.portability["multi_hop"].len(), 3, "record {}", record.index);
        assert!(others.iter().all(|request| request.portability.is_empty()));
        assert!(record.requests.iter().all(|request| request.case_id == last.case_id && request.rephrase_prompts.len() == 1));
    }
    let zsre = read("zsre/zsre_knowedit_test.json");
    assert_eq!((zsre.records.len(), zsre.faults.len()), (868, 0));
    assert_eq!(zsre.requests().filter(|request| request.portability.values().flatten().next().is_some()).count(), 868);
    assert_eq!(read("knowedit/wikibio_test.json").records.len(), 74);
    let mut samples = 0;
    for folder in ["bias", "commonsense", "factual", "linguistic"] {
        for entry in std::fs::read_dir(shared.join("data/relations").join(folder)).unwrap() {
            let relation = read_dataset(&entry.unwrap().path()).unwrap();
            assert_eq!(relation.format, Format::Relation);
            samples += relation.requests().count();
        }
    }
    assert_eq!(samples, 11_089);
}
