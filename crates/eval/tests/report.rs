//! Reports: what they hold, and what is left when a run fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;

use easyedit_core::{EditRequest, EvaluationPrompt};
use easyedit_eval::{FreeDecoding, Metrics, Record, ReportWriter, RunInfo, Seconds, Summary};
use serde_json::{Value, json};

fn record(case_id: usize, score: f64) -> Record {
    let prompt = |prompt: &str| EvaluationPrompt::new(prompt, "x");
    let metrics = Metrics { rewrite_acc: vec![score], portability: Some(BTreeMap::new()), ..Metrics::default() };
    Record {
        pre: Metrics { rewrite_acc: vec![0.0], ..metrics.clone() },
        case_id,
        requested_rewrite: EditRequest {
            locality: BTreeMap::from([("one".to_owned(), vec![prompt("a")]), ("two".to_owned(), vec![prompt("b"), prompt("c")])]),
            ..EditRequest::new("The {} is", "sky", "green")
        },
        time: 1.5,
        post: metrics,
        post_final: None,
        free_decoding: FreeDecoding::default(),
        peak_memory_mb: Some(10.0 * (case_id + 1) as f64),
        seed: 3,
        error: None,
    }
}

fn summary(records: &[Record]) -> Summary {
    Summary::of(RunInfo { model: "toy".into(), hparams: json!({"layers": [3]}), ..RunInfo::default() }, records, Seconds::default())
}

#[test]
fn a_record_has_the_keys_of_easyedit() {
    let value = serde_json::to_value(record(4, 1.0)).unwrap();
    let expected = json!({
        "pre": { "rewrite_acc": [0.0], "portability": {} },
        "case_id": 4,
        "requested_rewrite": {
            "prompt": "The sky is", "target_new": "green", "subject": "sky",
            "portability": {},
            "locality": {
                "one": { "prompt": "a", "ground_truth": "x" },
                "two": { "prompt": ["b", "c"], "ground_truth": ["x", "x"] },
            },
        },
        "time": 1.5,
        "post": { "rewrite_acc": [1.0], "portability": {} },
        "peak_memory_mb": 50.0,
        "seed": 3,
    });
    assert_eq!(value, expected);
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(keys[..5], ["pre", "case_id", "requested_rewrite", "time", "post"]);
}

