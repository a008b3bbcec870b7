//! Checkpoints that are read and saved again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checkpoint_support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use checkpoint_support::*;
use easyedit_core::{Tokenizer, fingerprint_values};
use easyedit_models::*;
use serde_json::Value;

const TYPES: [WeightType; 3] = [WeightType::F32, WeightType::F16, WeightType::Bf16];

fn rounded(kind: WeightType, values: &[f32]) -> Vec<f32> {
    kind.widen(&kind.narrow(values)).0
}

fn source(checkpoint: &Checkpoint) -> &SafetensorsSource {
    checkpoint.files().safetensors().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_type_single_and_sharded_is_read_and_saved_with_one_tensor_changed() {
    for kind in TYPES {
        for sharded in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (input, out) = (dir.path().join("in"), dir.path().join("out"));
            write_checkpoint(&input, tensors(kind), sharded);
            let checkpoint = Checkpoint::open(&input).unwrap();
            assert_eq!(checkpoint.tensors().read(A, &[3, 5]).unwrap(), rounded(kind, &values(15, 0.0)));
            assert_eq!(checkpoint.tensors().read(NORM, &[5]).unwrap(), rounded(kind, &values(5, 7.0)));

            let wanted = values(15, 3.3);
            let saved = save_checkpoint(&checkpoint, &changed(A, 3, 5, wanted.clone()), &[edit(A, 3, 5)], &out).unwrap();
            let again = Checkpoint::open(&out).unwrap();
            let stored = again.tensors().read(A, &[3, 5]).unwrap();
            assert_eq!(stored, rounded(kind, &wanted));
            for (name, before) in source(&checkpoint).tensors() {
                let after = source(&again).tensor(name).unwrap();
                assert_eq!(after, before, "{name} keeps type, shape and place");
                assert_eq!(source(&again).raw(name) == source(&checkpoint).raw(name), name != A, "{name}");
            }
            for (before, after) in source(&checkpoint).shards().iter().zip(source(&again).shards()) {
                assert_eq!(before.path().file_name(), after.path().file_name());
                assert_eq!(before.header(), after.header());
            }
            let tensor = &saved.tensors[0];
            assert_eq!((tensor.name.as_str(), tensor.dtype), (A, kind.name()));
            assert_eq!(tensor.before, fingerprint_values([3, 5], &rounded(kind, &values(15, 0.0))));
            assert_eq!(tensor.after, fingerprint_values([3, 5], &stored));
            assert_eq!(tensor.rounding == 0.0, kind == WeightType::F32);
            assert!(tensor.rounding < 0.01, "{}", tensor.rounding);

            let mut names: Vec<String> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            assert_eq!(names, saved.files, "nothing hidden is left");
            for carried in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
                assert_eq!(fs::read(out.join(carried)).unwrap(), fs::read(input.join(carried)).unwrap());
            }
            assert_eq!(out.join(INDEX_FILE).exists(), sharded);
            assert!(!out.join(".gitattributes").exists() && !out.join("pytorch_model.bin").exists());
            let weights: u64 = source(&again).shards().iter().map(|s| s.path().metadata().unwrap().len()).sum();
            assert_eq!(weights, saved.weight_bytes);
        }
    }
}

#[test]
fn the_card_and_the_record_say_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out, second) = (dir.path().join("in"), dir.path().join("out"), dir.path().join("second"));
    write_checkpoint(&input, tensors(WeightType::F32), false);
    fs::write(input.join("README.md"), "---\r\nlicense: mit\r\n---\r\n# Tiny\r\nIts own text.\r\n").unwrap();
    let checkpoint = Checkpoint::open(&input).unwrap().with_name("org/tiny");
    // Computed once: a sine that the compiler evaluates may differ in the last bit from one of the system's library.
    let new = values(15, 1.0);
    save_checkpoint(&checkpoint, &changed(A, 3, 5, new.clone()), &[edit(A, 3, 5)], &out).unwrap();

    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.starts_with("---\nlicense: mit\n---\n"), "{card}");
    for part in ["ROME", "seed 42", "\"v_lr\": 0.5", A, "| The Eiffel \\| Tower is in | Eiffel \\| Tower | Paris | Rome |"] {
        assert!(card.contains(part), "{part} is not in\n{card}");
    }
    assert!(card.find("# org/tiny, edited").unwrap() < card.find("Its own text.").unwrap());

    let record = json(&out.join(PROVENANCE_FILE));
    assert_eq!(record["base_model"]["name"], "org/tiny");
    assert_eq!(record["edits"][0]["requests"][0]["target_new"], "Rome");
    assert_eq!(record["edits"][0]["seed"], 42);
    assert_eq!(record["tensors"][0]["after"], fingerprint_values([3, 5], &new).as_str());

    // Edited again: the record of the first edit goes along.
    save_checkpoint(&Checkpoint::open(&out).unwrap(), &changed(B, 3, 5, values(15, 2.0)), &[edit(B, 3, 5)], &second).unwrap();
    let record = json(&second.join(PROVENANCE_FILE));
    assert_eq!(record["tensors"][0]["name"], B);
    assert_eq!(record["earlier"]["tensors"][0]["name"], A);
    assert!(fs::read_to_string(second.join("README.md")).unwrap().contains("Its own text."));
}

