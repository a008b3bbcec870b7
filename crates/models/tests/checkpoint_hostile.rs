//! Checkpoints that are damaged or made to do harm: every one is an error that names the file or the tensor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checkpoint_support;

use std::fs;
use std::path::Path;

use checkpoint_support::*;
use easyedit_models::*;
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

fn checkpoint(sharded: bool) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), tensors(WeightType::F32), sharded);
    dir
}

fn single(tensors: Vec<Raw>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), tensors, false);
    dir
}

#[track_caller]
fn refused(folder: &Path, parts: &[&str]) {
    let message = Checkpoint::open(folder).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[track_caller]
fn unreadable(folder: &Path, name: &str, shape: &[usize], parts: &[&str]) {
    let message = Checkpoint::open(folder).unwrap().tensors().read(name, shape).unwrap_err().to_string();
    for part in [name].iter().chain(parts) {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

fn set_index(folder: &Path, tensor: &str, file: serde_json::Value) {
    let path = folder.join(INDEX_FILE);
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["weight_map"][tensor] = file;
    fs::write(path, index.to_string()).unwrap();
}

#[test]
fn a_file_that_is_cut_while_it_is_open_is_an_error() {
    let dir = checkpoint(false);
    let opened = Checkpoint::open(dir.path()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.path().join(SINGLE_FILE)).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let read = |name: &String| opened.tensors().read(name, &opened.files().shape(name).unwrap());
    let errors: Vec<String> = opened.tensors().names().iter().filter_map(|name| read(name).err()).map(|error| error.to_string()).collect();
    let cut: Vec<&String> = errors.iter().filter(|error| error.contains("cut short")).collect();
    assert!(cut.len() == 1 && cut[0].contains(SINGLE_FILE), "{errors:?}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = checkpoint(false);
    let path = dir.path().join(SINGLE_FILE);
    let whole = fs::read(&path).unwrap();
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        refused(dir.path(), &[SINGLE_FILE]);
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    refused(dir.path(), &[SINGLE_FILE, "header"]);
}

#[test]
fn an_absurd_header_length_is_refused() {
    let dir = checkpoint(false);
    for length in [u64::MAX, 1 << 40, 1 << 20] {
        fs::write(dir.path().join(SINGLE_FILE), [&length.to_le_bytes()[..], b"{}"].concat()).unwrap();
        refused(dir.path(), &[SINGLE_FILE, "header"]);
    }
}

#[test]
fn absurd_shapes_and_offsets_are_refused() {
    let dir = checkpoint(false);
    for (info, word) in [
        (json!({"dtype": "F32", "shape": [u64::MAX, 2], "data_offsets": [0, 8]}), "absurd"),
        (json!({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}), "shape"),
        (json!({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}), "evil"),
        (json!({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}), "evil"),
        (json!({"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}), "JSON"),
    ] {
        let header = json!({ "evil": info }).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
        fs::write(dir.path().join(SINGLE_FILE), bytes).unwrap();
        refused(dir.path(), &[SINGLE_FILE, word]);
    }
}

#[test]
fn a_git_lfs_pointer_says_what_to_do() {
    let dir = checkpoint(false);
    fs::write(dir.path().join(SINGLE_FILE), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n").unwrap();
    refused(dir.path(), &[SINGLE_FILE, "git lfs pull"]);
}

#[test]
fn tensors_that_are_missing_misshapen_damaged_or_of_another_type_are_named() {
    let dir = checkpoint(false);
    unreadable(dir.path(), "model.layers.9.mlp.down_proj.weight", &[3, 5], &["missing"]);
    unreadable(dir.path(), A, &[5, 3], &[SINGLE_FILE, "[3, 5]", "[5, 3]"]);
    unreadable(dir.path(), "position_ids", &[2], &["I64", "F32, F16 or BF16"]);
    let dir = single(vec![Raw { name: "x".into(), dtype: Dtype::F64, shape: vec![1], bytes: vec![0; 8] }]);
    unreadable(dir.path(), "x", &[1], &["F64"]);
    for kind in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
        for (bad, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let mut numbers = values(6, 0.0);
            numbers[4] = bad;
            let dir = single(vec![raw("x", kind, &[2, 3], &numbers)]);
            unreadable(dir.path(), "x", &[2, 3], &["damaged", "value 4", word]);
        }
    }
}

#[test]
fn an_index_that_leaves_the_folder_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("x.safetensors");
    fs::write(&secret, safetensors(&tensors(WeightType::F32), None)).unwrap();
    for evil in ["../x.safetensors", secret.to_str().unwrap(), "a/../../x", "..", ".", "", "sub/x.safetensors", "..\\x", "C:x"] {
        let dir = checkpoint(true);
        set_index(dir.path(), A, json!(evil));
        refused(dir.path(), &[INDEX_FILE, A, &format!("{evil:?}")]);
    }
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused() {
    let dir = checkpoint(true);
    set_index(dir.path(), A, json!("model-00009-of-00009.safetensors"));
    refused(dir.path(), &[INDEX_FILE, "model-00009-of-00009.safetensors", "not in the folder"]);

    let dir = checkpoint(true);
    set_index(dir.path(), A, json!("model-00002-of-00004.safetensors"));
    refused(dir.path(), &[A, "model-00002-of-00004.safetensors"]);

    let dir = checkpoint(true);
    set_index(dir.path(), "model.ghost.weight", json!("model-00002-of-00004.safetensors"));
    refused(dir.path(), &["model.ghost.weight", "model-00002-of-00004.safetensors"]);

    let dir = checkpoint(true);
    set_index(dir.path(), A, json!(3));
    refused(dir.path(), &[INDEX_FILE, A]);

    let dir = checkpoint(true);
    fs::write(dir.path().join("model-00002-of-00004.safetensors"), safetensors(&tensors(WeightType::F32), None)).unwrap();
    refused(dir.path(), &["another shard"]);

    for text in ["", "[]", "{}", r#"{"weight_map": {}}"#, r#"{"weight_map": 1}"#, "\u{feff}{"] {
        let dir = checkpoint(true);
        fs::write(dir.path().join(INDEX_FILE), text).unwrap();
        refused(dir.path(), &[INDEX_FILE]);
    }
}

#[test]
fn folders_that_are_no_checkpoint_say_what_is_missing() {
    let dir = checkpoint(false);
    refused(&dir.path().join("nowhere"), &["nowhere", "no file or folder"]);
    refused(&dir.path().join("tokenizer.json"), &["tokenizer.json", "config.json"]);
    refused(&dir.path().join(SINGLE_FILE), &[SINGLE_FILE, "config.json"]);
    fs::remove_file(dir.path().join(SINGLE_FILE)).unwrap();
    refused(dir.path(), &[PYTORCH_FILE, "not a PyTorch checkpoint"]);
    fs::rename(dir.path().join(PYTORCH_FILE), dir.path().join("other.bin")).unwrap();
    refused(dir.path(), &[SINGLE_FILE, "other.bin", PYTORCH_FILE]);
    fs::write(dir.path().join("q.gguf"), "").unwrap();
    refused(dir.path(), &["q.gguf"]);
    fs::create_dir(dir.path().join(SINGLE_FILE)).unwrap();
    refused(dir.path(), &[SINGLE_FILE, "regular file"]);
    fs::write(dir.path().join("config.json"), "[1]").unwrap();
    refused(dir.path(), &["config.json"]);
    fs::remove_file(dir.path().join("config.json")).unwrap();
    refused(dir.path(), &["config.json"]);
}

#[test]
fn tokenizers_that_are_damaged_or_missing_are_named() {
    let dir = checkpoint(false);
    let message = |parts: &[&str]| {
        let message = Checkpoint::open(dir.path()).unwrap().tokenizer().unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    };
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tokenizer().unwrap().eos(), [3]);
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [1, 3]}"#).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tokenizer().unwrap().eos(), [1, 3]);
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": "x"}"#).unwrap();
    message(&["generation_config.json", "eos_token_id"]);
    fs::write(dir.path().join("generation_config.json"), "{").unwrap();
    message(&["generation_config.json"]);
    // The second to fourth made the tokenizers crate panic, or may do so.
    for bad in [
        TOKENIZER[..100].to_owned(),
        TOKENIZER.replace("\"decoder\":null", "\"decoder\":?null"),
        TOKENIZER.replace("\"decoder\":null", "\"decoder\":{\"type\":7}"),
        TOKENIZER.replace("\"type\":\"WordLevel\"", "\"type\":\"BPE\",\"merges\":[[\"a\",\"b\"]]"),
    ] {
        assert_ne!(bad, TOKENIZER);
        fs::write(dir.path().join("tokenizer.json"), bad).unwrap();
        message(&["tokenizer.json", "not a tokenizer"]);
    }
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    message(&["tokenizer.json", "fetch it"]);
    fs::write(dir.path().join("tokenizer.model"), "sentencepiece").unwrap();
    message(&["tokenizer.model", "use_fast=True", "save_pretrained"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn changed_bytes_never_panic(
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
        file in prop::sample::select(vec![SINGLE_FILE, "config.json", "tokenizer.json", "tokenizer_config.json"]),
    ) {
        let dir = checkpoint(false);
        let path = dir.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        for (place, value) in &places {
            let place = place.index(bytes.len());
            bytes[place] = *value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            let _ = checkpoint.tokenizer();
            for name in checkpoint.tensors().names() {
                let shape = checkpoint.files().shape(&name).unwrap();
                if let Ok(values) = checkpoint.tensors().read(&name, &shape) {
                    prop_assert!(values.iter().all(|v| v.is_finite()));
                }
            }
            let out = dir.path().join("out");
            if save_checkpoint(&checkpoint, &Default::default(), &[], &out).is_ok() {
                prop_assert!(Checkpoint::open(&out).is_ok());
            } else {
                prop_assert!(!out.exists());
            }
        }
    }

    #[test]
    fn changed_indexes_never_panic(place in any::<prop::sample::Index>(), value in any::<u8>()) {
        let dir = checkpoint(true);
        let path = dir.path().join(INDEX_FILE);
        let mut bytes = fs::read(&path).unwrap();
        let place = place.index(bytes.len());
        bytes[place] = value;
        fs::write(&path, &bytes).unwrap();
        if let Err(error) = Checkpoint::open(dir.path()) {
            prop_assert!(error.to_string().contains("model"), "{error}");
        }
    }
}
