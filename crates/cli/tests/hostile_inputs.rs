//! Inputs made to do harm, given to the program: each is an error that names the file or the flag, and none is waited for.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::Sandbox;
use serde_json::json;

const REQUEST: [&str; 6] = ["--prompt", "The Eiffel Tower is in", "--subject", "The Eiffel Tower", "--target", "Rome"];

#[test]
fn pipes_and_devices_are_refused_by_every_flag_that_names_a_file() {
    let sandbox = Sandbox::new();
    let pipe = |name: &str| assert!(std::process::Command::new("mkfifo").arg(sandbox.path(name)).status().unwrap().success());
    ["p.json", "p.yaml", "p.npz", "p.safetensors", "p.txt", "p.gguf"].into_iter().for_each(pipe);
    let edit = ["edit", "--model", "model", "--hparams", "tiny.yaml"];
    for (command, name) in [
        (vec!["edit", "--model", "model", "--requests", "p.json"], "p.json"),
        ([&["edit", "--model", "model", "--hparams", "p.yaml"], &REQUEST[..]].concat(), "p.yaml"),
        ([&edit[..], &REQUEST, &["--corpus", "p.txt"]].concat(), "p.txt"),
        ([&edit[..], &REQUEST, &["--corpus", "/dev/zero"]].concat(), "/dev/zero"),
        (vec!["edit", "--model", "model", "--requests", "/dev/zero"], "/dev/zero"),
        (vec!["edit", "--model", "p.gguf", "--requests", "p.json"], "p.json"),
        (vec!["generate", "--model", "p.gguf", "--prompt", "x"], "p.gguf"),
        (vec!["generate", "--model", "model", "--prompt", "x", "--edit", "p.safetensors"], "p.safetensors"),
        (vec!["generate", "--model", "model", "--prompt", "x", "--edit", "/dev/zero"], "/dev/zero"),
        (vec!["perplexity", "--model", "model", "--text", "p.txt"], "p.txt"),
        (vec!["apply", "--model", "model", "--edit", "p.safetensors", "--out", "o"], "p.safetensors"),
        (vec!["revert", "--model", "model", "--edit", "p.safetensors", "--out", "o"], "p.safetensors"),
        (vec!["forget", "p.safetensors", "--case-id", "0", "--out", "o"], "p.safetensors"),
        (vec!["inspect", "p.safetensors"], "p.safetensors"),
        (vec!["export", "--model", "model", "p.safetensors", "--out", "o"], "p.safetensors"),
        (vec!["stats", "--model", "model", "--layers", "1", "--corpus", "p.txt"], "p.txt"),
        (vec!["stats", "--model", "model", "--hparams", "p.yaml"], "p.yaml"),
        (vec!["stats", "import", "--model", "model", "--layer", "1", "--corpus", "c", "p.npz"], "p.npz"),
        (vec!["index", "--lexical", "--demonstrations", "p.json"], "p.json"),
        (vec!["trace", "--model", "model", "--requests", "p.json"], "p.json"),
        (vec!["verify", "--model", "model", "--golden", "p.safetensors"], "p.safetensors"),
    ] {
        let run = sandbox.run(&command);
        assert!([1, 2].contains(&run.code()) && run.stderr().contains(name), "{command:?}: {} {}", run.code(), run.stderr());
    }
}

#[test]
fn hyperparameters_that_nest_without_end_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("deep.yaml", &format!("alg_name: ROME\nx: {}", "[".repeat(60_000)));
    sandbox.write("long.yaml", &format!("alg_name: ROME\nx: {}", "[".repeat(200_000)));
    let edit = |file| [&["edit", "--model", "model", "--hparams", file], &REQUEST[..]].concat();
    sandbox.run(&edit("deep.yaml")).fails(1, &["deep.yaml", "nested deeper"]);
    sandbox.run(&edit("long.yaml")).fails(1, &["long.yaml", "200018 bytes"]);
}

#[test]
fn counts_beyond_their_ceiling_are_refused() {
    let sandbox = Sandbox::new();
    let generate = ["generate", "--model", "model", "--prompt", "x", "-n"];
    sandbox.run(&[&generate[..], &["18446744073709551615"]].concat()).fails(2, &["--max-new-tokens", "0 to 1048576"]);
    sandbox.run(&[&generate[..], &["1048576"]].concat()).fails(1, &["1048576 new ones", "512 positions"]);
}

#[test]
fn more_layers_than_tensors_are_refused() {
    for layers in [1_000, 1 << 19] {
        let sandbox = Sandbox::new();
        sandbox.change_json("model/config.json", |config| config["num_hidden_layers"] = json!(layers));
        let generate = ["generate", "--model", "model", "--prompt", "x"];
        sandbox.run(&generate).fails(1, &["config.json", &format!("num_hidden_layers is {layers}"), "tensors"]);
    }
}

#[test]
fn a_tokenizer_that_fails_on_a_text_is_one_error() {
    let text = "w1 The author of Green aaaaaaaaaaaaaaaaaaaaaaaaaaaaaab";
    for (part, value, wanted) in [
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": true}),
            "too many steps",
        ),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "pre_tokenizer (FixedLength)"),
        ("normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "zz"}), "normalizer (Replace)"),
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "/////wAA"}), "normalizer (Precompiled)"),
    ] {
        let sandbox = Sandbox::new();
        sandbox.change_json("model/tokenizer.json", |tokenizer| tokenizer[part] = value);
        let run = sandbox.run(&["generate", "--model", "model", "--prompt", text, "-n", "2"]);
        assert!(!run.stderr().contains("panicked"), "{}", run.stderr());
        run.fails(1, &["tokenizer.json", wanted]);
    }
}

#[test]
fn offline_starts_no_process() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("bin")).unwrap();
    let mark = sandbox.path("mark");
    for name in ["pip", "pip3", "python", "python3"] {
        let program = sandbox.write(&format!("bin/{name}"), &format!("#!/bin/sh\necho {name} >> {}\nexit 1\n", mark.display()));
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = sandbox.path("bin").display().to_string();
    for (variable, other) in [("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), ("TRANSFORMERS_OFFLINE", "HF_HUB_OFFLINE")] {
        for model in ["smollm2-135m", "all-minilm-l6-v2", "gpt2", "some/model"] {
            let variables = [("PATH", path.as_str()), (variable, "1"), (other, "0")];
            let run = sandbox.run_with(&variables, &["generate", "--model", model, "--prompt", "x"]);
            run.fails(1, &[model, &format!("{variable} is set")]);
            assert!(!mark.exists(), "{model} started {}", std::fs::read_to_string(&mark).unwrap());
        }
    }
    // The same programs are found when nothing forbids it.
    let variables = [("PATH", path.as_str()), ("HF_HUB_OFFLINE", "0"), ("HF_ENDPOINT", "http://127.0.0.1:1")];
    sandbox.run_with(&variables, &["generate", "--model", "smollm2-135m", "--prompt", "x"]).fails(1, &["python3"]);
    assert!(mark.exists());
}
