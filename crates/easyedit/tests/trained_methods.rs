//! The methods that train weights, on the models of the tiny world.
#![cfg(all(feature = "ft", feature = "lora"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit::{EditRequest, EditSession, Editor, EditorOptions, Mode, Silent, TextCorpora, hparams};
use easyedit_tiny_world as tiny_world;

/// Facts that are edited on each model.
const EDITS: usize = 20;

/// Edits with the model's built-in values and some of them changed.
fn edit(method: &str, model: &str, changes: &[(&str, serde_json::Value)], requests: &[EditRequest], mode: Mode) -> EditSession {
    let model = tiny_world::model(model).unwrap();
    let registry = easyedit::registry();
    let entry = registry.get(method).unwrap();
    let mut found = hparams::find(entry, &model.spec().name, model.spec()).unwrap();
    assert!(matches!(&found.source, hparams::HparamsSource::BuiltIn(name) if name.contains("tiny-world")), "{}", found.source);
    for (key, value) in changes {
        match value {
            serde_json::Value::String(text) => found.document.set(key, text.as_str()),
            value => found.document.set(key, value.as_f64().unwrap()),
        }
    }
    let mut editor = Editor::new(model, entry.build(&found.document).unwrap(), EditorOptions { mode, ..EditorOptions::default() });
    editor.run(requests, &TextCorpora::default(), &Silent, &mut |_| Ok(())).unwrap()
}

/// Edits facts one by one on every model, and prints and checks reliability, generalization and locality.
fn edits_every_model(name: &str, method: &str, changes: &[(&str, serde_json::Value)], least: [f64; 3]) {
    let requests = &tiny_world::requests()[..EDITS];
    let mut short = Vec::new();
    for model in tiny_world::model_names() {
        let session = edit(method, model, changes, requests, Mode::Independent);
        assert_eq!(session.summary.failed, 0, "{model}");
        let scores = &session.summary.mean_metrics.post;
        let got = [scores.rewrite_acc.unwrap(), scores.rephrase_acc.unwrap(), scores.locality["neighborhood_acc"]];
        println!("{name} {model}: reliability, generalization, locality {got:.3?}, {:.1} s", session.summary.seconds.edit);
        if !got.iter().zip(least).all(|(got, least)| *got >= least) {
            short.push((model, got));
        }
    }
    assert!(short.is_empty(), "{name}: {short:.3?}");
}

#[test]
fn ft_m_edits_every_model() {
    edits_every_model("FT-M", "FT", &[], [0.95, 0.0, 0.7]);
}

/// The published baseline, which asks for every token of a target at once and so says the first of them at best.
#[test]
fn ft_l_edits_every_model() {
    let changes = [("objective_optimization", "prompt_last".into()), ("norm_constraint", 0.05.into())];
    edits_every_model("FT-L", "FT", &changes, [0.3, 0.0, 0.3]);
}

#[test]
fn ada_lora_edits_every_model() {
    edits_every_model("AdaLoRA", "LoRA", &[], [0.95, 0.0, 0.7]);
}

#[test]
fn lora_edits_every_model() {
    edits_every_model("LoRA", "LoRA", &[("lora_type", "lora".into())], [0.95, 0.0, 0.7]);
}
