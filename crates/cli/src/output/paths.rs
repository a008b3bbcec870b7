//! Paths as text. Bytes that are no UTF-8 become U+FFFD: a path is shown, never a reason to fail.

use std::path::{Path, PathBuf};

use serde::Serializer;

/// A path as text for people.
pub(crate) fn visible_path(path: &Path) -> String {
    path.display().to_string()
}

/// Writes a path into JSON; `null` if there is none.
pub(crate) fn serialize_path<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.serialize_str(&visible_path(path)),
        None => serializer.serialize_none(),
    }
}

/// Writes a list of paths into JSON.
pub(crate) fn serialize_paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| visible_path(path)))
}
