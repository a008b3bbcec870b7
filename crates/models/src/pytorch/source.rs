use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use easyedit_core::{catch_panic, open_input};
use pytorch_reader::{DType, PickleValue, PytorchReader, Tensor};
use safetensors::Dtype;
use zip::{CompressionMethod, ZipArchive};

use super::files::find;
use crate::json_file::MAX_WEIGHT_BYTES;
use crate::tensor_checks::{check_shape, missing, numbers, weight_type};
use crate::{Error, Result, StoredValues, TensorSource};

/// Keys under which training scripts keep the weights beside other things.
const WRAPPERS: &[&str] = &["state_dict.", "model_state_dict."];
/// Packages whose objects may be in a file of weights.
const PACKAGES: &[&str] = &["torch", "collections", "numpy"];
/// How a zip archive begins.
const ZIP_START: &[u8] = b"PK\x03\x04";
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// A tensor, and the file it is in.
#[derive(Debug)]
struct Stored {
    file: PathBuf,
    tensor: Tensor,
}

/// The weights in files that PyTorch wrote. Opening reads the pickles; a tensor's bytes are read when it is asked for.
#[derive(Debug)]
pub struct PytorchSource {
    path: PathBuf,
    tensors: BTreeMap<String, Stored>,
}

impl PytorchSource {
    /// Opens the weights in `folder`: `pytorch_model.bin`, the shards that `pytorch_model.bin.index.json` lists, or the only `*.pt`
    /// or `*.pth` file.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there are none, [`Error::Format`] naming a file that is damaged, of another format, or asks for code to
    /// be run (which is never done), [`Error::Tensor`] naming a tensor that is not in the shard the index gives for it, or is in two.
    pub fn open(folder: &Path) -> Result<Self> {
        let files = find(folder)?;
        let mut source = Self { path: folder.to_owned(), tensors: BTreeMap::new() };
        for file in &files.paths {
            source.add(file, &[])?;
        }
        if let Some(index) = &files.index {
            index.check(|name| source.tensors.get(name).map(|stored| stored.file.as_path()))?;
        }
        Ok(source)
    }

    /// Opens one file, whatever it is called.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_file(file: &Path) -> Result<Self> {
        Self::open_archive(file, &[])
    }

    /// As [`open_file`](Self::open_file), for a file that keeps objects of other packages beside the tensors, under the keys `passed_over`. They are
    /// not made, as no object is, and not looked at.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_archive(file: &Path, passed_over: &[&str]) -> Result<Self> {
        let mut source = Self { path: file.to_owned(), tensors: BTreeMap::new() };
        source.add(file, passed_over)?;
        Ok(source)
    }

    fn add(&mut self, file: &Path, passed_over: &[&str]) -> Result<()> {
        for (name, tensor) in read_file(file, passed_over)? {
            if self.tensors.insert(name.clone(), Stored { file: file.to_owned(), tensor }).is_some() {
                return Err(Error::tensor(name, file, "is in another shard too, so it is not clear which one counts"));
            }
        }
        Ok(())
    }

    /// Shape of tensor `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.tensor.shape())
    }

    /// Type of tensor `name`, as safetensors call it.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|stored| dtype(stored.tensor.dtype()))
    }

    /// The bytes of tensor `name`, contiguous and row-major whatever its strides in the file.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if it is missing or cut short.
    pub fn raw(&self, name: &str) -> Result<Vec<u8>> {
        let stored = self.stored(name)?;
        let damaged = |what: String| Error::tensor(name, &stored.file, format!("cannot be read: {what}; fetch the file again"));
        let bytes = guarded(|| stored.tensor.read()).map_err(&damaged)?.map_err(|e| damaged(e.to_string()))?;
        let want = stored.tensor.byte_len();
        if bytes.len() == want { Ok(bytes) } else { Err(damaged(format!("it has {} bytes instead of {want}", bytes.len()))) }
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| missing(name, self.tensors.keys().map(String::as_str), &self.path))
    }
}

impl TensorSource for PytorchSource {
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
        let Stored { file, tensor } = self.stored(name)?;
        check_shape(name, file, tensor.shape(), shape)?;
        let kind = weight_type(name, file, dtype(tensor.dtype()))?;
        numbers(name, file, kind, &self.raw(name)?)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// The tensors of a file by their names in the model.
fn read_file(file: &Path, passed_over: &[&str]) -> Result<Vec<(String, Tensor)>> {
    let (mut opened, _) = open_input(file, MAX_WEIGHT_BYTES)?;
    let mut start = [0; LFS_POINTER.len()];
    if opened.read_exact(&mut start).is_ok() && start == LFS_POINTER {
        return Err(Error::format(file, "is a git-lfs pointer instead of the weights; run `git lfs pull` in its folder"));
    }
    let damaged = |what: String| Error::format(file, format!("cannot be read as a PyTorch checkpoint: {what}; fetch it again"));
    if start.starts_with(ZIP_START) {
        check_stored(opened).map_err(&damaged)?;
    }
    let objects = guarded(|| PytorchReader::read_pickle_data(file, None)).map_err(&damaged)?.map_err(|e| damaged(e.to_string()))?;
    if let Some(foreign) = foreign_object(&objects, passed_over) {
        let message = format!(
            "asks for an object of {foreign} to be made, which weights have no need of and which may run code; nothing was run: do not \
             use this file unless you trust its maker, and then convert it to safetensors"
        );
        return Err(Error::format(file, message));
    }
    let reader = guarded(|| PytorchReader::new(file)).map_err(&damaged)?.map_err(|e| damaged(e.to_string()))?;
    let mut tensors: Vec<(String, Tensor)> = reader.into_tensors().into_iter().collect();
    if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| tensors.iter().any(|(name, _)| name.starts_with(**wrapper))) {
        // The rest is what a trainer keeps: the state of its optimiser, above all.
        let bare = |(name, tensor): (String, Tensor)| name.strip_prefix(wrapper).map(|name| (name.to_owned(), tensor));
        tensors = tensors.into_iter().filter_map(bare).collect();
    }
    if tensors.is_empty() {
        return Err(Error::format(file, "holds no tensors; give the file of the weights"));
    }
    Ok(tensors)
}

/// Checks that an archive's entries are stored as they are: a compressed one unpacks to a thousand times its size.
fn check_stored(file: std::fs::File) -> Result<(), String> {
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| e.to_string())?;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| e.to_string())?;
        if entry.compression() != CompressionMethod::Stored || entry.size() != entry.compressed_size() {
            return Err(format!("its entry {:?} is compressed, which torch.save never does", entry.name()));
        }
    }
    Ok(())
}

/// The first object in `value` that comes from none of the [`PACKAGES`] and stands under none of the keys `passed_over`.
fn foreign_object<'a>(value: &'a PickleValue, passed_over: &[&str]) -> Option<&'a str> {
    match value {
        PickleValue::List(items) => items.iter().find_map(|item| foreign_object(item, passed_over)),
        PickleValue::Dict(items) => {
            let looked_at = items.iter().filter(|(key, _)| !passed_over.contains(&key.as_str()));
            looked_at.map(|(_, item)| item).find_map(|item| foreign_object(item, passed_over))
        }
        PickleValue::Unsupported(name) => {
            let package = name.split_once('.')?.0;
            (!PACKAGES.contains(&package)).then_some(name.as_str())
        }
        _ => None,
    }
}

/// Runs the reader. It returns errors and is not known to panic, but what it is given was made by strangers.
fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_panic(read).map_err(|panic| format!("its parts contradict each other ({panic})"))
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}
