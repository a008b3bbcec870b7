//! The editor's modes, on a model and a method whose doings are known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../eval/tests/toy/mod.rs"]
mod toy;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use easyedit::{
    CheckedRequest, Edit, EditFolder, EditMethod, EditRequest, EditRun, Editor, EditorOptions, Error, EvaluationPrompt, Fingerprint,
    GenerationConfig, LanguageModel, Matrix, Mode, Progress, Result, Session, TensorDelta, WeightDelta, generate,
};
use serde_json::json;
use toy::{Toy, WEIGHT, id};

/// What a [`Swap`] was asked: how often to prepare, and the prompts of each edit.
type Log = Rc<RefCell<Vec<String>>>;

/// Gives the prompt's last word another successor, by a change of rank one.
struct Swap {
    log: Log,
}

impl EditMethod for Swap {
    fn name(&self) -> &'static str {
        "SWAP"
    }

    fn hparams(&self) -> serde_json::Value {
        json!({ "alg_name": "SWAP" })
    }

    fn prepare(&mut self, _: &dyn LanguageModel, _: &Session) -> Result<()> {
        self.log.borrow_mut().push("prepare".into());
        Ok(())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        let n = model.spec().d_model;
        let before = model.weight(&WEIGHT.into())?;
        let mut factors: Option<(Matrix, Matrix)> = None;
        for request in requests {
            self.log.borrow_mut().push(request.prompt().to_owned());
            let subject = request.subject()?.subject();
            let base = toy::SUCCESSORS.iter().find(|(word, _)| *word == subject).ok_or_else(|| request.error("the subject is unknown"))?.1;
            let first = request.target_new().split(' ').next().unwrap();
            let (key, value) = (id(base) as usize, id(first) as usize);
            let mut right = vec![0f32; n];
            right[key] = 1.0;
            // The column of the key becomes three times the target's unit vector, whatever it was.
            let mut left: Vec<f32> = Matrix::from_tensor(&before)?.values().chunks(n).map(|row| -row[key]).collect();
            // The target `.` asks for more than the logits can hold: the weights stay finite, what is made of them does not.
            left[value] += if first == "." { f32::MAX } else { 3.0 };
            let (left, right) = (Matrix::column(left), Matrix::row(right));
            factors = Some(match factors {
                Some((l, r)) => (l.beside(&left).unwrap(), r.above(&right).unwrap()),
                None => (left, right),
            });
        }
        let (left, right) = factors.unwrap();
        Ok(Edit {
            method: "SWAP".into(),
            model: model.spec().name.clone(),
            family: model.spec().family.clone(),
            hparams: self.hparams(),
            seed: session.seed(),
            requests: requests.iter().map(|request| request.written().clone()).collect(),
            diagnostics: json!({}),
            deltas: BTreeMap::from([(WEIGHT.into(), TensorDelta::new(WeightDelta::LowRank { left, right }, Fingerprint::of(&before)?))]),
            overlay: None,
        })
    }
}

fn requests() -> Vec<EditRequest> {
    let near = |prompt: &str, answer: &str| EvaluationPrompt::new(prompt, answer);
    vec![
        EditRequest {
            case_id: 10,
            rephrase_prompts: vec!["town of Gaul".into()],
            locality: BTreeMap::from([("neighborhood".to_owned(), vec![near("capital of Norway", "Oslo")])]),
            ..EditRequest::new("capital of France", "France", "New York")
        },
        EditRequest { case_id: 11, ..EditRequest::new("capital of Norway", "Norway", "Rome") },
        EditRequest {
            case_id: 12,
            locality: BTreeMap::from([("neighborhood".to_owned(), vec![near("capital of Germany", "Berlin")])]),
            ..EditRequest::new("town of Gaul", "Gaul", "Rome")
        },
    ]
}

fn editor(options: EditorOptions) -> (Editor, Log) {
    editor_in(&Session::new(), options)
}

fn editor_in(session: &Session, options: EditorOptions) -> (Editor, Log) {
    let log = Log::default();
    (Editor::new(session, Box::new(Toy::new()), Box::new(Swap { log: log.clone() }), options), log)
}

fn run(options: EditorOptions, requests: &[EditRequest]) -> (Editor, EditRun, Vec<String>, Vec<usize>) {
    run_in(&Session::new(), options, requests)
}

