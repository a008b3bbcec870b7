//! `easyedit train` on a tiny model: trained, resumed, drawn, and edited with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Run, Sandbox};
use serde_json::json;

const HPARAMS: &str = "alg: MEND\nmodel_name: model\nrank: 4\nlr: 1e-3\nbatch_size: 2\naccumulate_bs: 1\nmax_iters: 4\nlog_interval: 1\n\
    val_interval: 2\nval_steps: 1\nmodel_save_pt: 1\nn_loc: 1\n";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let record = |(country, truth): (&str, &str)| {
        json!({"prompt": format!("The capital of {country} is"), "subject": country, "target_new": "Rome", "ground_truth": truth,
               "rephrase_prompt": format!("{country} is governed from")})
    };
    let records: Vec<_> = [("France", "Paris"), ("Peru", "Lima"), ("Japan", "Tokyo")].into_iter().map(record).collect();
    sandbox.write("records.json", &json!(records).to_string());
    sandbox.write("mend.yaml", HPARAMS);
    sandbox
}

fn train(sandbox: &Sandbox, hparams: &str, more: &[&str]) -> Run {
    let files = ["train", "--hparams", hparams, "--train", "records.json", "--val", "records.json", "--out", "out"];
    sandbox.run(&[&files[..], more].concat())
}

#[test]
fn a_network_is_trained_drawn_and_edited_with() {
    let sandbox = sandbox();
    let printed = train(&sandbox, "mend.yaml", &["--json", "--export", "half.safetensors"]).success().json();
    assert_eq!((&printed["iterations"], &printed["steps"], &printed["skipped"]), (&json!(4), &json!(4), &json!(0)));
    assert!(printed["results"]["edit/exact_val"].is_number() && printed["best"]["value"].is_number());
    train(&sandbox, "mend.yaml", &[]).fails(1, &["an earlier run", "--resume"]);
    let text = train(&sandbox, "mend.yaml", &["--resume"]).success().stdout();
    assert!(text.contains("4 iterations"), "{text}");

    sandbox.run(&["train", "plot", "out", "--metric", "loss/"]).success();
    assert!(std::fs::read_to_string(sandbox.path("out/curves.svg")).unwrap().contains("loss/edit"));

    for archive in ["out/model.safetensors", "half.safetensors"] {
        sandbox.write("edit.yaml", &format!("alg_name: MEND\nmodel_name: model\narchive: {archive}\n"));
        let request = ["--prompt", "The capital of Peru is", "--subject", "Peru", "--target", "Rome"];
        let run =
            sandbox.run(&[&["edit", "--model", "model", "--method", "MEND", "--hparams", "edit.yaml", "--json"], &request[..]].concat());
        run.success();
    }
}

#[test]
fn what_is_wrong_is_said_before_anything_is_trained() {
    let sandbox = sandbox();
    let with = |name: &str, line: &str| {
        sandbox.write(name, &format!("{HPARAMS}{line}\n"));
        train(&sandbox, name, &[])
    };
    with("key.yaml", "early_stop_key: edit/acc").fails(1, &["early_stop_key", "edit/acc", "edit/acc_val"]);
    with("unknown.yaml", "rnak: 3").fails(1, &["rnak", "did you mean rank?"]);
    sandbox.write("rome.yaml", "alg_name: ROME\nmodel_name: model\n");
    train(&sandbox, "rome.yaml", &[]).fails(1, &["rome.yaml", "ROME, which is not trained"]);
    assert!(!sandbox.path("out").join("last.safetensors").exists());
    sandbox.run(&["train"]).fails(2, &["--hparams"]);
    let request = ["--prompt", "The capital of Peru is", "--subject", "Peru", "--target", "Rome"];
    let run = sandbox.run(&[&["edit", "--model", "model", "--method", "MEND"], &request[..]].concat());
    run.fails(1, &["archive", "easyedit train", "tiny-world-llama"]);
}
