use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::Tokenizer;
use safetensors::Dtype;
use serde_json::Value;

use super::PytorchSource;
use crate::checkpoint::read_config;
use crate::companions::carried_files;
use crate::tokenizer_files::load_tokenizer;
use crate::{CheckpointFiles, Result, TensorSource};

/// A folder with `config.json`, weights that PyTorch wrote, and `tokenizer.json`. Saved, its weights become safetensors.
#[derive(Debug)]
pub struct PytorchFolder {
    path: PathBuf,
    config: Value,
    source: PytorchSource,
}

impl PytorchFolder {
    /// Opens the folder: reads `config.json` and what the weight files say of themselves.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound) if it is no checkpoint, otherwise as [`PytorchSource::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let config = read_config(path)?;
        let source = PytorchSource::open(path)?;
        Ok(Self { path: path.to_owned(), config, source })
    }
}

impl CheckpointFiles for PytorchFolder {
    fn config(&self) -> &Value {
        &self.config
    }

    fn tensors(&self) -> &dyn TensorSource {
        &self.source
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name).map(<[usize]>::to_vec)
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        load_tokenizer(&self.path, &self.config)
    }

    fn companions(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        carried_files(&self.path, false)
    }

    fn saved_dtype(&self, name: &str) -> Dtype {
        self.source.dtype(name).unwrap_or(Dtype::F32)
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        self.source.raw(name)
    }
}