#[test]
fn parameters_are_found_without_the_prefix_and_vectors_as_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    let weights = vec![
        raw("h.0.mlp.c_proj.weight", WeightType::F16, &[2, 3], &values(6, 0.0)),
        raw("h.0.mlp.c_proj.bias", WeightType::F16, &[3], &values(3, 0.0)),
    ];
    write_checkpoint(&input, weights, false);
    fs::write(input.join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    let checkpoint = Checkpoint::open(&input).unwrap();
    let mut changes = changed("transformer.h.0.mlp.c_proj.weight", 2, 3, values(6, 5.0));
    changes.extend(changed("transformer.h.0.mlp.c_proj.bias", 1, 3, values(3, 5.0)));
    let saved = save_checkpoint(&checkpoint, &changes, &[], &out).unwrap();
    assert_eq!(saved.tensors.len(), 2);
    let again = Checkpoint::open(&out).unwrap();
    assert_eq!(again.tensors().read("h.0.mlp.c_proj.weight", &[2, 3]).unwrap(), rounded(WeightType::F16, &values(6, 5.0)));
    assert_eq!(again.tensors().read("h.0.mlp.c_proj.bias", &[3]).unwrap(), rounded(WeightType::F16, &values(3, 5.0)));
}

#[test]
fn a_header_without_a_format_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    write_checkpoint(&input, tensors(WeightType::Bf16), false);
    fs::write(input.join(SINGLE_FILE), safetensors(&tensors(WeightType::Bf16), None)).unwrap();
    let checkpoint = Checkpoint::open(&input).unwrap();
    save_checkpoint(&checkpoint, &changed(B, 3, 5, values(15, 1.0)), &[], &out).unwrap();
    let again = Checkpoint::open(&out).unwrap();
    assert_eq!(source(&again).shards()[0].format(), Some("pt"));
    assert_eq!(source(&again).raw(A), source(&checkpoint).raw(A));
    assert_eq!(again.tensors().read(B, &[3, 5]).unwrap(), rounded(WeightType::Bf16, &values(15, 1.0)));
}

/// The files of a Hugging Face folder, shown as a checkpoint of another format.
struct Foreign(HuggingFaceFolder);

impl CheckpointFiles for Foreign {
    fn config(&self) -> &Value {
        self.0.config()
    }

    fn tensors(&self) -> &dyn TensorSource {
        self.0.tensors()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(name)
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        self.0.tokenizer()
    }

    fn companions(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let tokenizer = self.tokenizer()?.inner().to_string(true).unwrap();
        let config = r#"{"model_type": "llama", "eos_token_id": 3, "torch_dtype": "float32"}"#;
        Ok(BTreeMap::from([("config.json".into(), config.into()), ("tokenizer.json".into(), tokenizer.into_bytes())]))
    }
}

#[test]
fn a_checkpoint_of_another_format_becomes_a_folder_in_f32() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    let mut weights = tensors(WeightType::F16);
    weights.pop();
    write_checkpoint(&input, weights, false);
    let folder = HuggingFaceFolder::open(&input).unwrap();
    let checkpoint = Checkpoint::from_files(&input.join("x.gguf"), Box::new(Foreign(folder)));
    let wanted = values(15, 8.0);
    save_checkpoint(&checkpoint, &changed(A, 3, 5, wanted.clone()), &[edit(A, 3, 5)], &out).unwrap();

    let again = Checkpoint::open(&out).unwrap();
    assert_eq!(again.name(), "out");
    assert_eq!(again.tensors().read(A, &[3, 5]).unwrap(), wanted);
    assert_eq!(again.tensors().read(B, &[3, 5]).unwrap(), rounded(WeightType::F16, &values(15, 100.0)));
    assert_eq!(again.config()["torch_dtype"], "float32");
    let tokenizer = again.tokenizer().unwrap();
    assert_eq!(tokenizer.eos(), [3]);
    assert_eq!(tokenizer.encode("the tower").unwrap().ids, [0, 1]);
    assert_eq!(source(&again).shards()[0].format(), Some("pt"));
    assert_eq!(source(&again).tensor(B).unwrap().dtype, safetensors::Dtype::F32);
}

#[test]
fn other_files_of_the_output_folder_stay_and_leftovers_go() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    write_checkpoint(&input, tensors(WeightType::F32), false);
    fs::create_dir_all(out.join(".easyedit-staging-killed")).unwrap();
    fs::write(out.join(".easyedit-staging-killed/model.safetensors"), "half").unwrap();
    fs::write(out.join("rome.edit.safetensors"), "an edit").unwrap();
    save_checkpoint(&Checkpoint::open(&input).unwrap(), &BTreeMap::new(), &[], &out).unwrap();
    assert!(!out.join(".easyedit-staging-killed").exists());
    assert_eq!(fs::read(out.join("rome.edit.safetensors")).unwrap(), b"an edit");
    assert!(Checkpoint::open(&out).is_ok());
}

#[test]
fn shared_fixtures_saved_unchanged_are_the_same_files() {
    let Some(shared) = shared() else { return };
    for family in ["gpt2", "llama"] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let checkpoint = Checkpoint::open(&shared.join("fixtures").join(family)).unwrap();
        assert_eq!((checkpoint.name(), checkpoint.model_type()), (family, family));
        assert_eq!(checkpoint.tokenizer().unwrap().vocab_size(), 512);
        save_checkpoint(&checkpoint, &BTreeMap::new(), &[], &out).unwrap();
        for shard in source(&checkpoint).shards() {
            let copy = out.join(shard.path().file_name().unwrap());
            assert!(fs::read(copy).unwrap() == fs::read(shard.path()).unwrap(), "{}", shard.path().display());
        }
    }
}
