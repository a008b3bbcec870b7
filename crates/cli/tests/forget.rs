//! `easyedit forget`: facts taken out of edit files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::Sandbox;
use serde_json::json;

const GRACE: &str = "alg_name: GRACE\nlayers: [1]\nedit_lr: 0.3\nn_iter: 60\neps: 1\neps_relative: 0.05\n";
const KN: &str = "alg_name: KN\nsteps: 2\nadaptive_threshold: 0.5\nmax_neurons: 3\n";

fn requests() -> String {
    let request = |case_id: usize, prompt: &str, target: &str| json!({"case_id": case_id, "prompt": prompt, "target_new": target, "ground_truth": "x"});
    json!([request(3, "Ada Quill speaks", "Welsh"), request(5, "Mill Bridge was built by", "Otto")]).to_string()
}

/// Edits both facts at once; gives the edit file.
fn edited(sandbox: &Sandbox, method: &str, hparams: &str) -> String {
    sandbox.write("method.yaml", hparams);
    sandbox.write("requests.json", &requests());
    let command = ["edit", "--model", "model", "--method", method, "--hparams", "method.yaml", "--requests", "requests.json"];
    let run = sandbox.run(&[&command[..], &["--mode", "batch", "--no-evaluation", "--out", "out", "--json"]].concat()).success();
    run.json()["saved"]["edits"][0].as_str().unwrap().to_owned()
}

fn continued(sandbox: &Sandbox, prompt: &str, edit: Option<&str>) -> String {
    let mut command = vec!["generate", "--model", "model", "--prompt", prompt, "-n", "5", "--json"];
    command.extend(edit.into_iter().flat_map(|edit| ["--edit", edit]));
    sandbox.run(&command).success().stdout()
}

#[test]
fn a_fact_is_taken_out_of_a_codebook_and_the_other_stays() {
    let sandbox = Sandbox::new();
    let file = edited(&sandbox, "GRACE", GRACE);
    let said = sandbox.run(&["forget", &file, "--case-id", "3", "--out", "fewer.edit.safetensors"]).success().stdout();
    assert!(said.contains("Ada Quill speaks") && said.contains("1 facts"), "{said}");
    let inspected = sandbox.run(&["inspect", "fewer.edit.safetensors", "--json"]).success().json();
    assert_eq!(inspected["requests"].as_array().unwrap().len(), 1);
    assert_eq!(inspected["overlay"]["tensors"]["keys"][0], 1);
    let (forgotten, kept) = ("Ada Quill speaks", "Mill Bridge was built by");
    assert_ne!(continued(&sandbox, forgotten, Some(&file)), continued(&sandbox, forgotten, None));
    assert_eq!(continued(&sandbox, forgotten, Some("fewer.edit.safetensors")), continued(&sandbox, forgotten, None));
    assert_eq!(continued(&sandbox, kept, Some("fewer.edit.safetensors")), continued(&sandbox, kept, Some(&file)));
    assert_ne!(continued(&sandbox, kept, Some(&file)), continued(&sandbox, kept, None));
}

#[test]
fn what_cannot_be_forgotten_is_said_and_nothing_is_written() {
    let sandbox = Sandbox::new();
    let file = edited(&sandbox, "GRACE", GRACE);
    sandbox.run(&["forget", &file, "--case-id", "4", "--out", "x"]).fails(2, &["--case-id 4", "[3, 5]"]);
    sandbox.run(&["forget", &file, "--case-id", "3", "--case-id", "5", "--out", "x"]).fails(2, &["nothing"]);
    sandbox.run(&["forget", "none.edit.safetensors", "--case-id", "3", "--out", "x"]).fails(1, &["none.edit.safetensors"]);
    let joint = edited(&sandbox, "KN", KN);
    sandbox.run(&["forget", &joint, "--case-id", "3", "--out", "x"]).fails(1, &["KN", "cannot be taken apart"]);
    assert!(!sandbox.path("x").exists());
}
