use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use easyedit_core::{LanguageModel, ParamName, Progress, Silent, Tokenizer};
use safetensors::Dtype;
use serde_json::Value;

use crate::companions::carried_files;
use crate::families::{load_model, stored_name};
use crate::json_file::read_json_object;
use crate::source::ReportedSource;
use crate::tokenizer_files::load_tokenizer;
use crate::{
    Error, GgufFile, INDEX_FILE, ModelConfig, PytorchFolder, Result, SINGLE_FILE, SafetensorsSource, TensorSource, TextEncoder, WeightType,
    load_text_encoder, pytorch,
};

/// What every kind of checkpoint can tell: the seam between the files on disk and the models made from them.
pub trait CheckpointFiles: Send + Sync {
    /// `config.json`, or what it would hold.
    fn config(&self) -> &Value;

    /// The weights.
    fn tensors(&self) -> &dyn TensorSource;

    /// Shape of tensor `name`, `None` if there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// If it is missing or damaged.
    fn tokenizer(&self) -> Result<Tokenizer>;

    /// Name and content of the small files that make a Hugging Face folder together with the weights: `config.json`,
    /// `tokenizer.json`, and whatever else goes along when the checkpoint is saved.
    ///
    /// # Errors
    ///
    /// If one cannot be read or made.
    fn companions(&self) -> Result<BTreeMap<String, Vec<u8>>>;

    /// The safetensors that hold the weights, which are copied when the checkpoint is saved; `None` for one of another format.
    fn safetensors(&self) -> Option<&SafetensorsSource> {
        None
    }

    /// The type that tensor `name` of a checkpoint of another format is saved in.
    fn saved_dtype(&self, _name: &str) -> Dtype {
        Dtype::F32
    }

    /// The little-endian bytes of tensor `name` in its [`saved_dtype`](Self::saved_dtype).
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if it is missing or damaged.
    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let shape = self.shape(name).unwrap_or_default();
        Ok(WeightType::F32.narrow(&self.tensors().read(name, &shape)?))
    }
}

/// The `config.json` of a folder.
pub(crate) fn read_config(folder: &Path) -> Result<Value> {
    let path = folder.join("config.json");
    if path.exists() {
        return read_json_object(&path);
    }
    let way_out = "give a folder made by save_pretrained or fetched from the Hub";
    Err(Error::NotFound(format!("{} has no config.json; {way_out}", folder.display())))
}

/// A folder with `config.json`, safetensors and `tokenizer.json`.
#[derive(Debug)]
pub struct HuggingFaceFolder {
    path: PathBuf,
    config: Value,
    source: SafetensorsSource,
}

impl HuggingFaceFolder {
    /// Opens the folder: reads `config.json` and the headers of the weights.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it is no checkpoint, otherwise as [`SafetensorsSource::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let config = read_config(path)?;
        let source = SafetensorsSource::open(path)?;
        Ok(Self { path: path.to_owned(), config, source })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl CheckpointFiles for HuggingFaceFolder {
    fn config(&self) -> &Value {
        &self.config
    }

    fn tensors(&self) -> &dyn TensorSource {
        &self.source
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.tensor(name).map(|tensor| tensor.shape.clone())
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        load_tokenizer(&self.path, &self.config)
    }

    fn companions(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        carried_files(&self.path, self.source.is_sharded())
    }

    fn safetensors(&self) -> Option<&SafetensorsSource> {
        Some(&self.source)
    }
}

/// A GGUF file with the configuration it stands for.
struct GgufCheckpoint {
    file: GgufFile,
    config: Value,
}

impl GgufCheckpoint {
    fn open(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        let config = file.config()?;
        Ok(Self { file, config })
    }
}

impl CheckpointFiles for GgufCheckpoint {
    fn config(&self) -> &Value {
        &self.config
    }

    fn tensors(&self) -> &dyn TensorSource {
        &self.file
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.file.shape(name).map(<[usize]>::to_vec)
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(Tokenizer::new(self.file.tokenizer()?, self.file.eos_ids()?).with_origin(self.file.path()))
    }

