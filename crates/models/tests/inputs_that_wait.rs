//! Pipes in the place of files: reading them would wait for ever, so every reader refuses them and names them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use easyedit_models::tiny::write_tiny_checkpoint;
use easyedit_models::*;
use tempfile::TempDir;

fn pipe(path: &Path) {
    let _ = std::fs::remove_file(path);
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn tiny() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_checkpoint("llama", 1, dir.path()).unwrap();
    dir
}

/// What opening the model and its tokenizer says.
fn message(path: &Path) -> String {
    let opened = Checkpoint::open(path).and_then(|checkpoint| checkpoint.tokenizer());
    opened.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn files_of_a_checkpoint_that_are_pipes_are_refused() {
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", SINGLE_FILE] {
        let dir = tiny();
        pipe(&dir.path().join(name));
        let message = message(dir.path());
        assert!(message.contains(name) && message.contains("a pipe or a device"), "{message}");
    }
    for (instead_of, name) in [
        ("tokenizer.json", "tokenizer.model"),
        ("tokenizer.json", "spiece.model"),
        (SINGLE_FILE, INDEX_FILE),
        (SINGLE_FILE, PYTORCH_FILE),
        (SINGLE_FILE, PYTORCH_INDEX_FILE),
        (SINGLE_FILE, "weights.pt"),
    ] {
        let dir = tiny();
        std::fs::remove_file(dir.path().join(instead_of)).unwrap();
        pipe(&dir.path().join(name));
        let message = message(dir.path());
        assert!(message.contains(name) && message.contains("a pipe or a device"), "{message}");
    }
}

#[test]
fn single_files_that_are_pipes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = dir.path().join(name);
        pipe(&path);
        path
    };
    for message in [
        message(&at("model.gguf")),
        ModelConfig::read(&at("config.json")).unwrap_err().to_string(),
        SafetensorsSource::open_file(&at("dump.safetensors")).unwrap_err().to_string(),
        PytorchSource::open_file(&at("weights.bin")).unwrap_err().to_string(),
        read_json_object(&at("adapter_config.json")).unwrap_err().to_string(),
    ] {
        assert!(message.contains("a pipe or a device"), "{message}");
    }
}

#[test]
fn a_file_that_is_a_pipe_does_not_go_along_with_a_saved_model() {
    let dir = tiny();
    pipe(&dir.path().join("notes.txt"));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let names: Vec<String> = checkpoint.files().companions().unwrap().into_keys().collect();
    assert!(names.contains(&"config.json".to_owned()) && !names.contains(&"notes.txt".to_owned()), "{names:?}");
}
