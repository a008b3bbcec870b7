use std::collections::BTreeMap;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::fingerprint::from_hash;
use crate::{CheckedRequest, EditMethod, EditRequest, Fingerprint, LanguageModel, Overlay, ParamName, Result, WeightDelta, apply_all};

/// A [`WeightDelta`] and the weight it was made for.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDelta {
    /// The change.
    pub delta: WeightDelta,
    /// Fingerprint of the weight before the edit.
    pub base: Fingerprint,
    /// Fingerprint of the weight with the edit; `None` where nobody has applied it yet.
    pub after: Option<Fingerprint>,
}

impl TensorDelta {
    /// A change of the weight with the fingerprint `base`.
    pub fn new(delta: WeightDelta, base: Fingerprint) -> Self {
        Self { delta, base, after: None }
    }
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
    pub(crate) fn new(before: Vec<(ParamName, Tensor<2>)>) -> Self {
        Self { before }
    }

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
        requests: &[CheckedRequest],
        seed: u64,
        diagnostics: Value,
        deltas: BTreeMap<ParamName, TensorDelta>,
    ) -> Self {
        let (name, family) = (model.spec().name.clone(), model.spec().family.clone());
        let requests = requests.iter().map(|request| request.written().clone()).collect();
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

    /// Notes what the changed weights are in `edited`, the model that the edit has just been applied to: edits are put into order by it.
    ///
    /// # Errors
    ///
    /// As [`LanguageModel::fingerprint`].
    pub fn note_result(&mut self, edited: &dyn LanguageModel) -> Result<()> {
        for (name, change) in &mut self.deltas {
            change.after = Some(edited.fingerprint(name)?);
        }
        Ok(())
    }

    /// What it is called in messages: `ROME edit of "Eiffel Tower"`.
    pub fn title(&self) -> String {
        match self.requests.as_slice() {
            [one] => format!("{} edit of {:?}", self.method, one.subject.as_deref().unwrap_or(&one.prompt)),
            several => format!("{} edit of {} facts", self.method, several.len()),
        }
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
    /// [`Error::Tensor`](crate::Error::Tensor) naming the first parameter that is missing, misshapen, or not the one the edit was made for; the model is
    /// unchanged then. [`Error::NotFinite`](crate::Error::NotFinite) if the edit or a changed weight holds NaN or infinity.
    pub fn apply(&self, model: &mut dyn LanguageModel) -> Result<Applied> {
        apply_all(std::slice::from_ref(self), model)
    }
}

/// The facts of an edit file, as JSON.
#[derive(Serialize, Deserialize)]
pub(crate) struct EditHeader {
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

/// What the facts of an edit file say of the overlay.
#[derive(Serialize, Deserialize)]
pub(crate) struct OverlayHeader {
    pub(crate) data: Value,
    /// Names of its tensors.
    pub(crate) tensors: Vec<String>,
}

/// What the facts of an edit file say of one weight.
#[derive(Serialize, Deserialize)]
pub(crate) struct TensorHeader {
    pub(crate) kind: DeltaKind,
    pub(crate) shape: [usize; 2],
    pub(crate) base: Fingerprint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<Fingerprint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeltaKind {
    LowRank,
    Dense,
    Sparse,
}
