//! The shortest way from a model's name to an edited model: open, edit, save.

use std::path::Path;
use std::sync::Arc;

use easyedit_core::{EditRequest, LanguageModel, OutputFolder, Result, Session};
use easyedit_models::{Checkpoint, SavedCheckpoint, cache_folder, check_output, resolve_model, save_checkpoint_into};

use crate::{EditFolder, EditRun, EditStore, Editor, EditorOptions, TextCorpora, changed_weights, hparams, registry};

/// A model with the checkpoint it was loaded from.
pub struct OpenModel {
    session: Session,
    checkpoint: Arc<Checkpoint>,
    model: Box<dyn LanguageModel>,
}

/// Opens the model called `name` (a folder, a `.gguf` file, a Hub id or a short name), which may fetch it; seed 0, on the CPU, with the user's
/// cache folder and the built-in text for statistics.
///
/// # Errors
///
/// If there is no such model, or it cannot be had or loaded.
pub fn open(name: &str) -> Result<OpenModel> {
    open_in(&Session::new().with_corpora(TextCorpora::default()).with_cache(cache_folder()), name)
}

/// As [`open`], in a session of the caller's.
///
/// # Errors
///
/// As [`open`].
pub fn open_in(session: &Session, name: &str) -> Result<OpenModel> {
    let location = resolve_model(name, session.progress())?;
    let checkpoint = Checkpoint::open(&location.path)?.with_name(location.name);
    let model = checkpoint.load_while(&session.device()?, session.progress())?;
    Ok(OpenModel { session: session.clone(), checkpoint: Arc::new(checkpoint), model })
}

impl OpenModel {
    /// The model.
    pub fn model(&self) -> &dyn LanguageModel {
        &*self.model
    }

    /// The checkpoint it was loaded from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// An editor of the model with a built-in method, and the hyperparameters that are known for the model or follow from its depth.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownMethod`](easyedit_core::Error::UnknownMethod) naming the nearest one; or if the hyperparameters do not fit the model.
    pub fn editor(&self, method: &str) -> Result<Editor> {
        let registry = registry();
        let entry = registry.get(method)?;
        let found = hparams::find(entry, self.checkpoint.name(), self.model.spec())?;
        Ok(Editor::new(&self.session, self.model.boxed_clone(), entry.build(&found.document)?, EditorOptions::default()))
    }

    /// Makes one request true with a built-in method, and measures what that did.
    ///
    /// # Errors
    ///
    /// As [`editor`](Self::editor) and [`Editor::run`].
    pub fn edit(&self, method: &str, request: EditRequest) -> Result<Edited> {
        let run = self.editor(method)?.run(&[request], &mut |_| Ok(()))?;
        Ok(Edited { run, session: self.session.clone(), checkpoint: self.checkpoint.clone() })
    }
}

/// A model with one request made true.
pub struct Edited {
    /// The edit, its scores, and the edited model.
    pub run: EditRun,
    session: Session,
    checkpoint: Arc<Checkpoint>,
}

impl Edited {
    /// Writes the edit file, and for a change of weights the edited checkpoint, into `folder`. What was written of the checkpoint; `None` for an
    /// edit that is laid over the model.
    ///
    /// # Errors
    ///
    /// If the folder holds other files of a checkpoint, or cannot be written to. Nothing half-written stays then.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<Option<SavedCheckpoint>> {
        let (folder, edits) = (folder.as_ref(), self.run.edits.as_slice());
        let edited = self.run.edited()?;
        let mut saved = None;
        if edits.iter().all(|edit| edit.overlay.is_none()) {
            let changed = changed_weights(&*edited, edits)?;
            check_output(&self.checkpoint, folder)?;
            let claimed = OutputFolder::claim(folder)?;
            saved = Some(save_checkpoint_into(&self.checkpoint, &changed, edits, &claimed, self.session.progress())?);
        }
        let mut files = EditFolder::new(folder, edits.len(), false);
        edits.iter().try_for_each(|edit| files.push(edit.clone()))?;
        Ok(saved)
    }
}
