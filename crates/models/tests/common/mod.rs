//! What the tests of this crate share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use easyedit_core::{LanguageModel, TokenBatch};
use easyedit_models::{Error, ModelConfig, Result, TensorSource, load_model};
use safetensors::{Dtype, SafeTensors};

/// Tensors of a safetensors file, held in memory.
pub(crate) struct MemoryTensors {
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl MemoryTensors {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, view)| {
            let values = match view.dtype() {
                Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::I64 => view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect(),
                other => panic!("{name} is {other:?}"),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        });
        Self { tensors: tensors.collect() }
    }

    pub(crate) fn get(&self, name: &str) -> &[f32] {
        &self.tensors[name].1
    }
}

impl TensorSource for MemoryTensors {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match self.tensors.get(name) {
            Some((have, values)) if have == shape => Ok(values.clone()),
            Some((have, _)) => Err(Error::tensor(name, self.path(), format!("has shape {have:?}, not {shape:?}"))),
            None => Err(Error::tensor(name, self.path(), "is missing")),
        }
    }

    fn path(&self) -> &Path {
        Path::new("memory")
    }
}

/// The folder of shared fixtures, or `None` (said aloud) where there is none.
pub(crate) fn shared(what: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os("EASYEDIT_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let path = folder.join(what);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there (set EASYEDIT_SHARED to the folder of fixtures)", path.display());
    None
}

/// The model in a folder, with the tiny byte tokenizer.
pub(crate) fn load(folder: &Path) -> Box<dyn LanguageModel> {
    let device = easyedit_core::device::select("cpu").unwrap();
    let config = ModelConfig::read(&folder.join("config.json")).unwrap();
    let tokenizer = easyedit_models::tiny::tiny_tokenizer().unwrap();
    load_model(&config, "fixture", &MemoryTensors::open(&folder.join("model.safetensors")), tokenizer, &device).unwrap()
}

pub(crate) fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.clone().into_data().try_to_vec().unwrap()
}

pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) })
}

#[track_caller]
pub(crate) fn assert_close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    let difference = largest_difference(a, b);
    assert!(difference <= tolerance, "{what}: differs by up to {difference}");
}

/// Rows of the golden batch, without their pads.
pub(crate) fn rows(golden: &MemoryTensors) -> Vec<Vec<u32>> {
    let (shape, ids) = &golden.tensors["input_ids"];
    let mask = golden.get("attention_mask");
    let row = |r: usize| (r * shape[1]..(r + 1) * shape[1]).filter(|i| mask[*i] == 1.0).map(|i| ids[i] as u32).collect();
    (0..shape[0]).map(row).collect()
}

/// A golden tensor `[rows, width, d]` without what stands at pads.
pub(crate) fn unpadded(golden: &MemoryTensors, name: &str, batch: &TokenBatch) -> Vec<f32> {
    let (shape, values) = &golden.tensors[name];
    let d = shape[2];
    (0..batch.rows()).flat_map(|r| values[r * shape[1] * d..][..batch.len(r) * d].to_vec()).collect()
}
