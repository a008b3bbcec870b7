//! Small checkpoints made on the spot.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use easyedit_core::{Edit, EditRequest, Matrix, ParamName, TensorDelta, WeightDelta, fingerprint_values};
use easyedit_models::{INDEX_FILE, SINGLE_FILE, WeightType};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

pub(crate) const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[
{"id":3,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
"model":{"type":"WordLevel","vocab":{"the":0,"tower":1,"[UNK]":2,"</s>":3},"unk_token":"[UNK]"}}"#;

pub(crate) const A: &str = "model.layers.0.mlp.down_proj.weight";
pub(crate) const B: &str = "model.layers.1.mlp.down_proj.weight";
pub(crate) const NORM: &str = "model.norm.weight";

/// A tensor to be written: name, type, shape, bytes.
pub(crate) struct Raw {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn raw(name: &str, kind: WeightType, shape: &[usize], values: &[f32]) -> Raw {
    let dtype = match kind {
        WeightType::F32 => Dtype::F32,
        WeightType::F16 => Dtype::F16,
        WeightType::Bf16 => Dtype::BF16,
    };
    Raw { name: name.into(), dtype, shape: shape.to_vec(), bytes: kind.narrow(values) }
}

/// Values that no type stores exactly.
pub(crate) fn values(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|i| ((i as f32 + seed) * 0.7).sin()).collect()
}

pub(crate) fn safetensors(tensors: &[Raw], format: Option<&str>) -> Vec<u8> {
    let views = tensors.iter().map(|t| (t.name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    let metadata = format.map(|f| HashMap::from([("format".to_owned(), f.to_owned())]));
    safetensors::serialize(views, metadata).unwrap()
}

pub(crate) fn tensors(kind: WeightType) -> Vec<Raw> {
    vec![
        raw(A, kind, &[3, 5], &values(15, 0.0)),
        raw(B, kind, &[3, 5], &values(15, 100.0)),
        raw(NORM, kind, &[5], &values(5, 7.0)),
        Raw { name: "position_ids".into(), dtype: Dtype::I64, shape: vec![2], bytes: vec![9; 16] },
    ]
}

/// Writes a checkpoint folder: in one file, or with every tensor in a shard of its own.
pub(crate) fn write_checkpoint(folder: &Path, tensors: Vec<Raw>, sharded: bool) {
    fs::create_dir_all(folder).unwrap();
    let config = json!({"model_type": "llama", "eos_token_id": 3, "bos_token_id": 0, "max_position_embeddings": 64});
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), TOKENIZER).unwrap();
    fs::write(folder.join("tokenizer_config.json"), r#"{"eos_token": {"content": "</s>"}}"#).unwrap();
    fs::write(folder.join(".gitattributes"), "hidden").unwrap();
    fs::write(folder.join("pytorch_model.bin"), "left behind").unwrap();
    if !sharded {
        fs::write(folder.join(SINGLE_FILE), safetensors(&tensors, Some("pt"))).unwrap();
        return;
    }
    let count = tensors.len();
    let mut weight_map = BTreeMap::new();
    for (i, tensor) in tensors.into_iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        weight_map.insert(tensor.name.clone(), name.clone());
        fs::write(folder.join(&name), safetensors(&[tensor], Some("pt"))).unwrap();
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    fs::write(folder.join(INDEX_FILE), index.to_string()).unwrap();
}

pub(crate) fn changed(name: &str, rows: usize, cols: usize, values: Vec<f32>) -> BTreeMap<ParamName, Matrix> {
    BTreeMap::from([(ParamName::from(name), Matrix::new(rows, cols, values).unwrap())])
}

pub(crate) fn edit(name: &str, rows: usize, cols: usize) -> Edit {
    let delta = WeightDelta::LowRank { left: Matrix::column(vec![1.0; rows]), right: Matrix::row(vec![1.0; cols]) };
    let mut request = EditRequest::new("The Eiffel | Tower is in", "Eiffel | Tower", "Rome");
    request.ground_truth = Some("Paris".into());
    Edit {
        method: "ROME".into(),
        model: "tiny".into(),
        family: "llama".into(),
        hparams: json!({"layers": [0], "v_lr": 0.5}),
        seed: 42,
        requests: vec![request],
        diagnostics: json!({}),
        deltas: BTreeMap::from([(ParamName::from(name), TensorDelta::new(delta, fingerprint_values([rows, cols], &[])))]),
        overlay: None,
    }
}

/// Every file below `folder` with its content: two equal trees are equal.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path.clone());
                files.insert(path, Vec::new());
            } else {
                let content = fs::read(&path).unwrap_or_default();
                files.insert(path, content);
            }
        }
    }
    files
}

/// The folder of shared fixtures, if this machine has it.
pub(crate) fn shared() -> Option<PathBuf> {
    let folder = match std::env::var_os("EASYEDIT_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    if folder.join("fixtures").is_dir() {
        return Some(folder);
    }
    println!("skipped: no shared fixtures at {} (EASYEDIT_SHARED names another place)", folder.display());
    None
}
