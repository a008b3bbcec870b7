//! The output folder of an edit: checked and claimed before the work begins, filled as edits are made.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::Result;
use easyedit::models::{Checkpoint, check_output, save_checkpoint_into};
use easyedit::{Edit, EditFolder, EditStore, Error, LanguageModel, OutputFolder, changed_weights};
use serde::Serialize;

use super::Context;
use super::run::MOST_SHOWN;
use crate::args::{OutputArguments, Save};
use crate::failure::UsageError;
use crate::interrupt;
use crate::output::{serialize_path, serialize_paths};

/// Where results go.
pub(super) struct Destination {
    folder: OutputFolder,
    save: Save,
    overwrite: bool,
}

/// What was written.
#[derive(Debug, Default, Serialize)]
pub(super) struct Saved {
    /// Edit files.
    #[serde(serialize_with = "serialize_paths")]
    pub(super) edits: Vec<PathBuf>,
    /// Folder of the edited checkpoint.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_path")]
    pub(super) checkpoint: Option<PathBuf>,
}

impl Destination {
    /// Checks and claims `--out`, if it is given.
    pub(super) fn claim(checkpoint: &Checkpoint, arguments: &OutputArguments) -> Result<Option<Self>> {
        let Some(out) = &arguments.out else { return Ok(None) };
        let save = arguments.save.unwrap_or_default();
        if save.checkpoint() {
            check_output(checkpoint, out)?;
        } else if is_same_folder(checkpoint.path(), out) {
            return Err(UsageError(format!("{} is the model's own folder; choose another --out", out.display())).into());
        }
        Ok(Some(Self { folder: OutputFolder::claim(out)?, save, overwrite: arguments.overwrite }))
    }

    /// Writes the checkpoint, if it is wanted, and says what was written.
    pub(super) fn finish(
        &self,
        context: &Context,
        checkpoint: &Checkpoint,
        edits: &EditKeeper,
        edited: impl FnOnce() -> easyedit::Result<Box<dyn LanguageModel>>,
    ) -> Result<Saved> {
        let mut saved = Saved { edits: edits.files(), checkpoint: None };
        if self.save.checkpoint() && !edits.is_empty() {
            let all: Vec<Edit> = (0..edits.len()).map(|index| Ok(edits.get(index)?.into_owned())).collect::<easyedit::Result<_>>()?;
            let changed = changed_weights(&*edited()?, &all)?;
            saved.checkpoint = Some(save_checkpoint_into(checkpoint, &changed, &all, &self.folder, context.progress())?.folder);
        }
        Ok(saved)
    }
}

/// Where the edits of a run are while it goes on.
pub(super) enum EditKeeper {
    /// Each in a file as soon as it is made.
    Files(EditFolder),
    /// In memory: they are shown, or become a checkpoint at the end.
    Memory(Vec<Edit>),
    /// Nowhere: only counted.
    Nowhere(usize),
}

impl EditKeeper {
    /// The keeper for a run that makes `edits` edits at most.
    pub(super) fn new(destination: Option<&Destination>, edits: usize) -> Self {
        match destination {
            Some(Destination { folder, save, overwrite }) if save.edit() => Self::Files(EditFolder::new(folder.path(), edits, *overwrite)),
            Some(_) => Self::Memory(Vec::new()),
            None if edits <= MOST_SHOWN => Self::Memory(Vec::new()),
            None => Self::Nowhere(0),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        if let Self::Files(folder) = self { folder.files() } else { Vec::new() }
    }
}

impl EditStore for EditKeeper {
    fn push(&mut self, edit: Edit) -> easyedit::Result<()> {
        match self {
            Self::Files(folder) => {
                folder.push(edit)?;
                folder.last_file().into_iter().for_each(interrupt::keep);
                interrupt::resume("run the same command again to make the rest; an edit that is kept is not written twice");
                Ok(())
            }
            Self::Memory(edits) => EditStore::push(edits, edit),
            Self::Nowhere(count) => {
                *count += 1;
                Ok(())
            }
        }
    }

    fn pop(&mut self) -> easyedit::Result<()> {
        match self {
            Self::Files(folder) => {
                folder.last_file().into_iter().for_each(interrupt::forget);
                folder.pop()
            }
            Self::Memory(edits) => EditStore::pop(edits),
            Self::Nowhere(count) => {
                *count = count.saturating_sub(1);
                Ok(())
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Files(folder) => folder.len(),
            Self::Memory(edits) => edits.len(),
            Self::Nowhere(count) => *count,
        }
    }

    fn get(&self, index: usize) -> easyedit::Result<Cow<'_, Edit>> {
        match self {
            Self::Files(folder) => folder.get(index),
            Self::Memory(edits) => EditStore::get(edits, index),
            Self::Nowhere(_) => Err(Error::Batch(format!("edit {index} was not kept; give --out to keep edits"))),
        }
    }
}

fn is_same_folder(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
