//! Taking edits back out of a checkpoint.
//!
//! A change that was added in floating point cannot be subtracted to the last bit. With the model from before the edits the very weights are put
//! back; without it they are restored up to the rounding of the type they are stored in. Whether an edit is in a checkpoint is told by the
//! checkpoint's record, which has the fingerprints of its weights as stored, before and after; without a record, the weights themselves are compared.

use std::collections::BTreeMap;

use easyedit_core::{Edit, Fingerprint, Matrix, OutputFolder, ParamName, Progress, WeightDelta, fingerprint_values};
use serde::Serialize;

use super::changes::stored_type;
use super::history::{EditRecord, Record, WeightHistory, remove};
use super::{SavedCheckpoint, What, save};
use crate::{Checkpoint, Error, Result, WeightType};

/// How a weight came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Taken from the model before the edits.
    FromBase,
    /// The edits never changed it as it is stored: their change is zero or below the rounding.
    Unchanged,
    /// Subtracted, and the fingerprint says that it is the very weight.
    SubtractedExactly,
    /// Subtracted, equal up to rounding.
    Subtracted,
}

/// A weight from before the edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// How it came back.
    pub way: Way,
    /// The type it is stored in, to which it is rounded: `F32`, `F16` or `BF16`.
    pub dtype: &'static str,
}

/// What [`revert`] found.
#[derive(Clone, Debug)]
pub struct Reverted {
    /// The weights without the edits.
    pub weights: BTreeMap<ParamName, Matrix>,
    /// How each came back.
    pub restored: BTreeMap<ParamName, Restored>,
}

/// The weights of `edited` from before `edits`, which may be all that were made, or some. `base` is the model that holds the other edits of these
/// weights, or none; its weights are put back as they are.
///
/// # Errors
///
/// [`Error::Tensor`] naming the first weight that is missing or misshapen, that an edit is not in, or that `base` does not have as it was.
pub fn revert(edited: &Checkpoint, base: Option<&Checkpoint>, edits: &[Edit]) -> Result<Reverted> {
    let record = Record::read(edited)?;
    let base = match base {
        Some(base) => Some(Base { checkpoint: base, record: Record::read(base)? }),
        None => None,
    };
    let mut changes: BTreeMap<&ParamName, Vec<(&Edit, &WeightDelta, &Fingerprint)>> = BTreeMap::new();
    for edit in edits {
        for (name, change) in &edit.deltas {
            changes.entry(name).or_default().push((edit, &change.delta, &change.base));
        }
    }
    let mut reverted = Reverted { weights: BTreeMap::new(), restored: BTreeMap::new() };
    for (name, changes) in changes {
        let (weight, restored) = Weight::read(edited, record.as_ref(), name, &changes)?.restore(base.as_ref())?;
        reverted.weights.insert(name.clone(), weight);
        reverted.restored.insert(name.clone(), restored);
    }
    Ok(reverted)
}

/// Saves what [`revert`] found as [`save_checkpoint_into`](super::save_checkpoint_into) saves edits: card and record say what was taken back.
///
/// # Errors
///
/// As [`save_checkpoint_into`](super::save_checkpoint_into).
pub fn save_reverted_into(
    edited: &Checkpoint,
    reverted: &Reverted,
    edits: &[Edit],
    folder: &OutputFolder,
    progress: &dyn Progress,
) -> Result<SavedCheckpoint> {
    save(edited, &reverted.weights, What::Reverted(edits), folder, progress)
}

struct Base<'a> {
    checkpoint: &'a Checkpoint,
    record: Option<Record>,
}

/// A weight as a checkpoint stores it.
struct Stored {
    name: String,
    values: Matrix,
    fingerprint: Fingerprint,
}

