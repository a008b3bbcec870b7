//! The index of a checkpoint in several files: which tensor is in which file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::json_file::read_json_object;
use crate::{Error, Result};

/// A `*.index.json`, checked: every file it names is in the folder.
#[derive(Debug)]
pub(crate) struct ShardIndex {
    path: PathBuf,
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads the index `path`, whose files are beside it.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if it is no index, or names a file that is missing or outside the folder.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let index = read_json_object(path)?;
        let listed = index
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| Error::format(path, "has no object \"weight_map\" from tensor to file; fetch it again"))?;
        let mut weight_map = BTreeMap::new();
        for (tensor, file) in listed {
            let name = file.as_str().ok_or_else(|| Error::format(path, format!("gives no file name for tensor {tensor}")))?;
            if !is_plain_name(name) {
                return Err(Error::format(
                    path,
                    format!("gives {name:?} for tensor {tensor}, which is not a file name inside the folder; do not use this checkpoint"),
                ));
            }
            if !folder.join(name).exists() {
                return Err(Error::format(path, format!("names the shard {name}, which is not in the folder; fetch it again")));
            }
            weight_map.insert(tensor.clone(), name.to_owned());
        }
        if weight_map.is_empty() {
            return Err(Error::format(path, "lists no tensors; fetch it again"));
        }
        Ok(Self { path: path.to_owned(), weight_map })
    }

    /// The files, each once.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let names: BTreeSet<&String> = self.weight_map.values().collect();
        names.into_iter().map(|name| self.path.with_file_name(name)).collect()
    }

    /// Checks that every tensor is in the file the index gives for it; `file_of` tells the file a tensor was found in.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] naming one that is not.
    pub(crate) fn check<'a>(&self, file_of: impl Fn(&str) -> Option<&'a Path>) -> Result<()> {
        for (tensor, want) in &self.weight_map {
            if file_of(tensor).and_then(Path::file_name).is_none_or(|found| found != want.as_str()) {
                let index = self.path.file_name().unwrap_or_default().to_string_lossy();
                let message = format!("is not there although {index} says so; fetch both files again");
                return Err(Error::tensor(tensor, self.path.with_file_name(want), message));
            }
        }
        Ok(())
    }
}

/// Whether `name` is one ordinary file name, on any system.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_shards() {
        for good in ["model-00001-of-00002.safetensors", "a b.safetensors", "..a"] {
            assert!(is_plain_name(good), "{good}");
        }
        for bad in ["", ".", "..", "../x", "/etc/passwd", "a/b", "./a", "a/", "..\\x", "C:\\x", "c:x", "a\0b"] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }
}
