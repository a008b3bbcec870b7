use std::collections::BTreeMap;

use easyedit_core::{Edit, Error, LanguageModel, Result, apply_all};
use easyedit_eval::{Record, Summary};

use crate::Mode;

/// What a run made: the edits, what they did, and the way to both the original and the edited model.
pub struct EditSession {
    /// The edits, in the order they were made; one for all requests in batch mode.
    pub edits: Vec<Edit>,
    /// One record per request.
    pub records: Vec<Record>,
    /// The run in one object.
    pub summary: Summary,
    original: Box<dyn LanguageModel>,
    /// The model after edit `index`, of the edits that lay something over it.
    laid_over: BTreeMap<usize, Box<dyn LanguageModel>>,
    mode: Mode,
}

impl EditSession {
    pub(crate) fn new(
        original: Box<dyn LanguageModel>,
        mode: Mode,
        edits: Vec<Edit>,
        laid_over: BTreeMap<usize, Box<dyn LanguageModel>>,
        records: Vec<Record>,
        summary: Summary,
    ) -> Self {
        Self { edits, records, summary, original, laid_over, mode }
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
        match (self.mode, self.edits.as_slice()) {
            (_, []) => Err(Error::Batch("no request was edited, so there is no edited model".into())),
            (Mode::Independent, edits @ [_, _, ..]) => Err(Error::Batch(format!(
                "{} requests were edited independently, each into the original model; choose one of them, or use the mode sequential or batch for all in one model",
                edits.len()
            ))),
            (_, edits) => self.after(0, edits.len() - 1),
        }
    }

    /// The model after edit `index` of [`edits`](Self::edits): with it alone in an independent run, with those before it in a
    /// sequential one.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there is no such edit.
    pub fn edited_by(&self, index: usize) -> Result<Box<dyn LanguageModel>> {
        if index >= self.edits.len() {
            return Err(Error::Batch(format!("there is no edit {index}: the run made {}", self.edits.len())));
        }
        self.after(if self.mode == Mode::Independent { index } else { 0 }, index)
    }

    /// The model with the edits `first` to `last`, that one included.
    fn after(&self, first: usize, last: usize) -> Result<Box<dyn LanguageModel>> {
        if let Some(model) = self.laid_over.get(&last) {
            return Ok(model.boxed_clone());
        }
        let mut model = self.original.boxed_clone();
        // The weights before are the original's, which stays.
        let _applied = apply_all(self.edits.get(first..=last).unwrap_or_default(), &mut *model)?;
        Ok(model)
    }
}
