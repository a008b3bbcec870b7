//! Which files a command may write: none that it reads, and no two results into one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use easyedit::check_output_file;

use crate::failure::UsageError;

/// Checks the files that flags name for results, before anything is computed. `inputs` are files and folders that the command reads.
///
/// # Errors
///
/// If a result would replace an input or a file inside an input folder, is a folder, a device or a pipe, or is named by two flags.
pub(super) fn check_outputs<'a>(
    outputs: impl IntoIterator<Item = (&'a str, Option<&'a PathBuf>)>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    let inputs: Vec<PathBuf> = inputs.into_iter().flat_map(files).collect();
    let mut taken: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for (flag, path) in outputs.into_iter().filter_map(|(flag, path)| Some((flag, path?))) {
        let place = check_output_file(path)?;
        let place = place.canonicalize().unwrap_or_else(|_| std::path::absolute(&place).unwrap_or(place));
        if inputs.contains(&place) {
            return Err(
                UsageError(format!("{flag} {} would replace a file that this command reads; choose another one", path.display())).into()
            );
        }
        if let Some(other) = taken.insert(place, flag) {
            return Err(UsageError(format!("{other} and {flag} both name {}; choose another file for one of them", path.display())).into());
        }
    }
    Ok(())
}

/// The file, or the files of the folder, with links followed.
fn files(path: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(path).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
    let paths: Vec<PathBuf> = listed.unwrap_or_else(|_| vec![path.to_owned()]);
    paths.iter().filter_map(|path| path.canonicalize().ok()).collect()
}
