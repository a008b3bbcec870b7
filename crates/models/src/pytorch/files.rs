use std::path::{Path, PathBuf};

use crate::shard_index::ShardIndex;
use crate::{Error, Result};

/// The weights of a checkpoint in one file.
pub const PYTORCH_FILE: &str = "pytorch_model.bin";
/// The list of shards of a checkpoint in several files.
pub const PYTORCH_INDEX_FILE: &str = "pytorch_model.bin.index.json";
/// Starts of the names of files that trainers leave beside the weights.
const NOT_WEIGHTS: &[&str] = &["optimizer", "scheduler", "scaler", "rng_state", "training_args"];

/// The files that hold a folder's weights.
pub(super) struct WeightFiles {
    pub(super) paths: Vec<PathBuf>,
    pub(super) index: Option<ShardIndex>,
}

/// Whether `folder` has weights that PyTorch wrote.
pub(crate) fn has_weights(folder: &Path) -> bool {
    folder.join(PYTORCH_FILE).exists() || folder.join(PYTORCH_INDEX_FILE).exists() || !loose_files(folder).is_empty()
}

/// Finds `pytorch_model.bin`, or the shards of its index, or the only `*.pt` or `*.pth` file.
pub(super) fn find(folder: &Path) -> Result<WeightFiles> {
    let single = folder.join(PYTORCH_FILE);
    if single.exists() {
        return Ok(WeightFiles { paths: vec![single], index: None });
    }
    let index = folder.join(PYTORCH_INDEX_FILE);
    if index.exists() {
        let index = ShardIndex::read(&index)?;
        return Ok(WeightFiles { paths: index.files(), index: Some(index) });
    }
    let paths = loose_files(folder);
    match paths.as_slice() {
        [] => Err(Error::NotFound(format!("{} has neither {PYTORCH_FILE} nor another file of PyTorch weights", folder.display()))),
        [_] => Ok(WeightFiles { paths, index: None }),
        several => {
            let names: Vec<_> = several.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()).collect();
            let message = format!("holds several files of weights ({}); leave one, or name it {PYTORCH_FILE}", names.join(", "));
            Err(Error::format(folder, message))
        }
    }
}

/// The `*.pt` and `*.pth` files that may be weights, by name.
fn loose_files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let ending = path.extension().is_some_and(|ending| ending == "pt" || ending == "pth");
            ending && !name.starts_with('.') && !NOT_WEIGHTS.iter().any(|start| name.starts_with(start))
        })
        .collect();
    paths.sort();
    paths
}
