//! Edit files: loaded, looked at as `inspect` does, applied, reverted, and laid over the small model.

use std::collections::BTreeMap;
use std::fs;

use easyedit::{Edit, EditRequest, Fingerprint, Matrix, ParamName, TensorDelta, WeightDelta};
use serde_json::{Value, json};

use super::checkpoint::say;
use super::seed;
use crate::made;
use crate::reseal::resealed;
use crate::scratch::{file, folder};
use crate::small_model::{device, model};

pub(super) fn run(data: &[u8]) -> bool {
    let load = |content: &[u8]| Edit::load(&file(&folder("edits"), "a.edit.safetensors", content));
    // A checksum that does not fit ends the reading early, so both are tried: the file as it is, and with a checksum that fits.
    let Ok(edit) = load(data).or_else(|_| load(&resealed(data))) else { return false };
    for change in edit.deltas.values() {
        let _ = (change.delta.shape(), change.delta.rank(), change.delta.is_finite());
        let _ = Matrix::from_tensor(&change.delta.to_tensor(&device())).map(|matrix| matrix.norm());
    }
    let mut changed = model().boxed_clone();
    if let Ok(applied) = edit.apply(&mut *changed) {
        say(&*changed);
        let _ = applied.revert(&mut *changed);
    }
    let _ = edit.save(&folder("edits").join("a.edit.safetensors"));
    let laid_over = easyedit::registry().apply(std::slice::from_ref(&edit), model().boxed_clone());
    laid_over.is_ok_and(|laid_over| say(&*laid_over))
}

/// An edit that changes the weight a method would change by `delta`.
fn changing(delta: impl Fn([usize; 2]) -> WeightDelta) -> Edit {
    let name: ParamName = model().spec().mlp_out_weight(1);
    let weight = model().weight(&name).unwrap();
    let change = TensorDelta::new(delta(weight.dims()), Fingerprint::of(&weight).unwrap());
    Edit {
        method: "ROME".into(),
        model: model().spec().name.clone(),
        family: model().spec().family.clone(),
        hparams: json!({ "alg_name": "ROME", "layers": [1] }),
        seed: 0,
        requests: vec![EditRequest::new("ab is in", "ab", "x")],
        diagnostics: json!([{ "loss": [1.0, 0.5] }]),
        deltas: BTreeMap::from([(name, change)]),
        overlay: None,
    }
}

/// A matrix of small numbers.
fn matrix([rows, cols]: [usize; 2]) -> Matrix {
    Matrix::new(rows, cols, (0..rows * cols).map(|i| i as f32 * 0.01).collect()).unwrap()
}

/// A low-rank edit.
pub(super) fn low_rank() -> Edit {
    changing(|[rows, cols]| WeightDelta::LowRank { left: matrix([rows, 1]), right: matrix([1, cols]) })
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let bytes = |edit: &Edit| {
        let path = folder("edits").join("a.edit.safetensors");
        edit.save(&path).unwrap();
        fs::read(path).unwrap()
    };
    let made = |name: &str, changes: Value| bytes(&made::edit(made::method(name, &changes), None).unwrap());
    vec![
        seed("low-rank", bytes(&low_rank())),
        seed("dense", bytes(&changing(|shape| WeightDelta::Dense(matrix(shape))))),
        seed("sparse", bytes(&changing(|shape| WeightDelta::Sparse { shape, indices: vec![0, 3], values: vec![0.5, -0.5] }))),
        seed("codebook", made("GRACE", json!({ "n_iter": 1 }))),
        seed("demonstrations", made("IKE", json!({ "train_data": "records", "retrieval": "lexical" }))),
    ]
}
