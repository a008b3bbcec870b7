use std::borrow::Cow;
use std::collections::BTreeMap;

use easyedit_core::{Edit, Matrix, ParamName, fingerprint_values};

use super::SavedTensor;
use crate::tensor_checks::weight_type;
use crate::{Checkpoint, Error, Result, Shard, WeightType};

/// A parameter's new values as they are stored.
pub(super) struct Change<'a> {
    /// Little-endian numbers of the tensor's type.
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) saved: SavedTensor,
}

/// Checks everything about the changes that can be wrong before a byte is written. The key is the stored name.
pub(super) fn plan<'a>(
    source: &Checkpoint,
    changed: &'a BTreeMap<ParamName, Matrix>,
    edits: &[Edit],
) -> Result<BTreeMap<String, Change<'a>>> {
    for edit in edits {
        if let Some(name) = edit.deltas.keys().find(|name| !changed.contains_key(name)) {
            let message = format!("the {} edit changes it, but its new values were not given to be saved", edit.method);
            return Err(Error::tensor(name.as_str(), source.path(), message));
        }
    }
    let mut changes = BTreeMap::new();
    for (parameter, matrix) in changed {
        let change = plan_one(source, parameter, matrix)?;
        let name = change.saved.name.clone();
        if let Some(other) = changes.insert(name.clone(), change) {
            let other: Change<'_> = other;
            let message = format!("both {} and {parameter} are stored in it", other.saved.parameter);
            return Err(Error::tensor(name, source.path(), message));
        }
    }
    Ok(changes)
}

fn plan_one<'a>(source: &Checkpoint, parameter: &ParamName, matrix: &'a Matrix) -> Result<Change<'a>> {
    let error = |message: String| Error::tensor(parameter.as_str(), source.path(), message);
    let (name, shape) = source
        .stored_name(parameter)?
        .and_then(|name| source.files().shape(&name).map(|shape| (name, shape)))
        .ok_or_else(|| error("was changed but is not in the checkpoint; save to the checkpoint the model was loaded from".to_owned()))?;
    // The model shows a vector as one row.
    let stored_shape = match shape[..] {
        [length] => [1, length],
        [rows, cols] => [rows, cols],
        _ => return Err(error(format!("has {} dimensions in the checkpoint, and only matrices and vectors are changed", shape.len()))),
    };
    if matrix.shape() != stored_shape {
        return Err(error(format!("the changed weight has shape {:?}, the checkpoint stores {shape:?}", matrix.shape())));
    }
    if matrix.values().iter().any(|v| !v.is_finite()) {
        return Err(error("the changed weight holds NaN or infinity; the edit is not saved".to_owned()));
    }
    let kind = stored_type(source, &name)?;
    let before = source.tensors().read(&name, &shape)?;
    let bytes = narrowed(kind, matrix.values());
    let (after, fits) = match kind {
        WeightType::F32 => (Cow::Borrowed(matrix.values()), true),
        WeightType::F16 | WeightType::Bf16 => {
            let (after, fits) = kind.widen(&bytes);
            (Cow::Owned(after), fits)
        }
    };
    if !fits {
        let largest = matrix.values().iter().fold(0f32, |max, v| max.max(v.abs()));
        return Err(error(format!(
            "the changed weight reaches {largest}, more than its type {} holds; save from an F32 copy of the model",
            kind.name()
        )));
    }
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt();
    let change = distance(matrix.values(), &before);
    let lost = if kind == WeightType::F32 { 0.0 } else { distance(&after, matrix.values()) };
    let rounding = if lost == 0.0 { 0.0 } else { lost / change };
    let (before, after) = (fingerprint_values(stored_shape, &before), fingerprint_values(stored_shape, &after));
    if change > 0.0 && before == after {
        tracing::warn!("tensor {name}: the whole change is lost when it is rounded to {}", kind.name());
    }
    let saved = SavedTensor { parameter: parameter.clone(), name, dtype: kind.name(), shape, before, after, rounding };
    Ok(Change { bytes, saved })
}

/// Values as bytes of a type; they are copied only where their form changes.
fn narrowed(kind: WeightType, values: &[f32]) -> Cow<'_, [u8]> {
    match kind {
        WeightType::F32 if cfg!(target_endian = "little") => Cow::Borrowed(bytemuck::cast_slice(values)),
        kind => Cow::Owned(kind.narrow(values)),
    }
}

/// The type tensor `name` is written in: the one it has in the source, or F32 if the source's format has none of its own.
pub(super) fn stored_type(source: &Checkpoint, name: &str) -> Result<WeightType> {
    match source.files().safetensors().and_then(|files| files.tensor(name).map(|tensor| (files, tensor))) {
        Some((files, tensor)) => {
            let file = files.shards().get(tensor.shard).map_or(source.path(), Shard::path);
            weight_type(name, file, tensor.dtype)
        }
        None => weight_type(name, source.path(), source.files().saved_dtype(name)),
    }
}
