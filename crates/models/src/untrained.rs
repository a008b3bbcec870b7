//! Models that are yet to be trained: a folder with a configuration and a tokenizer, and no weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::Tokenizer;
use serde_json::Value;

use crate::checkpoint::read_config;
use crate::companions::carried_files;
use crate::tokenizer_files::load_tokenizer;
use crate::{Checkpoint, CheckpointFiles, Error, INDEX_FILE, InitialWeights, Result, SINGLE_FILE, TensorSource, pytorch};

/// A configuration, whose weights are drawn.
struct Untrained {
    config: Value,
    weights: InitialWeights,
    companions: Companions,
}

/// Where the tokenizer is.
enum Companions {
    /// In a folder, with `config.json`.
    Folder(PathBuf),
    /// In memory: the contents of `tokenizer.json`.
    Memory(Vec<u8>),
}

/// A checkpoint called `name` of a configuration and a tokenizer, the contents of `config.json` and `tokenizer.json`, whose weights are drawn from
/// `seed`.
///
/// # Errors
///
/// [`Error::Format`] if the configuration is not JSON.
pub fn untrained(name: &str, config: &str, tokenizer: &str, seed: u64) -> Result<Checkpoint> {
    let config = serde_json::from_str(config).map_err(|error| Error::format(name, format!("config.json is not JSON: {error}")))?;
    let files = Untrained { config, weights: InitialWeights { seed }, companions: Companions::Memory(tokenizer.as_bytes().to_vec()) };
    Ok(Checkpoint::from_files(Path::new(name), Box::new(files)))
}

impl CheckpointFiles for Untrained {
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
        let tokenizer = match &self.companions {
            Companions::Folder(path) => return load_tokenizer(path, &self.config),
            Companions::Memory(tokenizer) => tokenizer,
        };
        let inner = tokenizers::Tokenizer::from_bytes(tokenizer).map_err(|error| Error::format("tokenizer.json", error.to_string()))?;
        let end = self.config.get("eos_token_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        Ok(Tokenizer::new(inner, end.into_iter().collect()))
    }

    fn companions(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let tokenizer = match &self.companions {
            Companions::Folder(path) => return carried_files(path, false),
            Companions::Memory(tokenizer) => tokenizer.clone(),
        };
        let config = self.config.to_string().into_bytes();
        Ok(BTreeMap::from([("config.json".to_owned(), config), ("tokenizer.json".to_owned(), tokenizer)]))
    }
}

/// Opens a folder that has a configuration but no weights as a checkpoint whose weights are drawn from `seed`; `None` for any other place.
///
/// # Errors
///
/// [`Error::Format`] if the configuration is damaged.
pub fn open_untrained(path: &Path, seed: u64) -> Result<Option<Checkpoint>> {
    let has_weights = path.join(SINGLE_FILE).exists() || path.join(INDEX_FILE).exists() || pytorch::has_weights(path);
    if has_weights || !path.join("config.json").is_file() {
        return Ok(None);
    }
    let companions = Companions::Folder(path.to_owned());
    let files = Untrained { config: read_config(path)?, weights: InitialWeights { seed }, companions };
    Ok(Some(Checkpoint::from_files(path, Box::new(files))))
}
