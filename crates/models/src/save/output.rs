use std::fs;
use std::path::Path;

use easyedit_core::{EDIT_FILE_SUFFIX, unfinished_files};

use super::card::CARD_FILE;
use super::provenance::PROVENANCE_FILE;
use crate::safetensors_source::INDEX_FILE;
use crate::{Checkpoint, Error, PYTORCH_FILE, PYTORCH_INDEX_FILE, Result};

/// A folder without it is no checkpoint, so it is moved last.
pub(super) const CONFIG_FILE: &str = "config.json";

/// Checks that a checkpoint can be saved to `out`, so that a long run can fail before it starts. Creates nothing.
///
/// Files of a set that a killed run did not finish are no obstacle: the next run that claims the folder removes them.
///
/// # Errors
///
/// [`Error::Format`] naming `out` if it is the source itself (also through links), a file, or a folder that holds a checkpoint or a
/// file that saving would overwrite.
pub fn check_output(source: &Checkpoint, out: &Path) -> Result<()> {
    if out.is_dir() && same_place(source.path(), out) {
        return Err(Error::format(out, "is the model's own folder, which is never overwritten; choose another --out"));
    }
    check_output_folder(out)?;
    refuse_overwriting(out, [CARD_FILE, PROVENANCE_FILE])
}

/// Checks that `out` is not there, or a folder without a checkpoint in it. Creates nothing.
///
/// # Errors
///
/// [`Error::Format`] naming `out` if it is a file, or a folder that holds a checkpoint.
pub fn check_output_folder(out: &Path) -> Result<()> {
    let metadata = match fs::metadata(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("open the output folder", out, e)),
        Ok(metadata) => metadata,
    };
    if !metadata.is_dir() {
        return Err(Error::format(out, "is a file; the output has to be a folder, choose another --out"));
    }
    let unfinished = unfinished_files(out);
    for entry in fs::read_dir(out).map_err(|e| Error::io("list the output folder", out, e))? {
        let name = entry.map_err(|e| Error::io("list the output folder", out, e))?.file_name();
        let name = name.to_string_lossy();
        if is_of_a_checkpoint(&name) && !unfinished.iter().any(|file| *file == name) {
            let whose = if out.join(PROVENANCE_FILE).exists() { "a checkpoint saved by easyedit" } else { "a checkpoint" };
            return Err(Error::format(out, format!("holds {whose} already ({name}); choose another --out or remove the folder")));
        }
    }
    Ok(())
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
    let unfinished = unfinished_files(out);
    for name in names {
        let path = out.join(name.as_ref());
        if !unfinished.iter().any(|file| file == name.as_ref()) && path.symlink_metadata().is_ok() {
            return Err(Error::format(path, "is there already and would be overwritten; choose another --out"));
        }
    }
    Ok(())
}
