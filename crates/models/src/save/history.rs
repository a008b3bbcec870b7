//! Which edits a checkpoint holds and what its weights were before them, as its own record tells.

use easyedit_core::{Edit, Fingerprint, ParamName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::provenance::PROVENANCE_FILE;
use crate::json_file::read_json_object_if_present;
use crate::{Checkpoint, Result};

/// An edit as [`PROVENANCE_FILE`] records it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EditRecord {
    pub(super) method: String,
    pub(super) model: String,
    pub(super) family: String,
    pub(super) seed: u64,
    pub(super) hparams: Value,
    pub(super) requests: Value,
    pub(super) parameters: Vec<ParamName>,
    /// Of its changes; records of version 0.1.0 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fingerprint: Option<Fingerprint>,
}

impl EditRecord {
    pub(super) fn of(edit: &Edit) -> Self {
        Self {
            method: edit.method.clone(),
            model: edit.model.clone(),
            family: edit.family.clone(),
            seed: edit.seed,
            hparams: edit.hparams.clone(),
            requests: serde_json::to_value(&edit.requests).unwrap_or_default(),
            parameters: edit.deltas.keys().cloned().collect(),
            fingerprint: Some(edit.fingerprint()),
        }
    }

    /// Whether both are of one edit.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (&self.fingerprint, &other.fingerprint) {
            (Some(own), Some(other)) => own == other,
            _ => {
                (&self.method, self.seed, &self.requests, &self.parameters)
                    == (&other.method, other.seed, &other.requests, &other.parameters)
            }
        }
    }

    /// What it is called in messages: `ROME edit of "Eiffel Tower"`.
    pub(super) fn title(&self) -> String {
        let requests = self.requests.as_array().map(Vec::as_slice).unwrap_or_default();
        let what = match requests {
            [one] => {
                let text = one.get("subject").and_then(Value::as_str).or_else(|| one.get("prompt").and_then(Value::as_str));
                format!("{:?}", text.unwrap_or_default())
            }
            several => format!("{} facts", several.len()),
        };
        format!("{} edit of {what}", self.method)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TensorRecord {
    name: String,
    before: Option<Fingerprint>,
    after: Option<Fingerprint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BaseModel {
    name: String,
}

/// One saving of a checkpoint, and those before it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    base_model: BaseModel,
    edits: Vec<EditRecord>,
    reverted: Vec<EditRecord>,
    tensors: Vec<TensorRecord>,
    earlier: Option<Box<Record>>,
}

impl Record {
    /// The record in the checkpoint's folder; `None` if it has none, or one that is not of this form.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is not JSON.
    pub(super) fn read(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        if !checkpoint.path().is_dir() {
            return Ok(None);
        }
        let value = read_json_object_if_present(&checkpoint.path().join(PROVENANCE_FILE))?;
        Ok(value.and_then(|value| serde_json::from_value(value).ok()))
    }

    /// All savings, the oldest first.
    fn chain(&self) -> Vec<&Self> {
        let mut chain: Vec<&Self> = std::iter::successors(Some(self), |record| record.earlier.as_deref()).collect();
        chain.reverse();
        chain
    }

    /// Name of the model from before all edits.
    pub(super) fn origin(&self) -> &str {
        self.chain().first().map_or("", |record| record.base_model.name.as_str())
    }

    /// The edits that are in the checkpoint, in order.
    pub(super) fn edits(&self) -> Vec<&EditRecord> {
        let mut held = Vec::new();
        for record in self.chain() {
            remove(&mut held, &record.reverted);
            held.extend(&record.edits);
        }
        held
    }
}

/// The first of `edits` that the checkpoint holds already, as its record tells; `None` if it has no record.
///
/// # Errors
///
/// If the record cannot be read.
pub fn first_applied<'e>(checkpoint: &Checkpoint, edits: &'e [Edit]) -> Result<Option<&'e Edit>> {
    let Some(record) = Record::read(checkpoint)? else { return Ok(None) };
    let held = record.edits();
    Ok(edits.iter().filter(|edit| !edit.deltas.is_empty()).find(|edit| held.iter().any(|held| held.is(&EditRecord::of(edit)))))
}

