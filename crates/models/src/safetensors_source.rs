use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use easyedit_core::open_input;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::json_file::MAX_WEIGHT_BYTES;
use crate::positioned_reads::read_numbers;
use crate::pytorch::PYTORCH_FILE;
use crate::shard_index::ShardIndex;
use crate::tensor_checks::{check_shape, missing, not_finite, read_fault, weight_type};
use crate::{Error, Result, StoredValues, TensorSource, WeightType};

/// The weights of a checkpoint in one file.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The list of shards of a checkpoint in several files.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Bytes before the JSON of a safetensors header: its length.
const LENGTH_BYTES: usize = 8;

/// A tensor as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Type of its numbers.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Index of its file in [`SafetensorsSource::shards`].
    pub shard: usize,
    /// Where its bytes are in [`Shard::data`].
    pub bytes: Range<usize>,
}

/// One safetensors file. Its header and the bytes that are copied when a checkpoint is saved are read from a mapping of the file, tensors that become a
/// model's from the file itself.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    file: File,
    map: Mmap,
    data_start: usize,
    names: Vec<String>,
    format: Option<String>,
}

impl Shard {
    fn open(path: &Path) -> Result<(Self, Vec<(String, safetensors::tensor::TensorInfo)>)> {
        let (file, length) = open_input(path, MAX_WEIGHT_BYTES)?;
        if length < LENGTH_BYTES as u64 {
            return Err(Error::format(path, format!("is not a safetensors file: it has only {length} bytes; fetch it again")));
        }
        // SAFETY: the map is private to this value and only read; a file that is cut short while it is open is a fault of whoever
        // cuts it.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let (header_length, metadata) = SafeTensors::read_metadata(&map).map_err(|e| Error::format(path, header_fault(&map, &e)))?;
        let names = metadata.offset_keys();
        let mut infos = Vec::with_capacity(names.len());
        for name in &names {
            if let Some(info) = metadata.info(name) {
                infos.push((name.clone(), info.clone()));
            }
        }
        let format = metadata.metadata().as_ref().and_then(|m| m.get("format")).cloned();
        Ok((Self { path: path.to_owned(), file, map, data_start: LENGTH_BYTES + header_length, names, format }, infos))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tensors in the order in which their bytes lie in the file, without gaps.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The JSON of the header, with the spaces that pad it.
    pub fn header(&self) -> &[u8] {
        self.map.get(LENGTH_BYTES..self.data_start).unwrap_or_default()
    }

    /// Everything behind the header.
    pub fn data(&self) -> &[u8] {
        self.map.get(self.data_start..).unwrap_or_default()
    }

    /// The numbers of a tensor of the file, all of them finite.
    fn read(&self, name: &str, tensor: &StoredTensor, kind: WeightType) -> Result<StoredValues> {
        let start = (self.data_start + tensor.bytes.start) as u64;
        let mut values = StoredValues::zeros(kind, tensor.bytes.len() / kind.size());
        let finite = match &mut values {
            StoredValues::F32(values) => read_numbers(&self.file, start, values),
            StoredValues::F16(values) => read_numbers(&self.file, start, values),
            StoredValues::Bf16(values) => read_numbers(&self.file, start, values),
        };
        match finite.map_err(|fault| read_fault(name, &self.path, fault))? {
            true => Ok(values),
            false => Err(not_finite(name, &self.path, &values)),
        }
    }

    /// The value of `format` in the header's metadata, e.g. `pt`: the framework the tensors were written from.
    pub fn format(&self) -> Option<&str> {
        self.format.as_deref()
    }
}

/// What is wrong with a header, in words that say what to do.
fn header_fault(bytes: &[u8], fault: &SafeTensorError) -> String {
    if bytes.starts_with(b"version https://git-lfs") {
        return "is a git-lfs pointer instead of the weights; run `git lfs pull` in its folder".to_owned();
    }
    let what = match fault {
        SafeTensorError::HeaderTooLarge | SafeTensorError::HeaderTooSmall => "its header has an absurd length".to_owned(),
        SafeTensorError::InvalidHeaderLength => "its header is cut short".to_owned(),
        SafeTensorError::InvalidHeader(_) | SafeTensorError::InvalidHeaderStart | SafeTensorError::InvalidHeaderDeserialization(_) => {
            format!("its header is not the JSON it should be ({fault})")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            "it is cut short, or longer than its header says: the tensors named there do not fill it".to_owned()
        }
        SafeTensorError::InvalidOffset(name) => format!("tensor {name} overlaps another or leaves a gap"),
        SafeTensorError::TensorInvalidInfo => "a tensor has more or fewer bytes than its shape needs".to_owned(),
        SafeTensorError::ValidationOverflow => "a tensor has an absurd shape".to_owned(),
        other => other.to_string(),
    };
    format!("is a damaged safetensors file: {what}; fetch it again")
}

/// The weights of a Hugging Face folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
///
/// Opening reads headers only. A tensor is read when it is asked for, in pieces, straight into the memory it stays in: loading a model takes
/// no more memory than the model.
#[derive(Debug)]
pub struct SafetensorsSource {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, StoredTensor>,
    sharded: bool,
}

impl SafetensorsSource {
    /// Opens the weights in `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there are none (naming what is there instead), [`Error::Format`] naming the file whose header or index
    /// is damaged, [`Error::Tensor`] naming a tensor that is not in the shard the index gives for it, or is in two.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join(SINGLE_FILE);
        if single.exists() {
            return Self::from_files(folder, &[single], false);
        }
        let index_path = folder.join(INDEX_FILE);
        if !index_path.exists() {
            return Err(no_weights(folder));
        }
        let index = ShardIndex::read(&index_path)?;
        let source = Self::from_files(folder, &index.files(), true)?;
        index.check(|name| source.tensor(name).and_then(|t| source.shards.get(t.shard)).map(Shard::path))?;
        Ok(source)
    }

