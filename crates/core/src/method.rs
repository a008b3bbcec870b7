use burn::tensor::Device;
use serde_json::Value;

use crate::{
    CheckedRequest, Edit, EditRequest, Error, Hparams, LanguageModel, ModelSpec, Progress, Result, SentenceEncoder, Session,
    TrainableEncoder, Trained,
};

/// Name of the corpus that the model writes itself.
pub const SELF_CORPUS: &str = "self";

/// Text for statistics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorpusText {
    /// Documents.
    Documents(Vec<String>),
    /// What the edited model writes when it is sampled from; known only where the model is.
    SelfWritten,
}

/// Where methods get from what is neither in the model nor in the requests: text for statistics, and where there are any, records of other
/// facts and encoders of sentences.
pub trait Corpora: Send + Sync {
    /// The documents of the corpus called `name` (the value of `mom2_dataset`: a known name, or the path of a text file).
    ///
    /// # Errors
    ///
    /// If there is no such corpus, or it cannot be read.
    fn documents(&self, name: &str) -> Result<Vec<String>>;

    /// The text of the corpus called `name`: [`SELF_CORPUS`], or one of [`documents`](Self::documents).
    ///
    /// # Errors
    ///
    /// As [`documents`](Self::documents).
    fn text(&self, name: &str) -> Result<CorpusText> {
        match name.eq_ignore_ascii_case(SELF_CORPUS) {
            true => Ok(CorpusText::SelfWritten),
            false => self.documents(name).map(CorpusText::Documents),
        }
    }

    /// Whether one text stands in for a corpus of any name, so that statistics that others computed over a corpus of that name are not
    /// what is wanted.
    fn stands_in(&self) -> bool {
        false
    }

    /// The facts of the dataset called `name` (the value of `train_data`: the path of a file).
    ///
    /// # Errors
    ///
    /// If there is no such dataset, or it cannot be read.
    fn records(&self, name: &str) -> Result<Vec<EditRequest>> {
        Err(Error::hparams(format!("train_data: no dataset {name:?} can be read here")))
    }

    /// The sentence encoder called `name` (the value of `sentence_model_name`), on `device`; it may have to be downloaded.
    ///
    /// # Errors
    ///
    /// If there is no such encoder, or it cannot be had.
    fn sentence_encoder(&self, name: &str, _device: &Device, _progress: &dyn Progress) -> Result<Box<dyn SentenceEncoder>> {
        Err(Error::hparams(format!("sentence_model_name: no sentence encoder {name:?} can be had here")))
    }

    /// The text encoder called `name` (the value of `cls_name`), on `device`, to be trained or to take over what was learned; it may have to be
    /// downloaded. A folder without weights is an encoder that is yet to be trained.
    ///
    /// # Errors
    ///
    /// If there is no such encoder, or it cannot be had.
    fn text_encoder(&self, name: &str, _device: &Device, _progress: &dyn Progress) -> Result<Box<dyn TrainableEncoder>> {
        Err(Error::hparams(format!("cls_name: no text encoder {name:?} can be had here")))
    }

    /// The language model called `name` (the value of `small_name`), on `device`, beside the one that is edited; it may have to be downloaded. A
    /// folder without weights is a model that is yet to be trained.
    ///
    /// # Errors
    ///
    /// If there is no such model, or it cannot be had.
    fn language_model(&self, name: &str, _device: &Device, _progress: &dyn Progress) -> Result<Box<dyn LanguageModel>> {
        Err(Error::hparams(format!("small_name: no language model {name:?} can be had here")))
    }

    /// What the method `method` has learned in the training called `name` (the value of `archive`: the path of a file, or a name that is built
    /// in).
    ///
    /// # Errors
    ///
    /// If there is no such file, or it cannot be read.
    fn trained(&self, name: &str, method: &str) -> Result<Trained> {
        Err(Error::hparams(format!("archive: nothing that {method} has learned is called {name:?} here")))
    }
}

/// The corpora of a program that has no text: whatever is asked for, the model writes it itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct SelfWritten;

impl Corpora for SelfWritten {
    fn documents(&self, name: &str) -> Result<Vec<String>> {
        Err(Error::hparams(format!("there is no corpus {name:?}: this program has no text but what the model writes itself")))
    }

    fn text(&self, _: &str) -> Result<CorpusText> {
        Ok(CorpusText::SelfWritten)
    }

    fn stands_in(&self) -> bool {
        true
    }
}

/// An editing method with its hyperparameters.
///
/// # Contract
///
/// The model is the same at the end as at the beginning: a method returns an [`Edit`] and leaves applying it to the editor.
/// An edit of several requests is one that makes all of them true at once.
pub trait EditMethod {
    /// The method's name, as `alg_name` gives it.
    fn name(&self) -> &'static str;

    /// The hyperparameters, as recorded in edits and reports.
    fn hparams(&self) -> Value;

    /// Checks that the method fits the model and makes ready what all edits share (context templates, statistics).
    ///
    /// # Errors
    ///
    /// If the hyperparameters do not fit the model, or a statistic cannot be had.
    fn prepare(&mut self, model: &dyn LanguageModel, session: &Session) -> Result<()>;

    /// Computes the edit that makes the requests true.
    ///
    /// # Errors
    ///
    /// If a request cannot be edited, naming it; or the numbers stop being finite.
    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit>;

    /// Keys of the hyperparameters that decide how strong its edits are; named to the user when an edit has moved no score.
    fn strength_hparams(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether its edits are changes of weights, which a checkpoint can hold; the others are [overlays](crate::Overlay).
    fn changes_weights(&self) -> bool {
        true
    }

    /// Loads what [laying an edit over](Self::lay_over) a model takes and the edit does not hold: what the method has learned. Whoever applies
    /// an edit of a file calls it first; [`prepare`](Self::prepare) implies it.
    ///
    /// # Errors
    ///
    /// If what was learned is not there, or does not fit.
    fn load_learned(&mut self, _device: &Device, _session: &Session) -> Result<()> {
        Ok(())
    }

    /// The model under the [overlay](Edit::overlay) of `edit`, which a method of this name has made.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] unless the method lays anything over models, otherwise if the overlay does not fit the model.
    fn lay_over(&self, _edit: &Edit, _model: Box<dyn LanguageModel>) -> Result<Box<dyn LanguageModel>> {
        Err(Error::Unsupported { method: self.name().to_owned(), message: "changes weights and has nothing to lay over a model".into() })
    }

    /// `edit`, which a method of this name has made, as if it had been made without the requests at `forgotten`, by their places among
    /// [its requests](Edit::requests). No model is needed: it can be done where the parts of an edit stand side by side.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the edit is one change for all of its requests.
    fn forget(&self, edit: &Edit, _forgotten: &[usize]) -> Result<Edit> {
        Err(Error::Unsupported {
            method: self.name().to_owned(),
            message: format!(
                "made one change of its {} facts, which cannot be taken apart; edit the model again with the other facts",
                edit.requests.len()
            ),
        })
    }
}

/// How a method type enters a [`Registry`](crate::Registry).
pub trait Method: EditMethod + Sized + 'static {
    /// Its hyperparameters.
    type Hparams: Hparams;
    /// One line for lists of methods.
    const SUMMARY: &'static str;

    /// The method with these hyperparameters.
    fn new(hparams: Self::Hparams) -> Self;

    /// Hyperparameters for a model no file exists for, by rule from its depth and module names.
    fn hparams_for(spec: &ModelSpec) -> Self::Hparams;
}