impl Stored {
    /// Reads it; a vector as one row.
    fn read(checkpoint: &Checkpoint, parameter: &ParamName, shape: [usize; 2]) -> Result<Self> {
        let error = |message: String| Error::tensor(parameter.as_str(), checkpoint.path(), message);
        let name = checkpoint.stored_name(parameter)?;
        let name = name.ok_or_else(|| error("there is none of that name; the edit is for another model".into()))?;
        let has = checkpoint.files().shape(&name).unwrap_or_default();
        let [rows, cols] = shape;
        if has != shape && !(rows == 1 && has == [cols]) {
            return Err(error(format!("the edit is for shape {shape:?}, the checkpoint has {has:?}")));
        }
        let values = Matrix::new(rows, cols, checkpoint.tensors().read(&name, &has)?).ok_or_else(|| error("is misshapen".into()))?;
        let fingerprint = fingerprint_values(shape, values.values());
        Ok(Self { name, values, fingerprint })
    }
}

/// A weight of the edited checkpoint, and the changes that are to be taken out of it.
struct Weight<'a> {
    checkpoint: &'a Checkpoint,
    parameter: &'a ParamName,
    changes: Vec<&'a WeightDelta>,
    /// Fingerprint of the weight that the first edit was made for.
    made_for: &'a Fingerprint,
    /// The edits, as a record would have them.
    edits: Vec<EditRecord>,
    now: Stored,
    kind: WeightType,
    history: WeightHistory<'a>,
}

impl<'a> Weight<'a> {
    fn read(
        checkpoint: &'a Checkpoint,
        record: Option<&'a Record>,
        parameter: &'a ParamName,
        changes: &[(&Edit, &'a WeightDelta, &'a Fingerprint)],
    ) -> Result<Self> {
        let error = |message: String| Error::tensor(parameter.as_str(), checkpoint.path(), message);
        let Some(&(_, first, made_for)) = changes.first() else { return Err(error("no edit changes it".into())) };
        let shape = first.shape();
        for (_, delta, _) in changes {
            if delta.shape() != shape {
                return Err(error(format!("the edits are for weights of shapes {shape:?} and {:?}, not for one model", delta.shape())));
            }
            delta.check().map_err(error)?;
        }
        let now = Stored::read(checkpoint, parameter, shape)?;
        let kind = stored_type(checkpoint, &now.name)?;
        let history = WeightHistory::of(record, &now.name, parameter, &now.fingerprint);
        let edits = changes.iter().map(|(edit, ..)| EditRecord::of(edit)).collect();
        let changes = changes.iter().map(|(_, delta, _)| *delta).collect();
        Ok(Self { checkpoint, parameter, changes, made_for, edits, now, kind, history })
    }

    fn restore(self, base: Option<&Base<'_>>) -> Result<(Matrix, Restored)> {
        let (weight, way) = match (self.history.is_known(), base) {
            (true, Some(base)) => (self.base_by_record(base)?, Way::FromBase),
            (true, None) => self.subtracted()?,
            (false, Some(base)) => (self.base_by_value(base)?, Way::FromBase),
            (false, None) => (self.never_changed()?, Way::Unchanged),
        };
        Ok((weight, Restored { way, dtype: self.kind.name() }))
    }

