//! Several edit files at once: folders, lists in any order, and edits that a model holds already.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::Sandbox;
use serde_json::json;

/// More than ten, so that names in alphabetical order are out of order unless their numbers are padded.
const COUNT: usize = 12;

/// A folder `edits` of a sequence of edits of one weight, and the model with all of them in `edited`.
fn sequence(sandbox: &Sandbox) {
    let request =
        |index: usize| json!({"case_id": index, "prompt": "The Louvre is in", "subject": "The Louvre", "target_new": format!("{index}")});
    sandbox.write("many.json", &json!((0..COUNT).map(request).collect::<Vec<_>>()).to_string());
    let edit = ["edit", "--model", "model", "--hparams", "tiny.yaml", "--requests", "many.json", "--no-evaluation", "--mode", "sequential"];
    sandbox.run(&[&edit[..], &["--save", "edit", "--out", "edits"]].concat()).success();
    sandbox.run(&["apply", "--model", "model", "--edit", "edits", "--out", "edited"]).success();
}

fn names(sandbox: &Sandbox) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(sandbox.path("edits")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_sequence_is_applied_in_its_order_whatever_order_it_is_given_in() {
    let sandbox = Sandbox::new();
    sequence(&sandbox);
    let names = names(&sandbox);
    assert_eq!(names.len(), COUNT);
    assert!(names[0].starts_with("00-") && names[11].starts_with("11-"), "{names:?}");
    let mut shuffled: Vec<String> = names.iter().map(|name| format!("edits/{name}")).collect();
    shuffled.reverse();
    shuffled.rotate_left(5);
    let files: Vec<&str> = shuffled.iter().map(String::as_str).collect();
    sandbox.run(&[&["apply", "--model", "model", "--out", "other", "--edit"], &files[..]].concat()).success();
    let weights = |folder: &str| fs::read(sandbox.path(folder).join("model.safetensors")).unwrap();
    assert_eq!(weights("other"), weights("edited"));
    let generated = |edits: &[&str]| {
        sandbox
            .run(&[&["generate", "--model", "model", "--prompt", "The Louvre is in", "--json", "--edit"], edits].concat())
            .success()
            .stdout()
    };
    assert_eq!(generated(&files), generated(&["edits"]));
    sandbox.run(&[&["revert", "--model", "edited", "--base", "model", "--out", "reverted", "--edit"], &files[..]].concat()).success();
    assert_eq!(weights("reverted"), weights("model"));
    let inspected = sandbox.run(&[&["inspect", "--json"], &files[..]].concat()).success().json();
    let targets: Vec<String> =
        inspected.as_array().unwrap().iter().map(|one| one["requests"][0]["target_new"].as_str().unwrap().to_owned()).collect();
    assert_eq!(targets, (0..COUNT).map(|index| index.to_string()).collect::<Vec<_>>());
    sandbox.run(&["export", "--model", "model", "--out", "adapter", "edits"]).success();
}

#[test]
fn files_that_do_not_say_what_they_leave_behind_are_ordered_by_the_model() {
    let sandbox = Sandbox::new();
    sequence(&sandbox);
    for (index, name) in names(&sandbox).into_iter().enumerate() {
        // As version 0.1 wrote them: without the result, and with numbers that are not padded.
        let path = sandbox.path("edits").join(name);
        let mut edit = easyedit::Edit::load(&path).unwrap();
        edit.deltas.values_mut().for_each(|change| change.after = None);
        fs::remove_file(&path).unwrap();
        edit.save(&sandbox.path("edits").join(format!("{index}-rome.edit.safetensors"))).unwrap();
    }
    let names = names(&sandbox);
    let files: Vec<String> = names.iter().map(|name| format!("edits/{name}")).collect();
    assert!(names[1].starts_with("1-") && names[2].starts_with("10-"), "{names:?}");
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    sandbox.run(&[&["apply", "--model", "model", "--out", "other", "--edit"], &files[..]].concat()).success();
    let weights = |folder: &str| fs::read(sandbox.path(folder).join("model.safetensors")).unwrap();
    assert_eq!(weights("other"), weights("edited"));
}

#[test]
fn an_edit_that_is_applied_already_is_recognised() {
    let sandbox = Sandbox::new();
    sequence(&sandbox);
    let first = format!("edits/{}", names(&sandbox)[0]);
    for (model, edits, what) in
        [("edited", "edits", "already applied"), ("edited", first.as_str(), "already applied"), ("model", "edits edits", "given twice")]
    {
        let edits: Vec<&str> = edits.split(' ').collect();
        let run = sandbox.run(&[&["apply", "--model", model, "--out", "twice", "--edit"], &edits[..]].concat());
        assert_ne!(run.code(), 0);
        assert!(run.stderr().contains(what), "{model} {edits:?}: {}", run.stderr());
        assert!(!sandbox.path("twice").exists());
    }
    // Without the record, the weights tell.
    fs::remove_file(sandbox.path("edited/easyedit.json")).unwrap();
    let last = format!("edits/{}", names(&sandbox)[COUNT - 1]);
    let run = sandbox.run(&["generate", "--model", "edited", "--prompt", "The Louvre", "--edit", &last]);
    assert_ne!(run.code(), 0);
    assert!(run.stderr().contains("already applied"), "{}", run.stderr());
}
