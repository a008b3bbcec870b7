//! The output folder of an edit: checked and claimed before the work begins, written when it is done.

use std::path::{Path, PathBuf};

use anyhow::Result;
use easyedit::models::{Checkpoint, check_output, save_checkpoint_into};
use easyedit::{EDIT_FILE_SUFFIX, Edit, OutputFolder};
use serde::Serialize;

use super::changed_weights;
use crate::args::{OutputArguments, Save};
use crate::failure::UsageError;

/// Longest part of an edit file's name that comes from its subject, in characters.
const MAX_SLUG: usize = 40;

/// Where results go.
pub(super) struct Destination {
    folder: OutputFolder,
    save: Save,
}

/// What was written.
#[derive(Debug, Default, Serialize)]
pub(super) struct Saved {
    /// Edit files.
    pub(super) edits: Vec<PathBuf>,
    /// Folder of the edited checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
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
        Ok(Some(Self { folder: OutputFolder::claim(out)?, save }))
    }

    /// Writes the edits, and `edited` as a checkpoint, as far as they are wanted.
    pub(super) fn save(
        &self,
        checkpoint: &Checkpoint,
        edits: &[Edit],
        edited: impl FnOnce() -> easyedit::Result<Box<dyn easyedit::LanguageModel>>,
    ) -> Result<Saved> {
        let mut saved = Saved::default();
        if self.save.checkpoint() {
            let changed = changed_weights(&*edited()?, edits)?;
            saved.checkpoint = Some(save_checkpoint_into(checkpoint, &changed, edits, &self.folder)?.folder);
        }
        if self.save.edit() {
            for edit in edits {
                let path = self.folder.path().join(file_name(edit));
                edit.save(&path)?;
                saved.edits.push(path);
            }
        }
        Ok(saved)
    }
}

fn is_same_folder(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// `rome-7-the-eiffel-tower.edit.safetensors`; `rome-batch-of-20...` for an edit of several facts.
fn file_name(edit: &Edit) -> String {
    let what = match edit.requests.as_slice() {
        [one] => format!("{}-{}", one.case_id, slug(one.subject.as_deref().unwrap_or(&one.prompt))),
        many => format!("batch-of-{}", many.len()),
    };
    format!("{}-{}{EDIT_FILE_SUFFIX}", edit.method.to_lowercase(), what.trim_end_matches('-'))
}

/// Lower-case letters, digits and single hyphens.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.to_lowercase().chars().take(MAX_SLUG) {
        if c.is_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_for_any_subject() {
        assert_eq!(slug("The Eiffel Tower"), "the-eiffel-tower");
        assert_eq!(slug("../../etc/passwd"), "etc-passwd");
        assert_eq!(slug("Zürich"), "zürich");
        assert_eq!(slug("/"), "");
    }
}