#[test]
fn a_finished_report_is_records_and_then_the_summary() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/report.jsonl");
    let records = [record(0, 1.0), record(1, 0.5)];
    let mut writer = ReportWriter::create(&path).unwrap();
    for (index, record) in records.iter().enumerate() {
        writer.record(record).unwrap();
        let written = fs::read_to_string(writer.partial_path()).unwrap();
        assert_eq!(written.lines().count(), index + 1, "a record is on disk as soon as it is done");
    }
    assert!(!path.exists());
    writer.finish(&summary(&records)).unwrap();
    let lines: Vec<Value> = fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["case_id"], 1);
    let summary = &lines[2]["summary"];
    assert_eq!((&summary["records"], &summary["failed"], &summary["model"]), (&json!(2), &json!(0), &json!("toy")));
    assert_eq!(summary["mean_metrics"], json!({ "pre": { "rewrite_acc": 0.0 }, "post": { "rewrite_acc": 0.75 } }));
    assert_eq!((&summary["peak_memory_mb"], &summary["hparams"]), (&json!(20.0), &json!({"layers": [3]})));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_failed_run_keeps_its_records_and_the_older_report() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.jsonl");
    fs::write(&path, "older").unwrap();
    let mut writer = ReportWriter::create(&path).unwrap();
    writer.record(&record(0, 1.0)).unwrap();
    let partial = writer.partial_path().to_owned();
    drop(writer);
    assert_eq!(fs::read_to_string(&path).unwrap(), "older");
    assert_eq!(fs::read_to_string(&partial).unwrap().lines().count(), 1);
    let mut again = ReportWriter::create(&path).unwrap();
    assert!(dir.path().join("report.jsonl.partial-1").exists(), "the records of the run before are kept");
    again.record(&record(7, 1.0)).unwrap();
    again.finish(&summary(&[record(7, 1.0)])).unwrap();
    assert!(fs::read_to_string(&path).unwrap().starts_with(r#"{"pre""#) && !partial.exists());
}

#[test]
fn a_run_without_records_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    drop(ReportWriter::create(&dir.path().join("report.jsonl")).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn two_runs_do_not_write_one_report() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.jsonl");
    let _first = ReportWriter::create(&path).unwrap();
    assert!(ReportWriter::create(&path).unwrap_err().to_string().contains("another run"));
    assert!(ReportWriter::create(dir.path()).unwrap_err().to_string().contains("is a folder"));
}

#[test]
fn a_request_that_could_not_be_edited_counts_as_0() {
    let failed = Record { error: Some("request 1: no".into()), post: Metrics::default(), ..record(1, 0.0) };
    let edited = Record {
        post: Metrics { locality: Some(BTreeMap::from([("two_acc".to_owned(), vec![1.0, 0.5])])), ..record(0, 1.0).post },
        ..record(0, 1.0)
    };
    let summary = summary(&[edited, failed]);
    let post = &summary.mean_metrics.post;
    assert_eq!((summary.records, summary.failed, post.rewrite_acc), (2, 1, Some(0.5)));
    assert_eq!(post.locality["two_acc"], 0.375, "an unedited model is no local edit");
    assert!(summary.mean_metrics.post_final.is_empty());
}

#[test]
fn records_of_a_run_that_did_not_end_are_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.jsonl");
    for run in 0..3 {
        let mut writer = ReportWriter::create(&path).unwrap();
        writer.record(&record(run, 1.0)).unwrap();
    }
    let of = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap().contains("\"case_id\":0");
    assert!(of("report.jsonl.partial-1"), "the records of the first run");
    assert!(!of("report.jsonl.partial-2") && !of("report.jsonl.partial"));
}

#[test]
fn edits_that_move_no_score_are_counted_and_the_setting_is_named() {
    let hparams = json!({"mom2_update_weight": 15000, "v_lr": 0.5});
    let summarise = |records: &[Record], settings: &[&str]| {
        let mut summary = Summary::of(RunInfo { hparams: hparams.clone(), ..RunInfo::default() }, records, Seconds::default());
        summary.warn_of_unmoved(records, settings);
        (summary.unmoved, summary.warnings.join(" "))
    };
    let moved = record(0, 1.0);
    let unmoved = record(1, 0.0);
    let (count, warning) = summarise(std::slice::from_ref(&unmoved), &["mom2_update_weight", "absent"]);
    assert!(count == 1 && warning.contains("the edit moved no score") && warning.ends_with("mom2_update_weight (15000)"), "{warning}");
    let (count, warning) = summarise(&[unmoved.clone(), unmoved.clone()], &[]);
    assert!(count == 2 && warning.contains("all 2 requests"), "{warning}");
    let (count, warning) = summarise(&[unmoved.clone(), moved.clone()], &[]);
    assert_eq!((count, warning.as_str()), (1, "1 of 2 edits moved no score"));
    assert_eq!(summarise(&[moved], &["v_lr"]), (0, String::new()));
    // What was known before cannot move; what failed has an error of its own.
    let known = Record { pre: record(2, 1.0).post, ..record(2, 1.0) };
    let known = Record { free_decoding: FreeDecoding { pre: record(2, 1.0).post, ..FreeDecoding::default() }, ..known };
    let failed = Record { error: Some("no".into()), ..unmoved };
    assert_eq!(summarise(&[known, failed], &["v_lr"]).0, 0);
    // A neighbour that changed is an effect, if not the one that was wanted.
    let harmed = Metrics { locality: Some(BTreeMap::from([("one_acc".to_owned(), vec![0.0])])), ..record(0, 0.0).post };
    assert_eq!(summarise(&[Record { post: harmed, ..record(3, 0.0) }], &["v_lr"]).0, 0);
}
