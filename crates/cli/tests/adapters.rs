//! Edits as adapters, and adapters as edits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Sandbox, TENSOR};
use serde_json::json;

const EDIT_FILE: &str = "out/rome-0-the-eiffel-tower.edit.safetensors";
const EXPORT: &[&str] = &["export", "--format", "peft", "--model", "model", "--out", "adapter"];
const IMPORT: &[&str] = &["import", "adapter", "--model", "model", "--out", "back.edit.safetensors"];

fn with_edit() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.edit(&["--out", "out", "--no-evaluation"]).success();
    sandbox
}

#[test]
fn an_edit_goes_out_as_an_adapter_and_comes_back() {
    let sandbox = with_edit();
    let run = sandbox.run(&[EXPORT, &[EDIT_FILE]].concat()).success();
    assert!(run.stdout().contains(TENSOR) && run.stdout().contains("nothing"), "{}", run.stdout());
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(sandbox.path("adapter/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["target_modules"], json!([TENSOR.trim_end_matches(".weight")]));
    assert_eq!((&config["r"], &config["lora_alpha"], &config["base_model_name_or_path"]), (&json!(1), &json!(1), &json!("model")));

    let run = sandbox.run(IMPORT).success();
    assert!(run.stdout().contains(TENSOR), "{}", run.stdout());
    let inspected = sandbox.run(&["inspect", "back.edit.safetensors", "--json"]).success().json();
    assert_eq!((&inspected["method"], &inspected["tensors"][0]["rank"]), (&json!("PEFT"), &json!(1)));
    sandbox.run(&["inspect", "back.edit.safetensors"]).success();
    let weights = |edit: &str, out: &str| {
        sandbox.run(&["apply", "--model", "model", "--edit", edit, "--out", out]).success();
        std::fs::read(sandbox.path(out).join("model.safetensors")).unwrap()
    };
    assert_eq!(weights(EDIT_FILE, "applied"), weights("back.edit.safetensors", "applied-back"));
    let back = ["revert", "--model", "applied-back", "--edit", "back.edit.safetensors", "--base", "model", "--out", "reverted"];
    sandbox.run(&back).success();
}

#[test]
fn nothing_is_overwritten_and_what_does_not_belong_is_refused() {
    let sandbox = with_edit();
    let export = [EXPORT, &[EDIT_FILE, "--rank", "2", "--base-model", "org/name", "--json"]].concat();
    let exported = sandbox.run(&export).success().json();
    assert_eq!(exported["weights"][0], json!({"parameter": TENSOR, "rank": 1, "relative_error": 0.0}));
    sandbox.run(&export).fails(1, &["adapter_model.safetensors", "--out"]);
    sandbox.run(IMPORT).success();
    sandbox.run(IMPORT).fails(2, &["back.edit.safetensors", "--out"]);

    easyedit::models::tiny::write_tiny_checkpoint("llama", 8, &sandbox.path("other")).unwrap();
    easyedit::models::tiny::write_tiny_checkpoint("gpt2", 8, &sandbox.path("other-family")).unwrap();
    let before = sandbox.listing();
    sandbox.run(&["export", "--model", "other", "--out", "new", EDIT_FILE]).fails(1, &[TENSOR, "differs"]);
    sandbox
        .run(&["import", "adapter", "--model", "other-family", "--out", "new.edit.safetensors"])
        .fails(1, &["down_proj", "no such module"]);
    sandbox.run(&["import", "model", "--model", "model", "--out", "new.edit.safetensors"]).fails(1, &["adapter_config.json"]);
    sandbox.run(&["export", "--model", "model", "--out", "new"]).fails(2, &["EDIT"]);
    sandbox.run(&["export", "--model", "model", "--out", "new", "--rank", "0", EDIT_FILE]).fails(2, &["--rank"]);
    assert_eq!(sandbox.listing(), before);
}
