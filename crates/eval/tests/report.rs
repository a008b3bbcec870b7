//! Reports: what they hold, and what is left when a run fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;

use easyedit_core::{EditRequest, EvaluationPrompt};
use easyedit_eval::{FreeDecoding, Metrics, Record, ReportWriter, RunInfo, Seconds, Summary};
use serde_json::{Value, json};

fn record(case_id: usize, score: f64) -> Record {
    let prompt = |prompt: &str| EvaluationPrompt { prompt: prompt.into(), ground_truth: "x".into() };
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
fn failed_requests_count_in_the_summary_and_not_in_its_means() {
    let failed = Record { error: Some("request 1: no".into()), post: Metrics::default(), ..record(1, 0.0) };
    let summary = summary(&[record(0, 1.0), failed]);
    assert_eq!((summary.records, summary.failed, summary.mean_metrics.post.rewrite_acc), (2, 1, Some(1.0)));
}
