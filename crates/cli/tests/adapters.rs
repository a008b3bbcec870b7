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
    let export = [EXPORT, &[EDIT_FILE, "--rank", "2", "--base-model-name", "org/name", "--json"]].concat();
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

#[test]
fn an_adapter_is_never_written_into_a_model_s_folder_or_over_foreign_files() {
    let sandbox = with_edit();
    easyedit::models::tiny::write_tiny_checkpoint("gpt2", 8, &sandbox.path("other")).unwrap();
    std::fs::create_dir(sandbox.path("foreign")).unwrap();
    sandbox.write("foreign/easyedit.json", "mine");
    let mut refused =
        vec![("model", "own folder"), ("model/../model/.", "own folder"), ("other", "holds a checkpoint"), ("foreign", "easyedit.json")];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(sandbox.path("model"), sandbox.path("link")).unwrap();
        refused.push(("link", "own folder"));
    }
    let before = sandbox.listing();
    for (out, part) in refused {
        sandbox.run(&["export", "--model", "model", "--out", out, EDIT_FILE]).fails(1, &[part, "--out"]);
        assert_eq!(sandbox.listing(), before, "{out}");
    }
    assert_eq!(std::fs::read_to_string(sandbox.path("foreign/easyedit.json")).unwrap(), "mine");
}

#[test]
fn no_path_of_this_disk_is_written_unless_it_is_given() {
    let sandbox = with_edit();
    let absolute = sandbox.path("model").display().to_string();
    let base = |name: &str, more: &[&str]| {
        let run = sandbox.run(&[&["export", "--model", &absolute, "--out", name, EDIT_FILE][..], more].concat()).success();
        let folder = sandbox.path(name);
        for entry in std::fs::read_dir(&folder).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let found = String::from_utf8_lossy(&bytes).contains(sandbox.path("").to_str().unwrap());
            assert!(!found || more.contains(&absolute.as_str()), "{name} holds a path");
        }
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
        (config["base_model_name_or_path"].as_str().unwrap().to_owned(), run.stdout())
    };
    let (name, told) = base("by-name", &[]);
    assert!(name == "model" && told.contains("--base-model-name"), "{name}: {told}");
    let (name, told) = base("by-id", &["--base-model-name", "org/tiny"]);
    assert!(name == "org/tiny" && !told.contains("--base-model-name"), "{name}: {told}");
    assert_eq!(base("by-path", &["--base-model-name", &absolute]).0, absolute);
}

/// What stands under "In Python" in the help, run as it is but for the two names.
#[test]
fn the_python_example_of_the_help_runs_as_it_stands() {
    let python = |code: &str| std::process::Command::new("python3").args(["-c", code]).env("HF_HUB_OFFLINE", "1").output();
    let succeeds = |code: &str| python(code).is_ok_and(|run| run.status.success());
    let help = Sandbox::new().run(&["export", "--help"]).success().stdout();
    let (_, example) = help.split_once("In Python:\n\n").unwrap();
    if !succeeds("import peft, torch, transformers") {
        // Whether it is Python at all needs no package.
        assert!(!succeeds("pass") || succeeds(&format!("compile({example:?}, 'example', 'exec')")), "{example}");
        println!("skipped: python3 with peft, torch and transformers is not here");
        return;
    }
    let sandbox = with_edit();
    let model = sandbox.path("model").display().to_string();
    sandbox.run(&["export", "--model", "model", "--out", "adapter", EDIT_FILE]).success();
    let (hub, adapter) = ("\"HuggingFaceTB/SmolLM2-135M-Instruct\"", "\"adapter\"");
    assert!(example.contains(hub) && example.contains(adapter), "{example}");
    let adapter_folder = sandbox.path("adapter").display().to_string();
    let example = example.replace(hub, &format!("{model:?}")).replace(adapter, &format!("{adapter_folder:?}"));
    let run = python(&format!("{example}\nassert model.peft_config[\"default\"].r == 1\n")).unwrap();
    assert!(run.status.success(), "{example}\n{}", String::from_utf8_lossy(&run.stderr));
}
