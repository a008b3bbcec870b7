//! What the tests of this crate share.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::{Edit, Fingerprint, LanguageModel, Matrix, ParamName, TensorDelta, WeightDelta, device};

/// Values that look random, the same for the same seed, around 0.
pub(crate) fn noise(rows: usize, cols: usize, seed: usize) -> Matrix {
    let values = (0..rows * cols).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 5045.0 - 0.1).collect();
    Matrix::new(rows, cols, values).unwrap()
}

/// A low-rank change of `model`'s weight `name`.
pub(crate) fn low_rank(model: &dyn LanguageModel, name: &str, rank: usize, seed: usize) -> (ParamName, TensorDelta) {
    let name = ParamName::from(name);
    let weight = model.weight(&name).unwrap();
    let [rows, cols] = weight.dims();
    let delta = WeightDelta::LowRank { left: noise(rows, rank, seed), right: noise(rank, cols, seed + 1) };
    (name, TensorDelta::new(delta, Fingerprint::of(&weight).unwrap()))
}

pub(crate) fn edit_of(model: &dyn LanguageModel, deltas: impl IntoIterator<Item = (ParamName, TensorDelta)>) -> Edit {
    Edit {
        method: "TEST".into(),
        model: model.spec().name.clone(),
        family: model.spec().family.clone(),
        hparams: serde_json::json!({}),
        seed: 0,
        requests: Vec::new(),
        diagnostics: serde_json::Value::Null,
        deltas: deltas.into_iter().collect(),
        overlay: None,
    }
}

/// The changes in full.
pub(crate) fn full(edits: &[Edit]) -> BTreeMap<ParamName, Matrix> {
    let host = device::select("cpu").unwrap();
    let mut sums: BTreeMap<ParamName, burn::tensor::Tensor<2>> = BTreeMap::new();
    for (name, change) in edits.iter().flat_map(|edit| &edit.deltas) {
        let delta = change.delta.to_tensor(&host);
        let sum = match sums.remove(name) {
            Some(sum) => sum + delta,
            None => delta,
        };
        sums.insert(name.clone(), sum);
    }
    sums.into_iter().map(|(name, sum)| (name, Matrix::from_tensor(&sum).unwrap())).collect()
}

/// Norm of the difference over the norm of `want`.
pub(crate) fn distance(got: &Matrix, want: &Matrix) -> f64 {
    assert_eq!(got.shape(), want.shape());
    let squares = got.values().iter().zip(want.values()).map(|(a, b)| f64::from(a - b).powi(2));
    squares.sum::<f64>().sqrt() / want.norm()
}

pub(crate) fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
