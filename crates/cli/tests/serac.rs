//! A SERAC memory on the command line: trained, edited, used, forgotten.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::PathBuf;

use common::Sandbox;

fn tiny_world(name: &str) -> String {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-world");
    data.join(name).to_str().unwrap().to_owned()
}

const REQUESTS: &str = r#"[
  {"case_id": 3, "prompt": "The author of Green Lantern is", "subject": "Green Lantern", "target_new": "Hugo Alder", "ground_truth": "Hugo Orchard"},
  {"case_id": 5, "prompt": "The capital of Norland is", "subject": "Norland", "target_new": "Narvik", "ground_truth": "x"}
]"#;

#[test]
fn the_built_in_networks_edit_at_once_and_every_command_takes_the_memory() {
    let sandbox = Sandbox::new();
    let model = tiny_world("models/tiny-world-llama");
    sandbox.write("requests.json", REQUESTS);
    let edit = ["edit", "--method", "SERAC", "--model", &model, "--requests", "requests.json", "--mode", "batch", "--out", "out", "--json"];
    let run = sandbox.run(&edit).success().json();
    let file = run["saved"]["edits"][0].as_str().unwrap().to_owned();
    let continued = |prompt: &str, edit: Option<&str>| {
        let mut command = vec!["generate", "--model", &model, "--prompt", prompt, "-n", "8", "--json"];
        command.extend(edit.into_iter().flat_map(|edit| ["--edit", edit]));
        sandbox.run(&command).success().json()[0]["continuation"].as_str().unwrap().trim().to_owned()
    };
    // In the edit's words and in others; other prompts are answered as before.
    for prompt in ["The author of Green Lantern is", "The novel Green Lantern is the work of"] {
        assert!(continued(prompt, Some(&file)).starts_with("Hugo Alder"), "{prompt}");
        assert!(continued(prompt, None).starts_with("Hugo Orchard"), "{prompt}");
    }
    let far = "The author of Iron Tower is";
    assert_eq!(continued(far, Some(&file)), continued(far, None));

    let inspected = sandbox.run(&["inspect", &file, "--json"]).success().json();
    assert_eq!(inspected["overlay"]["data"]["edits"][0]["target"], "Hugo Alder");
    sandbox.run(&["forget", &file, "--case-id", "3", "--out", "fewer.edit.safetensors"]).success();
    let prompt = "The author of Green Lantern is";
    assert_eq!(continued(prompt, Some("fewer.edit.safetensors")), continued(prompt, None));
    assert!(continued("The capital of Norland is", Some("fewer.edit.safetensors")).starts_with("Narvik"));

    sandbox.write("text.txt", "Green Lantern was written by Hugo Orchard.\n");
    let perplexity = ["perplexity", "--model", &model, "--text", "text.txt", "--edit", &file, "--json"];
    assert!(sandbox.run(&perplexity).success().json()["perplexity"].as_f64().unwrap() > 1.0);
    sandbox.run(&["apply", "--model", &model, "--edit", &file, "--out", "applied"]).fails(2, &["SERAC", "laid over"]);
}

const TRAINING: &str = "alg: SERAC\nmodel_name: tiny-world-llama\ncls_name: tiny-world-encoder\nsmall_name: tiny-world-small-llama\n\
    lr: 1e-3\nbatch_size: 4\nval_batch_size: 8\nval_steps: 1\naccumulate_bs: 1\nmax_iters: 2\nval_interval: 1\nlog_interval: 1\nfinal_eval: false\n";

#[test]
fn a_training_writes_an_archive_and_unknown_keys_are_told_before_it_begins() {
    let sandbox = Sandbox::new();
    let model = tiny_world("models/tiny-world-llama");
    let (train, val) = (tiny_world("practice/train.jsonl"), tiny_world("practice/val.jsonl"));
    let command = |hparams: &str, out: &str| {
        sandbox.write("training.yaml", hparams);
        sandbox.run(&["train", "--hparams", "training.yaml", "--model", &model, "--train", &train, "--val", &val, "--out", out, "--json"])
    };
    let key = format!("{TRAINING}early_stop_key: edit/ac_val\n");
    command(&key, "out").fails(1, &["early_stop_key", "edit/ac_val", "edit/acc_val"]);
    command(&format!("{TRAINING}archive: nowhere\n"), "out").fails(1, &["archive", "nowhere"]);
    command(&format!("{TRAINING}smallname: x\n"), "out").fails(1, &["smallname", "small_name"]);
    let trained = command(TRAINING, "out").success().json()["trained"].as_str().unwrap().to_owned();
    let edit = "alg_name: SERAC\ncls_name: tiny-world-encoder\nsmall_name: tiny-world-small-llama\n";
    sandbox.write("edit.yaml", &format!("{edit}archive: {trained}\n"));
    sandbox.write("requests.json", REQUESTS);
    let edit = |model: &str| {
        let command =
            ["edit", "--method", "SERAC", "--hparams", "edit.yaml", "--model", model, "--requests", "requests.json", "--out", "edits"];
        sandbox.run(&[&command[..], &["--mode", "batch", "--no-evaluation", "--overwrite"]].concat())
    };
    edit(&model).success();
    edit(&tiny_world("models/tiny-world-mistral")).fails(1, &["archive", "other weights", "any_base"]);
}
