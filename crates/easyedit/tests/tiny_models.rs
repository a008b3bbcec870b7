//! The editor with ROME on tiny models of every family: real attention, real batches, random weights.
#![cfg(feature = "rome")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use easyedit::eval::{Answers, Evaluation};
use easyedit::models::tiny::tiny_model;
use easyedit::{
    CheckedRequest, EditRequest, EditRun, Editor, EditorOptions, EvaluationPrompt, Fingerprint, LanguageModel, Mode, Result, Session,
    Silent, TextCorpora, hparams,
};

const FAMILIES: [&str; 8] = ["llama", "mistral", "qwen2", "gpt2", "gptj", "gpt_neox", "gpt_neo", "opt"];

fn requests() -> Vec<EditRequest> {
    let facts = [("Ada Quill", "speaks", "Welsh"), ("Mill Bridge", "was built long ago by", "Bo"), ("Norland", "has the capital", "Tarn")];
    facts
        .iter()
        .enumerate()
        .map(|(case_id, (subject, relation, target))| EditRequest {
            case_id,
            rephrase_prompts: vec![format!("It is said that {subject} {relation}")],
            locality: BTreeMap::from([(
                "neighborhood".to_owned(),
                vec![EvaluationPrompt::new(format!("Jean Roux {relation}"), "nothing at all")],
            )]),
            ..EditRequest::new(format!("{subject} {relation}"), *subject, *target)
        })
        .collect()
}

fn weights(model: &dyn LanguageModel) -> Vec<Fingerprint> {
    model.parameter_names().iter().map(|name| Fingerprint::of(&model.weight(name).unwrap()).unwrap()).collect()
}

fn run(family: &str, mode: Mode, requests: &[EditRequest]) -> (Vec<Fingerprint>, EditRun) {
    try_run(family, mode, requests).unwrap()
}

fn try_run(family: &str, mode: Mode, requests: &[EditRequest]) -> Result<(Vec<Fingerprint>, EditRun)> {
    let model = tiny_model(family, 1).unwrap();
    let registry = easyedit::registry();
    let entry = registry.get("ROME").unwrap();
    let mut found = hparams::find(entry, &model.spec().name, model.spec()).unwrap();
    assert_eq!(found.source, hparams::HparamsSource::Derived, "no file is named after a tiny model");
    found.document.set("mom2_n_samples", 20);
    let before = weights(&*model);
    let mut editor = Editor::new(
        &Session::new().with_corpora(TextCorpora::default()),
        model,
        entry.build(&found.document).unwrap(),
        EditorOptions { mode, ..EditorOptions::default() },
    );
    let session = editor.run(requests, &mut |_| Ok(()));
    assert_eq!(weights(editor.model()), before, "{family}: the model is bit for bit what it was");
    Ok((before, session?))
}

fn ask(model: &dyn LanguageModel, requests: &[EditRequest]) -> Vec<Answers> {
    Evaluation::new(model, &CheckedRequest::all(requests.iter().cloned()).unwrap()).unwrap().ask(model, &Silent).unwrap()
}

#[test]
fn one_request_alone_and_among_others_is_answered_alike() {
    for family in FAMILIES {
        let model = tiny_model(family, 3).unwrap();
        let all = ask(&*model, &requests());
        for (index, request) in requests().iter().enumerate() {
            assert_eq!(ask(&*model, std::slice::from_ref(request)), [all[index].clone()], "{family}");
        }
    }
}

#[test]
fn rome_changes_one_weight_the_same_way_for_the_same_seed() {
    for family in ["llama", "qwen2", "gpt2", "gptj", "gpt_neox", "gpt_neo", "opt"] {
        let requests = &requests()[..2];
        let (before, session) = run(family, Mode::Independent, requests);
        let (_, again) = run(family, Mode::Independent, requests);
        for (edit, again) in session.edits.iter().zip(&again.edits) {
            assert_eq!(edit.deltas, again.deltas, "{family}");
        }
        for (index, edit) in session.edits.iter().enumerate() {
            assert_eq!(edit.deltas.len(), 1, "{family}");
            let edited = session.edited_by(index).unwrap();
            let changed = weights(&*edited).iter().zip(&before).filter(|(now, then)| now != then).count();
            assert_eq!(changed, 1, "{family}");
            // The record is about that very model.
            let (then, now) = (&ask(session.original(), requests)[index], &ask(&*edited, requests)[index]);
            assert_eq!((&session.records[index].pre, &session.records[index].post), (&then.metrics(None), &now.metrics(Some(then))));
            assert_eq!(session.records[index].free_decoding.post, now.free_metrics(Some(then)), "{family}");
        }
        assert_eq!(weights(session.original()), before);
    }
}

#[test]
fn a_fact_beyond_the_reach_of_a_sliding_window_is_an_error() {
    // The tiny model sees a few tokens back in each of three layers; these prompts are longer.
    let message = try_run("mistral", Mode::Independent, &requests()[..1]).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("request 0") && message.contains("does not reach"), "{message}");
}

#[test]
fn rome_edits_of_a_sequence_stack() {
    for family in ["llama", "gpt2"] {
        let (_, session) = run(family, Mode::Sequential, &requests());
        assert_eq!(session.edits.len(), 3);
        assert!(session.records.iter().all(|record| record.post_final.is_some()));
        let edited = session.edited().unwrap();
        assert_eq!(weights(&*edited), weights(&*session.edited_by(2).unwrap()));
        assert_ne!(weights(&*edited), weights(&*session.edited_by(0).unwrap()));
    }
}

#[test]
fn the_file_for_gpt_j_fits_the_family() {
    let mut spec = tiny_model("gptj", 1).unwrap().spec().clone();
    spec.n_layers = 28;
    let registry = easyedit::registry();
    let found = hparams::find(registry.get("ROME").unwrap(), "EleutherAI/gpt-j-6b", &spec).unwrap();
    assert_eq!(found.source, hparams::HparamsSource::BuiltIn("ROME/gpt-j-6B.yaml".into()));
    let text = |key| found.document.text(key).unwrap();
    let modules = &spec.modules;
    assert_eq!(
        (text("attn_module_tmp"), text("ln_f_module"), text("lm_head_module")),
        (&*modules.attention, &*modules.final_norm, &*modules.lm_head)
    );
}