fn run_in(session: &Session, options: EditorOptions, requests: &[EditRequest]) -> (Editor, EditRun, Vec<String>, Vec<usize>) {
    let (mut editor, log) = editor_in(session, options);
    let mut delivered = Vec::new();
    let session = editor
        .run(requests, &mut |record| {
            delivered.push(record.case_id);
            Ok(())
        })
        .unwrap();
    let log = log.borrow().clone();
    (editor, session, log, delivered)
}

fn mode(mode: Mode) -> EditorOptions {
    EditorOptions { mode, ..EditorOptions::default() }
}

fn fingerprint(model: &dyn LanguageModel) -> Fingerprint {
    Fingerprint::of(&model.weight(&WEIGHT.into()).unwrap()).unwrap()
}

/// What the model says after a prompt, up to the end of the text.
fn says(model: &dyn LanguageModel, prompt: &str) -> String {
    let ids = model.tokenizer().encode(prompt).unwrap().ids;
    generate(model, &[ids], &GenerationConfig::greedy(4)).unwrap()[0].text(model).unwrap()
}

#[test]
fn independent_edits_each_start_from_the_original() {
    let original = fingerprint(&Toy::new());
    let (editor, session, log, delivered) = run(mode(Mode::Independent), &requests());
    assert_eq!(log, ["prepare", "capital of France", "capital of Norway", "town of Gaul"]);
    assert_eq!(delivered, [10, 11, 12]);
    assert_eq!((fingerprint(editor.model()), fingerprint(session.original())), (original.clone(), original.clone()));
    for edit in &session.edits {
        assert_eq!(edit.deltas[&WEIGHT.into()].base, original);
    }
    let first = &session.records[0];
    assert_eq!((first.pre.rewrite_acc[0], first.post.rewrite_acc[0], first.post.rephrase_acc[0]), (0.5, 1.0, 1.0));
    assert_eq!(first.post.locality.as_ref().unwrap()["neighborhood_acc"], [1.0]);
    assert_eq!((first.free_decoding.pre.rewrite_acc[0], first.free_decoding.post.rewrite_acc[0]), (0.0, 1.0));
    assert_eq!((first.post_final.clone(), first.error.clone()), (None, None));
    assert_eq!(session.summary.mean_metrics.post.rewrite_acc, Some(1.0));
    // Several edits that were never meant for one model have no common one.
    assert!(session.edited().map(|_| ()).unwrap_err().to_string().contains("3 requests"));
    assert_eq!(says(&*session.edited_by(0).unwrap(), "capital of France"), "New York .");
    let second = session.edited_by(1).unwrap();
    assert_eq!((says(&*second, "capital of Norway").as_str(), says(&*second, "capital of France").as_str()), ("Rome .", "Paris ."));
    assert!(session.edited_by(3).map(|_| ()).unwrap_err().to_string().contains("no edit 3"));
    assert_eq!(says(session.original(), "capital of France"), "Paris .");
}

#[test]
fn the_only_independent_edit_is_the_edited_model() {
    let (_, session, ..) = run(mode(Mode::Independent), &requests()[..1]);
    assert_eq!(says(&*session.edited().unwrap(), "capital of France"), "New York .");
}

#[test]
fn sequential_edits_build_on_each_other_and_are_measured_again_at_the_end() {
    let (editor, session, log, delivered) = run(mode(Mode::Sequential), &requests());
    assert_eq!((log.len(), delivered.len()), (4, 3));
    assert_eq!(fingerprint(editor.model()), fingerprint(&Toy::new()));
    // The third edit is about Gaul, whose successor was that of France: it takes the first one away again.
    let first = &session.records[0];
    assert_eq!((first.post.rewrite_acc[0], first.post_final.as_ref().unwrap().rewrite_acc[0]), (1.0, 0.5));
    assert_eq!(first.free_decoding.post_final.as_ref().unwrap().rewrite_acc, [0.0]);
    // Its neighbour Norway was changed by the second one.
    assert_eq!(first.post.locality.as_ref().unwrap()["neighborhood_acc"], [1.0]);
    assert_eq!(first.post_final.as_ref().unwrap().locality.as_ref().unwrap()["neighborhood_acc"], [0.0]);
    assert_eq!(session.records[1].post_final.as_ref().unwrap().rewrite_acc, [1.0]);
    assert_eq!(session.summary.mean_metrics.post_final.rewrite_acc, Some((0.5 + 1.0 + 1.0) / 3.0));
    let edited = session.edited().unwrap();
    assert_eq!((says(&*edited, "capital of France").as_str(), says(&*edited, "capital of Norway").as_str()), ("Rome .", "Rome ."));
    let halfway = session.edited_by(1).unwrap();
    assert_eq!((says(&*halfway, "capital of France").as_str(), says(&*halfway, "capital of Norway").as_str()), ("New York .", "Rome ."));
}