    fn companions(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        Ok(self.file.hf_files()?.into_iter().collect())
    }
}

/// An opened checkpoint: what a model is loaded from, and what an edited model is saved by.
///
/// Opening reads headers only; weights are read when asked for.
pub struct Checkpoint {
    files: Box<dyn CheckpointFiles>,
    path: PathBuf,
    name: String,
}

impl Checkpoint {
    /// Opens the folder or file at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is nothing, [`Error::Unsupported`] for a file of a kind that is not read, otherwise as
    /// [`HuggingFaceFolder::open`], or [`PytorchFolder::open`] for a folder that has no safetensors.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::NotFound(format!("there is no file or folder {}; check the model's path", path.display()))
            }
            _ => Error::io("open", path, e),
        })?;
        if metadata.is_dir() {
            let safetensors = path.join(SINGLE_FILE).exists() || path.join(INDEX_FILE).exists();
            return Ok(if !safetensors && pytorch::has_weights(path) {
                Self::from_files(path, Box::new(PytorchFolder::open(path)?))
            } else {
                Self::from_files(path, Box::new(HuggingFaceFolder::open(path)?))
            });
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("gguf") => Ok(Self::from_files(path, Box::new(GgufCheckpoint::open(path)?))),
            Some("safetensors" | "bin" | "pt" | "pth") => Err(Error::Unsupported(format!(
                "{}: a file of weights alone does not say what model it is; give the folder with its config.json",
                path.display()
            ))),
            _ => Err(Error::Unsupported(format!("{}: a model is a folder with config.json or a .gguf file", path.display()))),
        }
    }

    /// A checkpoint of another kind, opened from `path`.
    pub fn from_files(path: &Path, files: Box<dyn CheckpointFiles>) -> Self {
        Self { name: name_from_path(path), files, path: path.to_owned() }
    }

    /// Gives it the name it is called by in edits, reports and model cards.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Its name: the one given, else the Hub id if it lies in the Hugging Face cache, else the last part of its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder or file it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json`, or what it would hold.
    pub fn config(&self) -> &Value {
        self.files.config()
    }

    /// `model_type` of [`config`](Self::config); empty if it has none.
    pub fn model_type(&self) -> &str {
        self.config().get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The weights.
    pub fn tensors(&self) -> &dyn TensorSource {
        self.files.tensors()
    }

    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// If it is missing or damaged.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        self.files.tokenizer()
    }

    /// The files behind it.
    pub fn files(&self) -> &dyn CheckpointFiles {
        &*self.files
    }

    /// Name under which the checkpoint stores `parameter`; `None` if it has no such tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for an unknown family.
    pub fn stored_name(&self, parameter: &ParamName) -> Result<Option<String>> {
        let contains = |name: &str| self.tensors().contains(name);
        let stored = stored_name(self.model_type(), parameter, &contains)?;
        Ok(contains(&stored).then_some(stored))
    }

    /// Loads the model on `device`, under the checkpoint's name.
    ///
    /// # Errors
    ///
    /// As [`load_model`].
    pub fn load(&self, device: &Device) -> Result<Box<dyn LanguageModel>> {
        self.load_while(device, &Silent)
    }

    /// As [`load`](Self::load); every tensor is a step of `progress`, which may end the loading.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); [`Cancelled`](easyedit_core::Error::Cancelled) in an [`Error::Core`].
    pub fn load_while(&self, device: &Device, progress: &dyn Progress) -> Result<Box<dyn LanguageModel>> {
        let config = ModelConfig::new(self.config().clone(), self.path.join("config.json"))?;
        let tokenizer = self.tokenizer()?;
        let source = ReportedSource { source: self.tensors(), progress };
        progress.begin("load the model (tensors)", Some(source.names().len() as u64));
        let loaded = load_model(&config, &self.name, &source, tokenizer, device);
        progress.end();
        loaded
    }

    /// Loads the text encoder on `device`, under the checkpoint's name.
    ///
    /// # Errors
    ///
    /// As [`load_text_encoder`].
    pub fn load_text_encoder(&self, device: &Device) -> Result<TextEncoder> {
        let config = ModelConfig::new(self.config().clone(), self.path.join("config.json"))?;
        load_text_encoder(&config, &self.name, self.tensors(), self.tokenizer()?, device)
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("name", &self.name).field("path", &self.path).finish_non_exhaustive()
    }
}

/// `org/name` for `.../models--org--name/snapshots/<commit>`, else the last part of the path without `.gguf`.
fn name_from_path(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // A file of the cache is a link into its blobs: look at the path as given, too.
    for path in [path, &full] {
        if let Some(id) = path.iter().filter_map(|part| part.to_str()?.strip_prefix("models--")).next_back()
            && path.iter().any(|part| part == "snapshots")
        {
            return id.replace("--", "/");
        }
    }
    let last = if path.file_name().is_some() { path } else { &full };
    let last = if last.extension().is_some_and(|e| e == "gguf") { last.file_stem() } else { last.file_name() };
    last.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_cache_or_the_last_part_of_the_path() {
        for (path, name) in [
            ("/c/hub/models--openai-community--gpt2/snapshots/607a30d", "openai-community/gpt2"),
            ("/models/SmolLM2-135M", "SmolLM2-135M"),
            ("SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1"),
            ("gpt2-v1.1/", "gpt2-v1.1"),
            ("/", "model"),
        ] {
            assert_eq!(name_from_path(Path::new(path)), name);
        }
    }
}
