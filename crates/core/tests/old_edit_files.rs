//! Edit files from before they had labels.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use easyedit_core::{Edit, Fingerprint, Matrix, Overlay, ParamName, TensorDelta, WeightDelta};
use serde_json::json;

fn load(name: &str) -> Edit {
    Edit::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn matrix(rows: usize, cols: usize) -> Matrix {
    Matrix::new(rows, cols, (0..rows * cols).map(|i| i as f32 + 0.5).collect()).unwrap()
}

#[test]
fn files_of_format_1_are_read() {
    let edit = load("weights-format-1.edit.safetensors");
    assert_eq!((edit.method.as_str(), edit.seed, edit.requests[0].target_new.as_str()), ("ROME", 7, "Rome"));
    let base: Fingerprint = serde_json::from_value(json!("ab".repeat(32))).unwrap();
    let deltas = [
        ("a.weight", WeightDelta::LowRank { left: matrix(3, 1), right: matrix(1, 2) }),
        ("b.weight", WeightDelta::Dense(matrix(2, 2))),
        ("c.weight", WeightDelta::Sparse { shape: [2, 3], indices: vec![1, 4], values: vec![0.25, -2.0] }),
    ];
    assert_eq!(edit.deltas, deltas.map(|(name, delta)| (ParamName::from(name), TensorDelta::new(delta, base.clone()))).into());
    // Saved again, it is of the present form and says the same.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new.edit.safetensors");
    edit.save(&path).unwrap();
    assert_eq!(Edit::load(&path).unwrap(), edit);
    assert!(String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains("sha256"));
}

#[test]
fn overlays_of_format_2_are_read() {
    let edit = load("overlay-format-2.edit.safetensors");
    let overlay = Overlay { data: json!({"layer": 1}), tensors: [("keys".to_owned(), matrix(2, 3))].into() };
    assert_eq!((edit.method.as_str(), edit.deltas.len(), edit.overlay), ("GRACE", 0, Some(overlay)));
}