/// Asks the work to end when models are asked for the `n`th time.
struct CancelledAt {
    n: usize,
    asked: AtomicUsize,
}

impl Progress for CancelledAt {
    fn begin(&self, task: &str, _: Option<u64>) {
        self.asked.fetch_add(usize::from(task == "evaluate"), Ordering::Relaxed);
    }

    fn advance(&self, _: u64) {}

    fn remark(&self, _: &str) {}

    fn end(&self) {}

    fn is_cancelled(&self) -> bool {
        self.asked.load(Ordering::Relaxed) >= self.n
    }
}

#[test]
fn an_edit_that_was_made_is_kept_when_measuring_it_is_cancelled() {
    for mode_of_run in [Mode::Independent, Mode::Sequential] {
        let folder = tempfile::tempdir().unwrap();
        // Asked before, after the first edit, and after the second.
        let session = Session::new().with_progress(CancelledAt { n: 3, asked: AtomicUsize::new(0) });
        let (mut editor, _) = editor_in(&session, EditorOptions { keep_going: true, ..mode(mode_of_run) });
        let requests: Vec<CheckedRequest> = requests().into_iter().map(|request| CheckedRequest::new(request).unwrap()).collect();
        let mut records = 0;
        let store = EditFolder::new(folder.path(), requests.len(), false);
        let run = editor.run_into(store, &requests, &mut |_| {
            records += 1;
            Ok(())
        });
        assert!(matches!(run.map(|_| ()), Err(Error::Cancelled)));
        assert_eq!((records, std::fs::read_dir(folder.path()).unwrap().count()), (1, 2));
    }
}

#[test]
fn a_batch_is_one_edit_and_its_members_share_its_time() {
    let (editor, session, log, delivered) = run(mode(Mode::Batch), &requests()[..2]);
    assert_eq!((log.len(), session.edits.len()), (3, 1));
    assert_eq!(delivered, [10, 11]);
    assert_eq!(session.edits[0].requests.len(), 2);
    assert_eq!(session.records[0].time, session.records[1].time);
    assert!(session.records.iter().all(|record| record.post.rewrite_acc == [1.0]));
    // The neighbour of the first is the subject of the second.
    assert_eq!(session.records[0].post.locality.as_ref().unwrap()["neighborhood_acc"], [0.0]);
    assert_eq!(says(&*session.edited().unwrap(), "capital of Norway"), "Rome .");
    assert_eq!(fingerprint(editor.model()), fingerprint(&Toy::new()));
}

#[test]
fn a_batch_of_one_is_what_one_edit_is() {
    let one = &requests()[..1];
    let (_, single, ..) = run(mode(Mode::Independent), one);
    let (_, batch, ..) = run(mode(Mode::Batch), one);
    assert_eq!(single.edits, batch.edits);
    assert_eq!((&single.records[0].pre, &single.records[0].post), (&batch.records[0].pre, &batch.records[0].post));
    assert_eq!(fingerprint(&*single.edited().unwrap()), fingerprint(&*batch.edited().unwrap()));
}

#[test]
fn a_record_has_the_keys_of_easyedit_and_ours() {
    let (_, session, ..) = run_in(&Session::new().with_seed(9), mode(Mode::Independent), &requests()[..1]);
    let mut value = serde_json::to_value(&session.records[0]).unwrap();
    let map = value.as_object_mut().unwrap();
    assert!(map["time"].as_f64().unwrap() >= 0.0);
    if cfg!(target_os = "linux") {
        assert!(map.remove("peak_memory_mb").unwrap().as_f64().unwrap() > 1.0);
    }
    let keys: Vec<&str> = map.keys().map(String::as_str).collect();
    assert_eq!(keys, ["pre", "case_id", "requested_rewrite", "time", "post", "free_decoding", "seed"]);
    assert_eq!(map["pre"], json!({ "rewrite_acc": [0.5], "rephrase_acc": [0.5], "portability": {} }));
    let post = json!({ "rewrite_acc": [1.0], "rephrase_acc": [1.0], "locality": { "neighborhood_acc": [1.0] }, "portability": {} });
    assert_eq!(map["post"], post);
    assert_eq!(map["free_decoding"]["post"], post);
    assert_eq!(map["seed"], 9);
    let summary = serde_json::to_value(&session.summary).unwrap();
    for (key, expected) in [
        ("model", json!("toy")),
        ("family", json!("toy")),
        ("method", json!("SWAP")),
        ("mode", json!("independent")),
        ("seed", json!(9)),
        ("hparams", json!({ "alg_name": "SWAP" })),
        ("records", json!(1)),
    ] {
        assert_eq!(summary[key], expected, "{key}");
    }
}

