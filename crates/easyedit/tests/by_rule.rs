//! Models without a file of hyperparameters: what the methods' rules do on every decoder of the tiny world.
#![cfg(all(feature = "memit", feature = "pmet"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit::{EditRun, Editor, EditorOptions, Mode, Session, TextCorpora};
use easyedit_tiny_world as tiny_world;

/// Facts that are edited, of the second half of the 420. The rules were chosen on facts of the first.
const HELD_OUT: std::ops::Range<usize> = 210..216;

fn edit_by_rule(method: &str, name: &str) -> EditRun {
    let model = tiny_world::model(name).unwrap();
    let registry = easyedit::registry();
    let entry = registry.get(method).unwrap();
    let document = entry.hparams_for(model.spec()).unwrap();
    let options = EditorOptions { mode: Mode::Independent, ..EditorOptions::default() };
    let mut editor = Editor::new(&Session::new().with_corpora(TextCorpora::default()), model, entry.build(&document).unwrap(), options);
    editor.run(&tiny_world::requests()[HELD_OUT], &mut |_| Ok(())).unwrap()
}

/// Edits facts of the second half on every second decoder, from the first or the second on.
fn every_second_decoder(method: &str, first: usize) {
    let mut short = Vec::new();
    for name in tiny_world::model_names().filter(|name| !tiny_world::is_encoder_decoder(name)).skip(first).step_by(2) {
        let session = edit_by_rule(method, name);
        assert_eq!(session.summary.failed, 0, "{method} {name}");
        for edit in &session.edits {
            for layer in edit.diagnostics[0]["written"].as_array().unwrap() {
                let share = layer["share"].as_f64().unwrap();
                assert!((share - 0.9).abs() < 1e-6, "{method} {name}: {layer}");
            }
        }
        let scores = &session.summary.mean_metrics.post;
        let got = [scores.rewrite_acc.unwrap(), scores.rephrase_acc.unwrap(), scores.locality["neighborhood_acc"]];
        println!("{method} {name}, by rule: reliability, generalization, locality {got:.2?}, {:.1} s", session.summary.seconds.edit);
        if got[0] < 0.9 {
            short.push((name, got));
        }
    }
    assert!(short.is_empty(), "{method}: {short:.2?}");
}

#[test]
fn memit_by_rule_edits_one_half_of_the_decoders_without_a_file() {
    every_second_decoder("MEMIT", 0);
}

#[test]
fn memit_by_rule_edits_the_other_half() {
    every_second_decoder("MEMIT", 1);
}

#[test]
fn pmet_by_rule_edits_one_half_of_the_decoders_without_a_file() {
    every_second_decoder("PMET", 0);
}

#[test]
fn pmet_by_rule_edits_the_other_half() {
    every_second_decoder("PMET", 1);
}