/// Removes `gone` from `edits`, each once; whether all were there.
pub(super) fn remove(edits: &mut Vec<&EditRecord>, gone: &[EditRecord]) -> bool {
    let mut all = true;
    for one in gone {
        match edits.iter().rposition(|edit| edit.is(one)) {
            Some(place) => {
                edits.remove(place);
            }
            None => all = false,
        }
    }
    all
}

fn same(a: &[&EditRecord], b: &[&EditRecord]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is(b))
}

/// What a weight was at one time, and the edits of it that were in the checkpoint then.
struct State<'a> {
    fingerprint: Fingerprint,
    edits: Vec<&'a EditRecord>,
    /// Whether edits were subtracted from it, so that it is not to the last bit what its edits say.
    is_approximate: bool,
}

/// How a weight became what it is, as far back as the record fits.
pub(super) struct WeightHistory<'a> {
    /// The oldest first; at least one.
    states: Vec<State<'a>>,
}

impl<'a> WeightHistory<'a> {
    /// The history of the weight that is stored as `name` and now has the fingerprint `now`.
    pub(super) fn of(record: Option<&'a Record>, name: &str, parameter: &ParamName, now: &Fingerprint) -> Self {
        let mut steps = Vec::new();
        let mut expected = now;
        for record in record.map(Record::chain).unwrap_or_default().into_iter().rev() {
            let Some(tensor) = record.tensors.iter().find(|tensor| tensor.name == name) else { continue };
            let (Some(before), true) = (&tensor.before, tensor.after.as_ref() == Some(expected)) else { break };
            steps.push((record, expected));
            expected = before;
        }
        let origin = State { fingerprint: expected.clone(), edits: Vec::new(), is_approximate: false };
        let mut history = Self { states: vec![origin] };
        for (record, after) in steps.into_iter().rev() {
            history.take_in(record, parameter, after);
        }
        history
    }

    fn take_in(&mut self, record: &'a Record, parameter: &ParamName, after: &Fingerprint) {
        let mut edits = self.edits().to_vec();
        let of_this = |edit: &&EditRecord| edit.parameters.contains(parameter);
        remove(&mut edits, &record.reverted);
        edits.extend(record.edits.iter().filter(of_this));
        let earlier = self.states.iter().find(|state| state.fingerprint == *after);
        if record.edits.is_empty() && record.reverted.is_empty() {
            // Version 0.1.0 did not record what it reverted; a weight that is an earlier one again holds what that one held.
            edits = earlier.map_or(edits, |state| state.edits.clone());
        }
        let is_approximate = match earlier.filter(|state| same(&state.edits, &edits)) {
            Some(state) => state.is_approximate,
            None => !record.reverted.is_empty() || self.is_approximate(),
        };
        self.states.push(State { fingerprint: after.clone(), edits, is_approximate });
    }

    /// The edits that are in the weight.
    pub(super) fn edits(&self) -> &[&'a EditRecord] {
        self.states.last().map(|state| state.edits.as_slice()).unwrap_or_default()
    }

    /// Whether anything is known.
    pub(super) fn is_known(&self) -> bool {
        self.states.len() > 1
    }

    /// What the weight was when exactly `edits` were in it.
    pub(super) fn with_edits(&self, edits: &[&EditRecord]) -> Option<&Fingerprint> {
        self.states.iter().find(|state| same(&state.edits, edits)).map(|state| &state.fingerprint)
    }

    /// Whether another checkpoint's weight, whose history is `other` and which has the fingerprint `now`, is this weight with `edits` alone in it.
    pub(super) fn is_with(&self, edits: &[&EditRecord], other: &WeightHistory<'_>, now: &Fingerprint) -> bool {
        let was_so = self.states.iter().any(|state| state.fingerprint == *now && same(&state.edits, edits));
        was_so || (!other.is_approximate() && self.origin() == other.origin() && same(other.edits(), edits))
    }

    fn is_approximate(&self) -> bool {
        self.states.last().is_some_and(|state| state.is_approximate)
    }

    /// What the weight was before all that is known.
    fn origin(&self) -> Option<&Fingerprint> {
        self.states.first().map(|state| &state.fingerprint)
    }
}