#[test]
fn without_evaluation_nothing_is_measured() {
    let (_, session, ..) = run(EditorOptions { evaluate: false, ..mode(Mode::Sequential) }, &requests());
    let value = serde_json::to_value(&session.records[0]).unwrap();
    assert_eq!((&value["pre"], &value["post"]), (&json!({}), &json!({})));
    assert!(value.get("free_decoding").is_none() && value.get("post_final").is_none());
    assert_eq!(says(&*session.edited().unwrap(), "capital of Norway"), "Rome .");
}

#[test]
fn a_request_that_cannot_be_edited_ends_the_run_after_those_before_it() {
    let mut requests = requests();
    requests[1].subject = None;
    let (mut editor, _) = editor(mode(Mode::Independent));
    let mut delivered = Vec::new();
    let error = editor.run(&requests, &mut |record| {
        delivered.push(record.case_id);
        Ok(())
    });
    let message = error.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("request 11") && message.contains("no subject"), "{message}");
    assert_eq!(delivered, [10]);
    assert_eq!(fingerprint(editor.model()), fingerprint(&Toy::new()));
}

#[test]
fn a_run_that_keeps_going_records_why_a_request_was_not_edited() {
    let mut requests = requests();
    requests[1].subject = None;
    for mode in [Mode::Independent, Mode::Sequential] {
        let (_, session, _, delivered) = run(EditorOptions { mode, keep_going: true, ..EditorOptions::default() }, &requests);
        assert_eq!((delivered.len(), session.edits.len()), (3, 2));
        assert!(session.records[1].error.as_ref().unwrap().contains("request 11"));
        assert_eq!((session.summary.records, session.summary.failed), (3, 1));
        assert_eq!(session.records[2].post.rewrite_acc, [1.0]);
    }
}

#[test]
fn an_edit_that_breaks_the_model_is_taken_back() {
    let mut requests = requests();
    requests[1] = EditRequest { case_id: 11, ..EditRequest::new("capital of Norway", "Norway", ".") };
    for mode in [Mode::Independent, Mode::Sequential] {
        let (_, session, ..) = run(EditorOptions { mode, keep_going: true, ..EditorOptions::default() }, &requests);
        let broken = &session.records[1];
        let error = broken.error.as_ref().unwrap();
        assert!(error.contains("request 11") && error.contains("not finite"), "{error}");
        assert_eq!((broken.post.rewrite_acc.len(), broken.post_final.is_none()), (0, true));
        assert_eq!((session.edits.len(), &session.records[2].post.rewrite_acc[..]), (2, &[1.0][..]));
        assert_eq!(says(&*session.edited_by(1).unwrap(), "capital of Norway"), "Oslo .");
    }
}

#[test]
fn malformed_requests_are_refused_before_anything_is_computed() {
    let mut bad = requests();
    bad[2].target_new = String::new();
    for requests in [bad, Vec::new()] {
        let (mut editor, log) = editor(mode(Mode::Independent));
        let result = editor.run(&requests, &mut |_| Ok(()));
        let message = result.map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("request 12") || message.contains("no requests"), "{message}");
        assert!(log.borrow().is_empty());
    }
}

#[test]
fn a_report_that_cannot_be_written_ends_the_run() {
    let (mut editor, log) = editor(mode(Mode::Independent));
    let result = editor.run(&requests(), &mut |_| Err(Error::Batch("the disk is full".into())));
    assert!(result.map(|_| ()).unwrap_err().to_string().contains("disk is full"));
    assert_eq!(log.borrow().len(), 2);
}

#[test]
fn unknown_methods_are_named_with_the_known_ones() {
    let registry = easyedit::registry();
    assert!(registry.get("nothing-like-it").unwrap_err().to_string().contains("nothing-like-it"));
    if cfg!(feature = "rome") {
        assert_eq!(registry.get("rome").unwrap().name, "ROME");
        assert!(registry.get("ROMEO").unwrap_err().to_string().contains("did you mean ROME?"));
    }
}
