//! Models that are yet to be trained: a folder with a configuration and a tokenizer, and no weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::Tokenizer;
use serde_json::Value;

use crate::checkpoint::read_config;
use crate::companions::carried_files;
use crate::tokenizer_files::load_tokenizer;
use crate::{Checkpoint, CheckpointFiles, INDEX_FILE, InitialWeights, Result, SINGLE_FILE, TensorSource, pytorch};

/// A folder with `config.json` and `tokenizer.json`, whose weights are drawn.
struct UntrainedFolder {
    path: PathBuf,
    config: Value,
    weights: InitialWeights,
}

/// Opens a folder that has a configuration but no weights as a checkpoint whose weights are drawn from `seed`; `None` for any other place.
///
/// # Errors
///
/// [`Error::Format`](crate::Error::Format) if the configuration is damaged.
pub fn open_untrained(path: &Path, seed: u64) -> Result<Option<Checkpoint>> {
    let has_weights = path.join(SINGLE_FILE).exists() || path.join(INDEX_FILE).exists() || pytorch::has_weights(path);
    if has_weights || !path.join("config.json").is_file() {
        return Ok(None);
    }
    let files = UntrainedFolder { path: path.to_owned(), config: read_config(path)?, weights: InitialWeights { seed } };
    Ok(Some(Checkpoint::from_files(path, Box::new(files))))
}

impl CheckpointFiles for UntrainedFolder {
    fn config(&self) -> &Value {
        &self.config
    }

    fn tensors(&self) -> &dyn TensorSource {
        &self.weights
    }

    fn shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        load_tokenizer(&self.path, &self.config)
    }

    fn companions(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        carried_files(&self.path, false)
    }
}
