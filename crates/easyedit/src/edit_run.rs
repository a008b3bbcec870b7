use std::collections::BTreeMap;

use easyedit_core::{Edit, Error, LanguageModel, Matrix, ParamName, Result};
use easyedit_eval::{Record, Summary};

use crate::edit_store::no_edit;
use crate::{EditStore, Mode};

/// What a run made: the edits, what they did, and the way to both the original and the edited model.
pub struct EditRun<S = Vec<Edit>> {
    /// The edits, in the order they were made; one for all requests in batch mode.
    pub edits: S,
    /// One record per request.
    pub records: Vec<Record>,
    /// The run in one object.
    pub summary: Summary,
    original: Box<dyn LanguageModel>,
    /// The model after edit `index`: of the last edit, and of those that lay something over it.
    at_hand: BTreeMap<usize, Box<dyn LanguageModel>>,
    mode: Mode,
}

impl<S: EditStore> EditRun<S> {
    pub(crate) fn new(
        original: Box<dyn LanguageModel>,
        mode: Mode,
        edits: S,
        at_hand: BTreeMap<usize, Box<dyn LanguageModel>>,
        records: Vec<Record>,
        summary: Summary,
    ) -> Self {
        Self { edits, records, summary, original, at_hand, mode }
    }

    /// The model before any edit, bit for bit.
    pub fn original(&self) -> &dyn LanguageModel {
        &*self.original
    }

    /// The model with the run's edits: all of a sequence, the one of a batch, or the only one of an independent run. It shares the
    /// storage of what was not changed.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there is no edit, or several independent ones, which were never meant for one model: ask
    /// [`edited_by`](Self::edited_by) for one of them.
    pub fn edited(&self) -> Result<Box<dyn LanguageModel>> {
        match (self.mode, self.edits.len()) {
            (_, 0) => Err(Error::Batch("no request was edited, so there is no edited model".into())),
            (Mode::Independent, edits) if edits > 1 => Err(Error::Batch(format!(
                "{edits} requests were edited independently, each into the original model; choose one of them, or use the mode sequential or batch for all in one model"
            ))),
            (_, edits) => self.edited_by(edits - 1),
        }
    }

    /// The model after edit `index` of [`edits`](Self::edits): with it alone in an independent run, with those before it in a
    /// sequential one.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there is no such edit; or if the store cannot give it back.
    pub fn edited_by(&self, index: usize) -> Result<Box<dyn LanguageModel>> {
        if index >= self.edits.len() {
            return Err(no_edit(index, self.edits.len()));
        }
        if let Some(model) = self.at_hand.get(&index) {
            return Ok(model.boxed_clone());
        }
        let mut model = self.original.boxed_clone();
        let first = if self.mode == Mode::Independent { index } else { 0 };
        for edit in first..=index {
            // The weights before are the original's, which stays.
            let _applied = self.edits.get(edit)?.apply(&mut *model)?;
        }
        Ok(model)
    }
}

/// The weights that `edits` change, as `model` has them: what a checkpoint is saved with.
///
/// # Errors
///
/// [`Error::Tensor`] naming a weight that the model does not have.
pub fn changed_weights(model: &dyn LanguageModel, edits: &[Edit]) -> Result<BTreeMap<ParamName, Matrix>> {
    let names = edits.iter().flat_map(|edit| edit.deltas.keys());
    names.map(|name| Ok((name.clone(), Matrix::from_tensor(&model.weight(name)?)?))).collect()
}
