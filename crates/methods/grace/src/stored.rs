//! Codebooks as overlays.

use std::collections::BTreeMap;

use easyedit_core::{Error, Matrix, ModelSpec, Overlay, Result};
use serde::{Deserialize, Serialize};

use crate::codebook::{Codebook, EditId, Insertion, Replacement, Rules};

/// What is no tensor.
#[derive(Serialize, Deserialize)]
struct Data {
    #[serde(flatten)]
    rules: Rules,
    /// Fingerprint of the model the edits were made for.
    #[serde(default)]
    model_fingerprint: String,
    edits: Vec<EditData>,
}

#[derive(Serialize, Deserialize)]
struct EditData {
    #[serde(flatten)]
    id: EditId,
    label: String,
}

impl Codebook {
    /// The codebook as an overlay: tensors `keys: [edits, d_mlp]`, `values: [edits, d_model]` and `radii: [edits, 1]`, everything else as
    /// data. `fingerprint` is that of the model its edits were made for.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there are no edits, or keys or values differ in width.
    pub fn to_overlay(&self, fingerprint: &str) -> Result<Overlay> {
        let edits = self.insertions().iter().map(|edit| EditData { id: edit.id.clone(), label: edit.label.clone() }).collect();
        let data = Data { rules: self.rules(), model_fingerprint: fingerprint.to_owned(), edits };
        let rows = |of: fn(&Insertion) -> &[f32]| {
            let width = self.insertions().first().map_or(0, |edit| of(edit).len());
            let values: Vec<f32> = self.insertions().iter().flat_map(of).copied().collect();
            Matrix::new(self.insertions().len(), width, values)
                .ok_or_else(|| Error::Batch("the edits of a codebook differ in width".into()))
        };
        let tensors = [
            ("keys", rows(|edit| &edit.key)?),
            ("values", rows(|edit| &edit.value)?),
            ("radii", rows(|edit| std::slice::from_ref(&edit.radius))?),
        ];
        if self.insertions().is_empty() {
            return Err(Error::Batch("a codebook without edits is none".into()));
        }
        let data = serde_json::to_value(data).map_err(Error::other)?;
        Ok(Overlay { data, tensors: tensors.into_iter().map(|(name, matrix)| (name.to_owned(), matrix)).collect::<BTreeMap<_, _>>() })
    }

    /// The codebook of an overlay for a model, with the fingerprint of the model it was made for.
    ///
    /// # Errors
    ///
    /// If the overlay is no codebook, or does not fit the model's shape; the tensor or layer is named.
    pub fn from_overlay(overlay: &Overlay, spec: &ModelSpec) -> Result<(Self, String)> {
        let data: Data = serde_json::from_value(overlay.data.clone()).map_err(|error| no_codebook(&error))?;
        data.rules.check_layer(spec)?;
        if data.rules.replacement == Replacement::ReplaceAll {
            return Err(Error::hparams("the codebook says replace_all, which is not supported"));
        }
        let count = data.edits.len();
        let keys = overlay.tensor("keys", [count, spec.d_mlp])?.values().chunks_exact(spec.d_mlp.max(1));
        let values = overlay.tensor("values", [count, spec.d_model])?.values().chunks_exact(spec.d_model.max(1));
        let radii = overlay.tensor("radii", [count, 1])?.values();
        if radii.iter().any(|radius| *radius < 0.0) {
            return Err(Error::tensor("radii", "holds a negative radius in the edit's overlay"));
        }
        let mut codebook = Self::new(data.rules);
        for (((edit, key), value), radius) in data.edits.into_iter().zip(keys).zip(values).zip(radii) {
            codebook.insert(Insertion { id: edit.id, label: edit.label, key: key.to_vec(), value: value.to_vec(), radius: *radius });
        }
        Ok((codebook, data.model_fingerprint))
    }
}

/// The overlay of a codebook of `count` edits without those at the places `forgotten`.
///
/// # Errors
///
/// If it is no such codebook; the tensor is named.
pub(crate) fn without(overlay: &Overlay, count: usize, forgotten: &[usize]) -> Result<Overlay> {
    let mut data: Data = serde_json::from_value(overlay.data.clone()).map_err(|error| no_codebook(&error))?;
    let kept: Vec<usize> = (0..count).filter(|place| !forgotten.contains(place)).collect();
    let mut tensors = BTreeMap::new();
    for (name, matrix) in &overlay.tensors {
        if matrix.shape()[0] != count || data.edits.len() != count {
            return Err(Error::tensor(name, format!("holds {} rows in the overlay of {count} edits", matrix.shape()[0])));
        }
        tensors.insert(name.clone(), matrix.select_rows(&kept));
    }
    let mut place = 0;
    data.edits.retain(|_| {
        place += 1;
        !forgotten.contains(&(place - 1))
    });
    Ok(Overlay { data: serde_json::to_value(data).map_err(Error::other)?, tensors })
}

fn no_codebook(error: &serde_json::Error) -> Error {
    Error::tensor("keys", format!("the edit's overlay is no codebook of GRACE: {error}"))
}
