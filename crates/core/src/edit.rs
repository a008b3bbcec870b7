use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::fingerprint::from_hash;
use crate::{EditMethod, EditRequest, Error, Fingerprint, LanguageModel, Matrix, Overlay, ParamName, Result, WeightDelta};

/// A [`WeightDelta`] and the weight it was made for.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDelta {
    /// The change.
    pub delta: WeightDelta,
    /// Fingerprint of the weight before the edit.
    pub base: Fingerprint,
}

/// What a method wants to change in a model, and where that came from.
///
/// It is made by an [`EditMethod`](crate::EditMethod), applied with [`Edit::apply`], and written with [`Edit::save`].
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// Name of the method.
    pub method: String,
    /// Name of the model it was made for.
    pub model: String,
    /// `model_type` of that model.
    pub family: String,
    /// Hyperparameters it was made with.
    pub hparams: Value,
    /// Seed it was made with.
    pub seed: u64,
    /// The facts.
    pub requests: Vec<EditRequest>,
    /// What the method tells about the edit (norms, losses, notes).
    pub diagnostics: Value,
    /// The changes, by parameter.
    pub deltas: BTreeMap<ParamName, TensorDelta>,
    /// What is laid over the model besides; [`Registry::apply`](crate::Registry::apply) does it.
    pub overlay: Option<Overlay>,
}

/// Undoes an applied [`Edit`]: holds the weights that were there before.
#[must_use = "the weights before the edit are lost when this is dropped"]
#[derive(Debug)]
pub struct Applied {
    before: Vec<(ParamName, Tensor<2>)>,
}

impl Applied {
    /// Puts back the very weights the edit replaced, bit for bit. Reverting twice is the same as once.
    ///
    /// # Errors
    ///
    /// If the model no longer has one of the parameters.
    pub fn revert(&self, model: &mut dyn LanguageModel) -> Result<()> {
        for (name, weight) in self.before.iter().rev() {
            model.set_weight(name, weight.clone())?;
        }
        Ok(())
    }

    /// Names of the changed parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &ParamName> {
        self.before.iter().map(|(name, _)| name)
    }
}

impl Edit {
    /// The edit of `method` that makes `requests` true in `model`.
    pub fn of(
        method: &dyn EditMethod,
        model: &dyn LanguageModel,
        requests: &[EditRequest],
        seed: u64,
        diagnostics: Value,
        deltas: BTreeMap<ParamName, TensorDelta>,
    ) -> Self {
        let (name, family) = (model.spec().name.clone(), model.spec().family.clone());
        let requests = requests.to_vec();
        Self {
            method: method.name().to_owned(),
            model: name,
            family,
            hparams: method.hparams(),
            seed,
            requests,
            diagnostics,
            deltas,
            overlay: None,
        }
    }

    /// Identifies the changes of weights: SHA-256 over names, base fingerprints, kinds, shapes and values of all of them. Two edits with the same
    /// one change a model alike, whatever else is recorded of them.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for (name, change) in &self.deltas {
            hash.update((name.as_str().len() as u64).to_le_bytes());
            hash.update(name.as_str());
            hash.update(change.base.as_str());
            change.delta.hash_into(&mut hash);
        }
        from_hash(hash)
    }

    /// Drops the requests at the places `forgotten`, and what is told of each of them; changes and overlay are left as they are.
    pub fn drop_requests(&mut self, forgotten: &[usize]) {
        let count = self.requests.len();
        let mut keep = (0..count).map(|place| !forgotten.contains(&place)).cycle();
        if let Value::Array(told) = &mut self.diagnostics
            && told.len() == count
        {
            told.retain(|_| keep.next().unwrap_or(true));
        }
        self.requests.retain(|_| keep.next().unwrap_or(true));
    }

    /// Adds the changes to the model's weights; an [overlay](Self::overlay) is left to [`Registry::apply`](crate::Registry::apply).
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] naming the first parameter that is missing, misshapen, or not the one the edit was made for; the model is
    /// unchanged then. [`Error::NotFinite`] if the edit or a changed weight holds NaN or infinity.
    pub fn apply(&self, model: &mut dyn LanguageModel) -> Result<Applied> {
        apply_all(std::slice::from_ref(self), model)
    }
}

