use std::path::Path;

use easyedit_core::{CheckedRequest, Error, HparamsDocument, LanguageModel, Result, Session};
use easyedit_trainer::{MetaLearner, Trainer, TrainingConfig, TrainingOutcome};

/// Trains the methods that learn to edit.
///
/// ```no_run
/// use easyedit::{EditTrainer, HparamsDocument, Session, TextCorpora, data::read_requests};
///
/// # fn main() -> easyedit::Result<()> {
/// let document = HparamsDocument::load("hparams/TRAINING/MEND/smollm2-135m.yaml".as_ref())?;
/// let session = Session::new().with_corpora(TextCorpora::default());
/// let model = easyedit::open("smollm2-135m")?;
/// let (train, val) = (read_requests("train.json".as_ref())?, read_requests("val.json".as_ref())?);
/// let train = easyedit::CheckedRequest::all(train)?;
/// let val = easyedit::CheckedRequest::all(val)?;
/// let outcome = EditTrainer::new(&session, document).train(model.model(), &train, &val, "out".as_ref(), false)?;
/// println!("best {:?} after {} iterations", outcome.best, outcome.iterations);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EditTrainer {
    session: Session,
    document: HparamsDocument,
}

impl EditTrainer {
    /// A trainer with the hyperparameters of `document`, which names the method.
    pub fn new(session: &Session, document: HparamsDocument) -> Self {
        Self { session: session.clone(), document }
    }

    /// Checks that the method is one that is trained, and its hyperparameters.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming the file and the key.
    pub fn check(&self) -> Result<()> {
        match self.document.method() {
            #[cfg(feature = "mend")]
            Some(method) if is(method, "MEND") => self.document.read::<easyedit_mend::MendHparams>().map(|_| ()),
            #[cfg(feature = "serac")]
            Some(method) if is(method, "SERAC") => self.document.read::<easyedit_serac::SeracHparams>().map(|_| ()),
            other => Err(self.not_trained(other)),
        }
    }

    /// Trains on `train` and measures on `val`, in the folder `out`: `model.safetensors` there is the best state. With `resume` an interrupted training
    /// goes on.
    ///
    /// # Errors
    ///
    /// If the hyperparameters do not fit the model or are those of a method that is not trained, or as [`Trainer::run`].
    pub fn train(
        &self,
        model: &dyn LanguageModel,
        train: &[CheckedRequest],
        val: &[CheckedRequest],
        out: &Path,
        resume: bool,
    ) -> Result<TrainingOutcome> {
        let (mut learner, config) = self.learner(model, train, val)?;
        Trainer::new(learner.as_mut(), config, out)?.run(&self.session, resume)
    }

    /// The method in training, and the settings of its loop.
    fn learner(
        &self,
        model: &dyn LanguageModel,
        train: &[CheckedRequest],
        val: &[CheckedRequest],
    ) -> Result<(Box<dyn MetaLearner>, TrainingConfig)> {
        match self.document.method() {
            #[cfg(feature = "mend")]
            Some(method) if is(method, "MEND") => {
                let hparams: easyedit_mend::MendHparams = self.document.read()?;
                let config = hparams.training_config();
                let archive = hparams.archive.clone();
                let mut learner = easyedit_mend::MendLearner::new(model, hparams, train, val)?;
                if let Some(archive) = archive {
                    learner.start_from(&self.session.corpora().trained(&archive, "MEND")?)?;
                }
                Ok((Box::new(learner), config))
            }
            #[cfg(feature = "serac")]
            Some(method) if is(method, "SERAC") => {
                let hparams: easyedit_serac::SeracHparams = self.document.read()?;
                let config = hparams.training_config()?;
                Ok((Box::new(easyedit_serac::SeracLearner::new(hparams, model, train, val, &self.session)?), config))
            }
            other => Err(self.not_trained(other)),
        }
    }

    fn not_trained(&self, method: Option<&str>) -> Error {
        let what = method.map_or_else(|| "names no method".to_owned(), |method| format!("is for {method}, which is not trained"));
        Error::Hparams { origin: Some(self.document.origin().to_owned()), message: format!("the file {what}; MEND and SERAC are") }
    }
}

#[cfg(any(feature = "mend", feature = "serac"))]
fn is(method: &str, name: &str) -> bool {
    method.eq_ignore_ascii_case(name)
}