    /// Opens one safetensors file, whatever it is called.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is damaged.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::from_files(path, &[path.to_owned()], false)
    }

    fn from_files(path: &Path, files: &[PathBuf], sharded: bool) -> Result<Self> {
        let mut source = Self { path: path.to_owned(), shards: Vec::with_capacity(files.len()), tensors: BTreeMap::new(), sharded };
        for (number, file) in files.iter().enumerate() {
            let (shard, infos) = Shard::open(file)?;
            for (name, info) in infos {
                let (start, end) = info.data_offsets;
                let tensor = StoredTensor { dtype: info.dtype, shape: info.shape, shard: number, bytes: start..end };
                if source.tensors.insert(name.clone(), tensor).is_some() {
                    return Err(Error::tensor(name, file, "is in another shard too, so it is not clear which one counts"));
                }
            }
            source.shards.push(shard);
        }
        Ok(source)
    }

    /// The files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Whether an index lists the files.
    pub fn is_sharded(&self) -> bool {
        self.sharded
    }

    /// How tensor `name` is stored.
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The bytes of tensor `name`, as they lie in the file.
    pub fn raw(&self, name: &str) -> Option<&[u8]> {
        let tensor = self.tensors.get(name)?;
        self.shards.get(tensor.shard)?.data().get(tensor.bytes.clone())
    }
}

impl TensorSource for SafetensorsSource {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.read_stored(name, shape).map(StoredValues::into_f32)
    }

    fn read_stored(&self, name: &str, shape: &[usize]) -> Result<StoredValues> {
        let absent = || missing(name, self.tensors.keys().map(String::as_str), &self.path);
        let tensor = self.tensors.get(name).ok_or_else(absent)?;
        let shard = self.shards.get(tensor.shard).ok_or_else(absent)?;
        check_shape(name, &shard.path, &tensor.shape, shape)?;
        let kind = weight_type(name, &shard.path, tensor.dtype)?;
        shard.read(name, tensor, kind)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// The error for a folder without safetensors, naming the weights it has instead.
fn no_weights(folder: &Path) -> Error {
    let names: Vec<String> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let ending = |ends: &[&str]| names.iter().filter(|name| ends.iter().any(|end| name.ends_with(end))).min();
    let hint = if let Some(gguf) = ending(&[".gguf"]) {
        format!("give the file {gguf} itself as the model")
    } else if let Some(other) = ending(&[".bin", ".pt", ".pth"]) {
        format!("its {other} is not a file of weights that is known; those PyTorch writes are called {PYTORCH_FILE}")
    } else {
        "give a folder made by save_pretrained or fetched from the Hub".to_owned()
    };
    Error::NotFound(format!("{} has neither {SINGLE_FILE} nor {INDEX_FILE}; {hint}", folder.display()))
}
