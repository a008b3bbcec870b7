use std::fs;
use std::path::{Path, PathBuf};

use easyedit_core::{EDIT_FILE_SUFFIX, OutputFolder};
use tempfile::TempDir;

use super::card::CARD_FILE;
use super::provenance::PROVENANCE_FILE;
use crate::safetensors_source::INDEX_FILE;
use crate::{Checkpoint, Error, PYTORCH_FILE, PYTORCH_INDEX_FILE, Result};

/// Start of the names of hidden folders in which a checkpoint is put together.
const STAGING_PREFIX: &str = ".easyedit-staging-";
/// A folder without it is no checkpoint, so it is moved last.
const CONFIG_FILE: &str = "config.json";

/// Checks that a checkpoint can be saved to `out`, so that a long run can fail before it starts. Creates nothing.
///
/// # Errors
///
/// [`Error::Format`] naming `out` if it is the source itself (also through links), a file, or a folder that holds a checkpoint or a
/// file that saving would overwrite.
pub fn check_output(source: &Checkpoint, out: &Path) -> Result<()> {
    let metadata = match fs::metadata(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("open the output folder", out, e)),
        Ok(metadata) => metadata,
    };
    if !metadata.is_dir() {
        return Err(Error::format(out, "is a file; the output has to be a folder, choose another --out"));
    }
    if same_place(source.path(), out) {
        return Err(Error::format(out, "is the model's own folder, which is never overwritten; choose another --out"));
    }
    for entry in fs::read_dir(out).map_err(|e| Error::io("list the output folder", out, e))? {
        let name = entry.map_err(|e| Error::io("list the output folder", out, e))?.file_name();
        let name = name.to_string_lossy();
        if is_of_a_checkpoint(&name) {
            let whose = if out.join(PROVENANCE_FILE).exists() { "a checkpoint saved by easyedit" } else { "a checkpoint" };
            return Err(Error::format(out, format!("holds {whose} already ({name}); choose another --out or remove the folder")));
        }
    }
    refuse_overwriting(out, [CARD_FILE, PROVENANCE_FILE])
}

fn same_place(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn is_of_a_checkpoint(name: &str) -> bool {
    let weights = name.ends_with(".safetensors") && !name.ends_with(EDIT_FILE_SUFFIX);
    weights || name.ends_with(".gguf") || [CONFIG_FILE, INDEX_FILE, PROVENANCE_FILE, PYTORCH_FILE, PYTORCH_INDEX_FILE].contains(&name)
}

/// Fails if one of `names` is in `out` already: files that are not ours stay as they are.
pub(super) fn refuse_overwriting<N: AsRef<str>>(out: &Path, names: impl IntoIterator<Item = N>) -> Result<()> {
    for name in names {
        let path = out.join(name.as_ref());
        if path.symlink_metadata().is_ok() {
            return Err(Error::format(path, "is there already and would be overwritten; choose another --out"));
        }
    }
    Ok(())
}

/// A hidden folder in the output folder, so on the same disk, where files are written before they are moved into place.
pub(super) struct Staging<'a> {
    folder: &'a OutputFolder,
    staging: TempDir,
}

impl<'a> Staging<'a> {
    /// Makes the folder, and removes those of runs that were killed: the claim says that none of them is still running.
    pub(super) fn new(folder: &'a OutputFolder) -> Result<Self> {
        let out = folder.path();
        for entry in fs::read_dir(out).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(STAGING_PREFIX) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let staging =
            tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(out).map_err(|e| Error::io("write to the output folder", out, e))?;
        Ok(Self { folder, staging })
    }

    pub(super) fn path(&self) -> &Path {
        self.staging.path()
    }

    /// Moves all files into the output folder, and gives their names. When one cannot be moved, those moved before are removed.
    pub(super) fn publish(self) -> Result<Vec<String>> {
        let out = self.folder.path();
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path()).map_err(|e| Error::io("list", self.path(), e))? {
            let entry = entry.map_err(|e| Error::io("list", self.path(), e))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        refuse_overwriting(out, &names)?;
        let (last, first): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| *name == CONFIG_FILE);
        let mut moved: Vec<PathBuf> = Vec::new();
        for name in first.into_iter().chain(last) {
            let place = out.join(name);
            if let Err(e) = fs::rename(self.path().join(name), &place) {
                for path in &moved {
                    let _ = fs::remove_file(path);
                }
                return Err(Error::io("write", place, e));
            }
            moved.push(place);
        }
        Ok(names)
    }
}
