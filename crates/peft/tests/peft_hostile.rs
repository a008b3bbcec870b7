//! Adapters that are damaged, absurd or of another kind: errors that say what is wrong, never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;

use easyedit_core::LanguageModel;
use easyedit_models::tiny::tiny_model;
use easyedit_peft::{CONFIG_FILE, PYTORCH_WEIGHTS_FILE, WEIGHTS_FILE, import};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use support::{distance, full, noise};
use tempfile::TempDir;

const MODULE: &str = "model.layers.1.mlp.down_proj";

/// A folder with an adapter that is right unless a test changes it.
struct Adapter {
    dir: TempDir,
    config: Value,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Adapter {
    fn lora() -> Self {
        let config = json!({
            "peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "fan_in_fan_out": false, "target_modules": ["down_proj"],
            "base_model_name_or_path": "tiny",
        });
        let mut adapter = Self { dir: tempfile::tempdir().unwrap(), config, tensors: Vec::new() };
        adapter.set("lora_A.weight", &[2, 64], noise(2, 64, 1).values());
        adapter.set("lora_B.weight", &[32, 2], noise(32, 2, 2).values());
        adapter
    }

    fn set(&mut self, part: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        let name = format!("base_model.model.{MODULE}.{part}");
        self.tensors.retain(|(other, ..)| *other != name);
        self.tensors.push((name, shape.to_vec(), values.to_vec()));
        self
    }

    fn without(&mut self, part: &str) -> &mut Self {
        self.tensors.retain(|(name, ..)| !name.ends_with(part));
        self
    }

    fn write(&self) -> &Path {
        std::fs::write(self.dir.path().join(CONFIG_FILE), self.config.to_string()).unwrap();
        let bytes: Vec<Vec<u8>> = self.tensors.iter().map(|(.., values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let views = self
            .tensors
            .iter()
            .zip(&bytes)
            .map(|((name, shape, _), bytes)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        std::fs::write(self.dir.path().join(WEIGHTS_FILE), safetensors::serialize(views, None).unwrap()).unwrap();
        self.dir.path()
    }
}

fn model() -> Box<dyn LanguageModel> {
    tiny_model("llama", 5).unwrap()
}

#[track_caller]
fn refused(folder: &Path, parts: &[&str]) {
    let message = import(folder, &*model()).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn a_good_adapter_is_scaled_factors() {
    let adapter = Adapter::lora();
    let edit = import(adapter.write(), &*model()).unwrap();
    assert_eq!(edit.method, easyedit_peft::IMPORTED_METHOD);
    assert_eq!(edit.diagnostics["modules"][0]["scale"], 2.0);
    let host = easyedit_core::device::select("cpu").unwrap();
    let want = noise(32, 2, 2).to_tensor(&host).matmul(noise(2, 64, 1).to_tensor(&host)) * 2.0;
    let want = easyedit_core::Matrix::from_tensor(&want).unwrap();
    assert!(distance(full(&[edit]).values().next().unwrap(), &want) < 1e-6);
}

#[test]
fn adalora_has_singular_values_between_its_factors() {
    let mut adapter = Adapter::lora();
    adapter.config = json!({"peft_type": "ADALORA", "init_r": 5, "lora_alpha": 10, "rank_pattern": {"a": [true]}});
    adapter.tensors.clear();
    adapter.set("lora_A", &[2, 64], noise(2, 64, 1).values()).set("lora_B", &[32, 2], noise(32, 2, 2).values());
    refused(adapter.write(), &[MODULE, "lora_E"]);
    adapter.set("lora_E", &[2, 1], &[3.0, -0.5]);
    let host = easyedit_core::device::select("cpu").unwrap();
    let e = easyedit_core::Matrix::row(vec![3.0, -0.5]).to_tensor(&host);
    let product = (noise(32, 2, 2).to_tensor(&host) * e).matmul(noise(2, 64, 1).to_tensor(&host));
    for (ranknum, scale) in [(None, 10.0 / 5.00001), (Some(4.0f32), 10.0 / 4.00001)] {
        if let Some(ranknum) = ranknum {
            adapter.set("ranknum", &[1], &[ranknum]);
        }
        let edit = import(adapter.write(), &*model()).unwrap();
        let want = easyedit_core::Matrix::from_tensor(&(product.clone() * scale)).unwrap();
        assert!(distance(full(&[edit]).values().next().unwrap(), &want) < 1e-6);
    }
    adapter.set("ranknum", &[2], &[1.0, 1.0]);
    refused(adapter.write(), &["ranknum"]);
    adapter.without("ranknum").set("lora_E", &[3, 1], &[1.0; 3]);
    refused(adapter.write(), &["lora_E", "shape"]);
}

#[test]
fn modules_of_rank_zero_are_passed_over() {
    let mut adapter = Adapter::lora();
    adapter.config = json!({"peft_type": "ADALORA"});
    adapter.tensors.clear();
    adapter.set("lora_A", &[0, 64], &[]).set("lora_B", &[32, 0], &[]).set("lora_E", &[0, 1], &[]);
    refused(adapter.write(), &["rank 0"]);
}

#[test]
fn kinds_that_are_no_low_rank_change_are_refused_by_name() {
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("peft_type", json!(3)),
        ("use_dora", json!(true)),
        ("bias", json!("lora_only")),
        ("modules_to_save", json!(["lm_head"])),
        ("init_lora_weights", json!("pissa")),
        ("r", json!(1e300)),
        ("r", json!(-2)),
        ("lora_alpha", json!([1])),
        ("rank_pattern", json!({MODULE: 3})),
        ("alpha_pattern", json!({"(": 3})),
    ] {
        let mut adapter = Adapter::lora();
        adapter.config[key] = value;
        refused(adapter.write(), &[CONFIG_FILE]);
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let change = |change: &dyn Fn(&mut Adapter), parts: &[&str]| {
        let mut adapter = Adapter::lora();
        change(&mut adapter);
        refused(adapter.write(), parts);
    };
    change(
        &|a| {
            a.without("lora_B.weight");
        },
        &[MODULE, "lora_A and lora_B"],
    );
    change(
        &|a| {
            a.set("lora_A.weight", &[2, 32], &[0.5; 64]);
        },
        &[MODULE, "width 64"],
    );
    change(
        &|a| {
            a.set("lora_A.weight", &[2, 4, 16], &[0.5; 128]);
        },
        &[MODULE, "lora_A"],
    );
    change(
        &|a| {
            a.set("lora_B.weight", &[32, 3], &[0.5; 96]);
        },
        &[MODULE, "lora_B"],
    );
    change(
        &|a| {
            a.set("lora_B.weight", &[32, 2], &[f32::NAN; 64]);
        },
        &["lora_B", "damaged"],
    );
    change(
        &|a| {
            a.set("lora_magnitude_vector", &[32], &[1.0; 32]);
        },
        &[MODULE, "lora_magnitude_vector"],
    );
    change(
        &|a| {
            a.set("lora_embedding_A", &[2, 64], &[1.0; 128]);
        },
        &[MODULE, "embedding"],
    );
    change(
        &|a| {
            a.set("bias", &[32], &[1.0; 32]);
        },
        &["bias", "not a LoRA"],
    );
    change(&|a| a.tensors.clear(), &["no tensors"]);
    change(&|a| a.tensors.iter_mut().for_each(|t| t.0 = t.0.replace("layers.1", "layers.9")), &["layers.9", "no such module"]);
    change(&|a| a.tensors.iter_mut().for_each(|t| t.0 = t.0.replace(MODULE, "down_proj")), &["could be any of 3"]);
    change(&|a| a.tensors.iter_mut().for_each(|t| t.0 = t.0.replace(MODULE, "model.embed_tokens")), &["table"]);
    change(
        &|a| {
            let twice: Vec<_> = a.tensors.iter().map(|(n, s, v)| (n.replace("model.layers", "layers"), s.clone(), v.clone())).collect();
            a.tensors.extend(twice);
        },
        &["another module"],
    );
    let huge = |a: &mut Adapter| {
        a.config["lora_alpha"] = json!(1e300);
        a.set("lora_B.weight", &[32, 2], &[1e30; 64]);
    };
    change(&huge, &[MODULE, "not finite"]);
}

#[test]
fn damaged_and_missing_files_are_refused() {
    let adapter = Adapter::lora();
    let folder = adapter.write().to_owned();
    let weights = std::fs::read(folder.join(WEIGHTS_FILE)).unwrap();
    for end in [0, 5, 8, 60, weights.len() - 1] {
        std::fs::write(folder.join(WEIGHTS_FILE), &weights[..end]).unwrap();
        refused(&folder, &[WEIGHTS_FILE]);
    }
    let mut absurd = weights.clone();
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(folder.join(WEIGHTS_FILE), &absurd).unwrap();
    refused(&folder, &[WEIGHTS_FILE]);
    std::fs::remove_file(folder.join(WEIGHTS_FILE)).unwrap();
    refused(&folder, &[WEIGHTS_FILE, PYTORCH_WEIGHTS_FILE]);
    std::fs::write(folder.join(PYTORCH_WEIGHTS_FILE), b"not a pickle").unwrap();
    refused(&folder, &[PYTORCH_WEIGHTS_FILE]);
    for text in ["", "[]", "{\"peft_type\": \"LORA\"", "null"] {
        std::fs::write(folder.join(CONFIG_FILE), text).unwrap();
        refused(&folder, &[CONFIG_FILE]);
    }
    std::fs::remove_file(folder.join(CONFIG_FILE)).unwrap();
    refused(&folder, &[CONFIG_FILE]);
    refused(&folder.join("nowhere"), &["nowhere"]);
}
