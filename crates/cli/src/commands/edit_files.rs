//! The edit files that a command is given: files, or folders of them, in any order.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use easyedit::models::Checkpoint;
use easyedit::{EDIT_FILE_SUFFIX, Edit, sort_by_fingerprints};

use crate::failure::UsageError;

/// Reads the edits of files and folders, in the order in which they were made.
pub(super) fn load_edits(paths: &[PathBuf]) -> Result<Vec<Edit>> {
    Ok(load_edit_files(paths)?.into_iter().map(|(_, edit)| edit).collect())
}

/// As [`load_edits`], each with its file.
pub(super) fn load_edit_files(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Edit)>> {
    let mut edits = Vec::new();
    for path in paths {
        for file in files(path)? {
            let edit = Edit::load(&file)?;
            edits.push((file, edit));
        }
    }
    sort_by_fingerprints(&mut edits, |(_, edit)| edit);
    Ok(edits)
}

/// The file, or the edit files of the folder by the number in front of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.with_context(|| format!("cannot list {}", path.display()))?.path();
        if file.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(EDIT_FILE_SUFFIX.as_bytes())) {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("{} holds no edit files (*{EDIT_FILE_SUFFIX})", path.display());
    }
    files.sort_by_cached_key(|file| (number(file), file.clone()));
    Ok(files)
}

/// The number a file's name begins with.
fn number(file: &Path) -> Option<u64> {
    let name = file.file_name()?.to_string_lossy();
    name.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Checks that a checkpoint can hold the edits.
pub(super) fn check_weights_only(edits: &[Edit]) -> Result<()> {
    match edits.iter().find(|edit| edit.overlay.is_some()) {
        Some(edit) => Err(UsageError(format!(
            "the edit of {} is laid over the model and changes no weights, so no checkpoint can hold it; keep the edit file and give it to `easyedit generate --edit`",
            edit.method
        ))
        .into()),
        None => Ok(()),
    }
}

/// Checks that no edit is in the checkpoint already, as its record tells.
pub(super) fn check_not_applied(checkpoint: &Checkpoint, edits: &[Edit]) -> Result<()> {
    match easyedit::models::first_applied(checkpoint, edits)? {
        Some(edit) => {
            bail!("the {} is already applied to {}; give the edits it does not hold", edit.title(), checkpoint.path().display())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_folder_come_by_their_number() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["10-rome", "2-rome", "007-rome", "memit-batch-of-2"] {
            std::fs::write(folder.path().join(format!("{name}{EDIT_FILE_SUFFIX}")), "").unwrap();
        }
        std::fs::write(folder.path().join("model.safetensors"), "").unwrap();
        let found = files(folder.path()).unwrap();
        let names: Vec<_> = found.iter().map(|file| file.file_name().unwrap().to_str().unwrap().replace(EDIT_FILE_SUFFIX, "")).collect();
        assert_eq!(names, ["memit-batch-of-2", "2-rome", "007-rome", "10-rome"]);
        let empty = tempfile::tempdir().unwrap();
        assert!(files(empty.path()).unwrap_err().to_string().contains("no edit files"));
    }
}