/// Applies several edits, one after the other. Each must have been made for the weights as they were before the first one, or as
/// they are after those before it.
///
/// # Errors
///
/// As [`Edit::apply`]; the model is unchanged then.
pub fn apply_all(edits: &[Edit], model: &mut dyn LanguageModel) -> Result<Applied> {
    let mut states: BTreeMap<&ParamName, WeightState> = BTreeMap::new();
    for edit in edits {
        for (name, change) in &edit.deltas {
            if !states.contains_key(name) {
                let weight = model.weight(name)?;
                let fingerprint = Fingerprint::of(&weight)?;
                states.insert(
                    name,
                    WeightState { before: weight.clone(), first: fingerprint.clone(), now: weight, current: Some(fingerprint) },
                );
            }
            if let Some(state) = states.get_mut(name) {
                state.add(edit, name, change, &model.device())?;
            }
        }
    }
    for (name, state) in &states {
        let sum = Matrix::from_tensor(&state.now)?;
        if sum.values().iter().any(|v| !v.is_finite()) {
            return Err(Error::NotFinite(format!("tensor {name}: not finite once the edit is applied; the edit is not used")));
        }
    }
    let mut before = Vec::with_capacity(states.len());
    for (name, state) in states {
        model.set_weight(name, state.now)?;
        before.push((name.clone(), state.before));
    }
    Ok(Applied { before })
}

struct WeightState {
    before: Tensor<2>,
    first: Fingerprint,
    now: Tensor<2>,
    /// Fingerprint of `now`; computed when a later edit asks for it.
    current: Option<Fingerprint>,
}

impl WeightState {
    fn add(&mut self, edit: &Edit, name: &ParamName, change: &TensorDelta, device: &Device) -> Result<()> {
        let (want, have) = (change.delta.shape(), self.now.dims());
        if want != have {
            return Err(Error::tensor(name.as_str(), format!("the edit is for shape {want:?}, the model has {have:?}")));
        }
        change.delta.check().map_err(|message| Error::tensor(name.as_str(), message))?;
        if !change.delta.is_finite() {
            return Err(Error::NotFinite(format!("tensor {name}: the edit holds NaN or infinity")));
        }
        if change.base != self.first {
            let current = match &self.current {
                Some(current) => current.clone(),
                None => Fingerprint::of(&self.now)?,
            };
            if change.base != current {
                return Err(Error::tensor(
                    name.as_str(),
                    format!(
                        "differs from the weight the edit was made for ({} on {}); apply the edit to that model, and stacked edits in the order they were made",
                        edit.method, edit.model
                    ),
                ));
            }
            self.current = Some(current);
        }
        self.now = self.now.clone() + change.delta.to_tensor(device);
        self.current = None;
        Ok(())
    }
}

/// The metadata of an edit file, as JSON.
#[derive(Serialize, Deserialize)]
pub(crate) struct EditHeader {
    pub(crate) format_version: u32,
    pub(crate) easyedit_version: String,
    pub(crate) method: String,
    pub(crate) model: String,
    pub(crate) family: String,
    pub(crate) seed: u64,
    pub(crate) hparams: Value,
    pub(crate) requests: Vec<EditRequest>,
    pub(crate) diagnostics: Value,
    pub(crate) tensors: BTreeMap<ParamName, TensorHeader>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) overlay: Option<OverlayHeader>,
}

/// What the metadata of an edit file says of the overlay.
#[derive(Serialize, Deserialize)]
pub(crate) struct OverlayHeader {
    pub(crate) data: Value,
    /// Names of its tensors.
    pub(crate) tensors: Vec<String>,
}

/// What the metadata of an edit file says of one weight.
#[derive(Serialize, Deserialize)]
pub(crate) struct TensorHeader {
    pub(crate) kind: DeltaKind,
    pub(crate) shape: [usize; 2],
    pub(crate) base: Fingerprint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeltaKind {
    LowRank,
    Dense,
    Sparse,
}
