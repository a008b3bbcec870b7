//! Saving an edited model as a Hugging Face folder.

mod card;
mod changes;
mod history;
mod output;
mod provenance;
mod revert;
mod weights;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::{Edit, Fingerprint, Matrix, OutputFolder, ParamName, Progress, Silent, write_atomically};
use serde::Serialize;

use crate::{Checkpoint, Result};

pub use history::first_applied;
pub use output::{check_output, check_output_folder};
pub use provenance::PROVENANCE_FILE;
pub use revert::{Restored, Reverted, Way, revert, save_reverted_into};

/// A tensor that was changed, as it is stored now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SavedTensor {
    /// The model's name of the parameter.
    pub parameter: ParamName,
    /// Its name in the files.
    pub name: String,
    /// Its type in the files: `F32`, `F16` or `BF16`.
    pub dtype: &'static str,
    /// Its shape in the files.
    pub shape: Vec<usize>,
    /// Fingerprint of the source's tensor.
    pub before: Fingerprint,
    /// Fingerprint of the tensor as stored, rounded to `dtype`.
    pub after: Fingerprint,
    /// Share of the change that rounding to `dtype` took or added: norm of (stored - wanted) over norm of (wanted - before).
    pub rounding: f64,
}

/// What [`save_checkpoint`] wrote.
#[derive(Clone, Debug)]
pub struct SavedCheckpoint {
    /// The folder.
    pub folder: PathBuf,
    /// Names of the files in it, in alphabetical order.
    pub files: Vec<String>,
    /// The changed tensors, by name.
    pub tensors: Vec<SavedTensor>,
    /// Bytes of the weight files.
    pub weight_bytes: u64,
}

/// Saves `source` with the parameters `changed` as a Hugging Face folder `out` that `transformers` loads.
///
/// Names, layout, types and shards stay those of the source; unchanged tensors are copied byte for byte, streamed from the map of
/// the source; changed ones are rounded to the stored type. Tokenizer and configuration are carried along; `README.md` and
/// `easyedit.json` say which `edits` were made. PyTorch's files become safetensors with the same types; GGUF is written in F32.
/// Everything is written to a hidden folder inside `out` first and moved when complete, `config.json` last.
///
/// # Errors
///
/// As [`check_output`]; [`Error::Tensor`](crate::Error::Tensor) naming a parameter that is not in the source, misshapen, not finite
/// or too large for the stored type; [`Error::Io`](crate::Error::Io) if a file cannot be read or written, or the disk is full.
/// Nothing half-written stays then.
pub fn save_checkpoint(source: &Checkpoint, changed: &BTreeMap<ParamName, Matrix>, edits: &[Edit], out: &Path) -> Result<SavedCheckpoint> {
    // Before the claim, which would create the folder and put its lock into it.
    check_output(source, out)?;
    let folder = OutputFolder::claim(out)?;
    save_checkpoint_into(source, changed, edits, &folder, &Silent)
}

/// As [`save_checkpoint`], into a folder that the caller has claimed already, until `progress` says that the work is to end.
///
/// # Errors
///
/// As [`save_checkpoint`]; [`Cancelled`](easyedit_core::Error::Cancelled) in an [`Error::Core`](crate::Error::Core).
pub fn save_checkpoint_into(
    source: &Checkpoint,
    changed: &BTreeMap<ParamName, Matrix>,
    edits: &[Edit],
    folder: &OutputFolder,
    progress: &dyn Progress,
) -> Result<SavedCheckpoint> {
    save(source, changed, What::Applied(edits), folder, progress)
}

/// What a checkpoint is saved after.
#[derive(Clone, Copy)]
enum What<'a> {
    /// These edits were made.
    Applied(&'a [Edit]),
    /// These edits were taken back.
    Reverted(&'a [Edit]),
}

impl<'a> What<'a> {
    fn edits(self) -> &'a [Edit] {
        match self {
            Self::Applied(edits) | Self::Reverted(edits) => edits,
        }
    }
}

fn save(
    source: &Checkpoint,
    changed: &BTreeMap<ParamName, Matrix>,
    what: What<'_>,
    folder: &OutputFolder,
    progress: &dyn Progress,
) -> Result<SavedCheckpoint> {
    check_output(source, folder.path())?;
    let changes = changes::plan(source, changed, what.edits())?;
    let mut companions = source.files().companions()?;

    let staging = folder.stage()?;
    let tensors: Vec<SavedTensor> = changes.values().map(|change| change.saved.clone()).collect();
    let readme = companions.remove(card::CARD_FILE);
    let provenance = provenance::provenance(source, what, &tensors, companions.remove(PROVENANCE_FILE))?;
    companions.insert(card::CARD_FILE.to_owned(), card::model_card(source, what, &tensors, readme.as_deref())?);
    companions.insert(PROVENANCE_FILE.to_owned(), provenance);
    output::refuse_overwriting(folder.path(), companions.keys())?;

    let weight_bytes = weights::write(source, &changes, staging.path(), progress)?;
    for (name, bytes) in &companions {
        write_atomically(&staging.path().join(name), |w| w.write_all(bytes))?;
    }
    let files = staging.publish(output::CONFIG_FILE)?;
    Ok(SavedCheckpoint { folder: folder.path().to_owned(), files, tensors, weight_bytes })
}

/// Indented JSON with a line break at its end.
fn to_json(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