    /// The recorded edits that stay.
    fn others(&self) -> Result<Vec<&'a EditRecord>> {
        let mut others = self.history.edits().to_vec();
        for edit in &self.edits {
            if !remove(&mut others, std::slice::from_ref(edit)) {
                return Err(self.error(format!("the {} is not in this model, as its record says", edit.title())));
            }
        }
        Ok(others)
    }

    fn base_by_record(&self, base: &Base<'_>) -> Result<Matrix> {
        let others = self.others()?;
        let before = Stored::read(base.checkpoint, self.parameter, self.shape())?;
        let history = WeightHistory::of(base.record.as_ref(), &before.name, self.parameter, &before.fingerprint);
        if self.history.is_with(&others, &history, &before.fingerprint) {
            return Ok(before.values);
        }
        let titles: Vec<String> = others.iter().map(|edit| edit.title()).collect();
        let way_out = match titles.as_slice() {
            [] => "give the model from before the edits as --base".to_owned(),
            titles => format!(
                "the checkpoint also holds the {}, which would be lost: give the model that holds it as --base, or its file beside the others, \
                 or leave --base out to subtract",
                titles.join(", the ")
            ),
        };
        Err(Error::tensor(self.parameter.as_str(), base.checkpoint.path(), format!("is not the weight from before the edits; {way_out}")))
    }

    fn base_by_value(&self, base: &Base<'_>) -> Result<Matrix> {
        let before = Stored::read(base.checkpoint, self.parameter, self.shape())?;
        if before.fingerprint != *self.made_for {
            let message = "is not the weight the edit was made for; give the model the edit was made on as --base";
            return Err(Error::tensor(self.parameter.as_str(), base.checkpoint.path(), message));
        }
        let with_edits = sum(&before.values, &self.changes, 1.0)?;
        let changes = self.changes.iter().map(|change| change.norm()).sum::<f64>();
        // Every time the weight was saved, it was rounded; another device adds in another order.
        let rounding = self.kind.half_step() * self.now.values.norm() * (1 + self.edits.len()) as f64;
        if distance(&with_edits, &self.now.values) > rounding + ANOTHER_DEVICE * changes {
            return Err(self.error(format!(
                "is not the base's weight with {} added: the edit is not in this model, or others are too",
                self.titles()
            )));
        }
        Ok(before.values)
    }

    /// The weight as it is, if the edits do not change it: nothing else can be said of a weight without a record.
    fn never_changed(&self) -> Result<Matrix> {
        if self.now.fingerprint != *self.made_for {
            return Err(self.error(format!(
                "the checkpoint has no record of it (easyedit.json), so it cannot be told whether {} is in it; give the model from before the \
                 edit as --base",
                self.titles()
            )));
        }
        let with_edits = sum(&self.now.values, &self.changes, 1.0)?;
        if self.rounded(&with_edits) != self.now.values.values() {
            return Err(self.error(format!("is the weight from before the edit, so {} is not in this model", self.titles())));
        }
        Ok(self.now.values.clone())
    }

    fn subtracted(&self) -> Result<(Matrix, Way)> {
        let others = self.others()?;
        let before = self.history.with_edits(&others);
        if before == Some(&self.now.fingerprint) {
            return Ok((self.now.values.clone(), Way::Unchanged));
        }
        let weight = sum(&self.now.values, &self.changes, -1.0)?;
        let exact = before == Some(&fingerprint_values(self.shape(), &self.rounded(&weight)));
        Ok((weight, if exact { Way::SubtractedExactly } else { Way::Subtracted }))
    }

    fn shape(&self) -> [usize; 2] {
        self.now.values.shape()
    }

    /// The values as they are stored.
    fn rounded(&self, weight: &Matrix) -> Vec<f32> {
        self.kind.widen(&self.kind.narrow(weight.values())).0
    }

    fn titles(&self) -> String {
        format!("the {}", self.edits.iter().map(EditRecord::title).collect::<Vec<_>>().join(" and the "))
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::tensor(self.parameter.as_str(), self.checkpoint.path(), message)
    }
}

/// Share of a change by which devices may differ in computing it.
const ANOTHER_DEVICE: f64 = 1e-3;

/// `weight` and `sign` times each change; in reverse order if they are subtracted.
fn sum(weight: &Matrix, changes: &[&WeightDelta], sign: f32) -> Result<Matrix> {
    let host = easyedit_core::device::select("cpu")?;
    let mut sum = weight.to_tensor(&host);
    let mut add = |change: &&WeightDelta| sum = sum.clone() + change.to_tensor(&host) * sign;
    match sign < 0.0 {
        true => changes.iter().rev().for_each(&mut add),
        false => changes.iter().for_each(&mut add),
    }
    Ok(Matrix::from_tensor(&sum)?)
}

fn distance(a: &Matrix, b: &Matrix) -> f64 {
    a.values().iter().zip(b.values()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}
