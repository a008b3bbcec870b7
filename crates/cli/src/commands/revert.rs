//! `easyedit revert`: takes edits back out of a checkpoint.
//!
//! A change that was added in floating point cannot be subtracted to the last bit. With the model from before the edits the very
//! weights are put back; without it they are restored up to rounding, and the fingerprint in the edit says whether that was exact.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use easyedit::models::{Checkpoint, check_output, save_checkpoint_into};
use easyedit::{Edit, Fingerprint, Matrix, OutputFolder, ParamName, fingerprint_values};
use serde::Serialize;
use serde_json::json;

use super::{Context, check_weights_only, load_edits};
use crate::args::RevertArguments;

/// How a weight came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// Taken from the model before the edits.
    FromBase,
    /// Subtracted, and the fingerprint says that it is the very weight.
    SubtractedExactly,
    /// Subtracted, equal up to rounding.
    Subtracted,
}

impl Way {
    fn words(self) -> &'static str {
        match self {
            Self::FromBase => "the base model's, bit for bit",
            Self::SubtractedExactly => "subtracted, bit for bit as before",
            Self::Subtracted => "subtracted, equal up to rounding (--base MODEL restores every bit)",
        }
    }
}

pub(super) fn run(context: &Context, arguments: &RevertArguments) -> Result<()> {
    let edits = load_edits(&arguments.edit)?;
    check_weights_only(&edits)?;
    let edited = context.open(&arguments.model.model)?;
    let base = arguments.base.as_deref().map(|name| context.open(name)).transpose()?;
    check_output(&edited, &arguments.out)?;
    let folder = OutputFolder::claim(&arguments.out)?;

    let mut restored = BTreeMap::new();
    let mut ways = BTreeMap::new();
    let names: Vec<&ParamName> = edits.iter().flat_map(|edit| edit.deltas.keys()).collect();
    for name in names {
        if !restored.contains_key(name) {
            let (weight, way) = restore(&edited, base.as_ref(), name, &edits)?;
            restored.insert(name.clone(), weight);
            ways.insert(name.clone(), way);
        }
    }
    let saved = save_checkpoint_into(&edited, &restored, &[], &folder)?;
    context.output.print(&json!({ "checkpoint": saved.folder, "tensors": ways }), || {
        let mut text = format!("{} edit(s) taken out of {}\n", edits.len(), edited.name());
        for (name, way) in &ways {
            text.push_str(&format!("  {name}: {}\n", way.words()));
        }
        text + &format!("checkpoint  {}\n", saved.folder.display())
    })
}

/// The weight before the edits that change it.
fn restore(edited: &Checkpoint, base: Option<&Checkpoint>, name: &ParamName, edits: &[Edit]) -> Result<(Matrix, Way)> {
    let changes: Vec<_> = edits.iter().filter_map(|edit| edit.deltas.get(name)).collect();
    let first = changes.first().with_context(|| format!("no edit changes {name}"))?;
    let shape = first.delta.shape();
    let before: &Fingerprint = &first.base;
    let now = read(edited, name, shape)?;
    if fingerprint_values(shape, now.values()) == *before {
        bail!("tensor {name} of {}: is the weight from before the edit, so the edit is not in this model", edited.name());
    }
    if let Some(base) = base {
        let weight = read(base, name, shape)?;
        if fingerprint_values(shape, weight.values()) != *before {
            bail!(
                "tensor {name} of {}: is not the weight the edit was made for; give the model the edit was made on as --base",
                base.name()
            );
        }
        return Ok((weight, Way::FromBase));
    }
    let host = easyedit::device::select("cpu")?;
    let mut weight = now.to_tensor(&host);
    for change in changes.iter().rev() {
        if change.delta.shape() != shape {
            bail!("tensor {name}: the edits are for weights of shapes {shape:?} and {:?}, not for one model", change.delta.shape());
        }
        weight = weight - change.delta.to_tensor(&host);
    }
    let weight = Matrix::from_tensor(&weight)?;
    let exact = fingerprint_values(shape, weight.values()) == *before;
    Ok((weight, if exact { Way::SubtractedExactly } else { Way::Subtracted }))
}

/// A weight as the checkpoint stores it; a vector as one row.
fn read(checkpoint: &Checkpoint, name: &ParamName, shape: [usize; 2]) -> Result<Matrix> {
    let stored = checkpoint
        .stored_name(name)?
        .with_context(|| format!("tensor {name}: {} has none of that name; the edit is for another model", checkpoint.name()))?;
    let has = checkpoint.files().shape(&stored).unwrap_or_default();
    let [rows, cols] = shape;
    if has != [rows, cols] && !(rows == 1 && has == [cols]) {
        bail!("tensor {name}: the edit is for shape {shape:?}, {} has {has:?}", checkpoint.name());
    }
    let values = checkpoint.tensors().read(&stored, &has)?;
    Matrix::new(rows, cols, values).with_context(|| format!("tensor {name} of {} is misshapen", checkpoint.name()))
}
