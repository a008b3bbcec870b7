use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use easyedit_core::open_input;
use memmap2::Mmap;

use super::cursor::Cursor;
use super::dequant::{dequantize_into, is_readable, unreadable};
use super::types::TensorType;
use super::value::{Value, ValueType, read_type, read_value};
use crate::json_file::MAX_WEIGHT_BYTES;
use crate::positioned_reads::{Blocks, read_blocks, read_numbers};
use crate::tensor_checks::read_fault;
use crate::{Error, Result};

const MAGIC: &[u8; 4] = b"GGUF";
/// Magic, version, and two counts.
const HEADER_BYTES: u64 = 24;
/// ggml has no tensor of more dimensions.
const MAX_DIMS: u32 = 4;
const DEFAULT_ALIGNMENT: usize = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;
/// A key's length, its type, and a value of one byte.
const LEAST_PAIR_BYTES: usize = 8 + 4 + 1;
/// A name's length, dimensions, type and offset.
const LEAST_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;

/// A GGUF file of version 2 or 3: its metadata, read from a mapping of the file, and its tensors, read from the file itself.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    map: Mmap,
    header: Header,
}

/// A tensor of a [`Gguf`].
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// How its numbers are stored.
    pub kind: TensorType,
    /// Its shape, row-major: the last dimension is the one whose numbers lie side by side.
    pub shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
}

/// What comes before the tensors' data.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Maps a file and reads its header; the tensors' data is not touched.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read; [`Error::Format`] or [`Error::Tensor`] if it is no GGUF file of version 2 or 3, is cut
    /// short, or contradicts itself.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, length) = open_input(path, MAX_WEIGHT_BYTES)?;
        // An empty file cannot be mapped.
        if length < HEADER_BYTES {
            return Err(Error::format(path, format!("is {length} bytes long, too short for a GGUF file")));
        }
        // SAFETY: the mapping is read-only; as with every mapped checkpoint, the file must not be changed while it is in use.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let header = parse(path, &map)?;
        Ok(Self { path: path.to_owned(), file, map, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors, by the file's names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.header.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The tensor the file calls `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.get(name)
    }

    /// The numbers of the tensor the file calls `name`, row-major.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if there is none, it is stored in a way that cannot be read here, or the file was cut short; [`Error::Io`] if the file cannot be read.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.read(name)?.0)
    }

    /// The numbers of the tensor the file calls `name`, and whether all of them are finite; otherwise as [`values`](Self::values).
    pub(super) fn read(&self, name: &str) -> Result<(Vec<f32>, bool)> {
        let info = self.tensor(name).ok_or_else(|| Error::tensor(name, &self.path, "is not in the file"))?;
        let (kind, start) = (info.kind, info.bytes.start as u64);
        if !is_readable(kind) {
            return Err(Error::tensor(name, &self.path, unreadable(kind)));
        }
        let blocks = Blocks { bytes: kind.block_bytes(), numbers: kind.block_elements() };
        let mut values = vec![0f32; info.bytes.len() / blocks.bytes * blocks.numbers];
        let finite = match kind {
            TensorType::F32 => read_numbers(&self.file, start, &mut values),
            _ => read_blocks(&self.file, start, blocks, &mut values, |bytes, values| dequantize_into(kind, bytes, values)),
        };
        Ok((values, finite.map_err(|fault| read_fault(name, &self.path, fault))?))
    }

    /// Whether the metadata has `key`.
    pub fn has(&self, key: &str) -> bool {
        self.header.metadata.contains_key(key)
    }

    /// The text under `key`, if any.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the key if it holds something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(key, "a text", other)),
        }
    }

    /// The integer under `key`, if any; it is not negative.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the key if it holds something else.
    pub fn integer(&self, key: &str) -> Result<Option<usize>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) if usize::try_from(*value).is_ok() => Ok(usize::try_from(*value).ok()),
            Some(other) => Err(self.wrong_type(key, "an integer from 0", other)),
        }
    }

    /// The finite number under `key`, if any. One stored in 32 bits is given as the shortest decimal that stands for it, so that
    /// 1e-5 is 1e-5 and not 9.999999747378752e-6.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the key if it holds something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let number = match self.header.metadata.get(key) {
            None => return Ok(None),
            Some(Value::F32(value)) => value.to_string().parse().ok(),
            Some(Value::F64(value)) => Some(*value),
            Some(_) => None,
        };
        match (number.filter(|n: &f64| n.is_finite()), self.header.metadata.get(key)) {
            (None, Some(other)) => Err(self.wrong_type(key, "a finite number", other)),
            (number, _) => Ok(number),
        }
    }

    /// The truth value under `key`, if any.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the key if it holds something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong_type(key, "true or false", other)),
        }
    }

    /// The texts under `key`, if any.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the key if it holds something else.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array { element: ValueType::String, count, bytes }) => {
                let mut cursor = Cursor::new(&self.map, bytes.start);
                let texts = (0..*count).map(|_| cursor.text()).collect::<Result<_, _>>();
                texts.map(Some).map_err(|problem| Error::format(&self.path, format!("key {key}: {problem}")))
            }
            Some(other) => Err(self.wrong_type(key, "an array of texts", other)),
        }
    }

    /// The 32-bit integers under `key`, if any.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the key if it holds something else.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.fixed(key, &[ValueType::I32, ValueType::U32], "an array of 32-bit integers", i32::from_le_bytes)
    }

    /// The 32-bit numbers under `key`, if any.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the key if it holds something else.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.fixed(key, &[ValueType::F32], "an array of 32-bit numbers", f32::from_le_bytes)
    }

    fn fixed<T>(&self, key: &str, kinds: &[ValueType], wanted: &str, convert: fn([u8; 4]) -> T) -> Result<Option<Vec<T>>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array { element, bytes, .. }) if kinds.contains(element) => {
                let (numbers, _) = self.map.get(bytes.clone()).unwrap_or_default().as_chunks::<4>();
                Ok(Some(numbers.iter().copied().map(convert).collect()))
            }
            Some(other) => Err(self.wrong_type(key, wanted, other)),
        }
    }

    fn wrong_type(&self, key: &str, wanted: &str, found: &Value) -> Error {
        Error::format(&self.path, format!("key {key} should be {wanted}, but is {}", found.describe()))
    }
}

/// Reads everything before the data and checks it against the size of the file.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Header> {
    let broken = |problem: String| Error::format(path, problem);
    let mut cursor = Cursor::new(bytes, 0);
    if &cursor.array::<4>().map_err(broken)? != MAGIC {
        return Err(broken("is not a GGUF file: it does not start with \"GGUF\"".to_owned()));
    }
    match cursor.u32().map_err(broken)? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=9) => {
            return Err(broken("is a big-endian GGUF file; convert it to little-endian".to_owned()));
        }
        version => return Err(broken(format!("is of GGUF version {version}; versions 2 and 3 are read, convert the file again"))),
    }
    let tensor_count = cursor.count("tensors", LEAST_TENSOR_BYTES).map_err(broken)?;
    let pair_count = cursor.count("metadata keys", LEAST_PAIR_BYTES).map_err(broken)?;

    let mut metadata = BTreeMap::new();
    for number in 0..pair_count {
        let key = cursor.text().map_err(|problem| broken(format!("metadata key {number}: {problem}")))?;
        let value = read_type(&mut cursor).and_then(|kind| read_value(&mut cursor, kind));
        let value = value.map_err(|problem| broken(format!("key {key}: {problem}")))?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(broken(format!("key {key} is there twice")));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Integer(value)) => u64::try_from(*value)
            .ok()
            .filter(|value| value.is_power_of_two() && *value <= MAX_ALIGNMENT)
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| broken(format!("key general.alignment is {value}, not a power of two up to {MAX_ALIGNMENT}")))?,
        Some(other) => return Err(broken(format!("key general.alignment should be an integer, but is {}", other.describe()))),
    };

    let mut unplaced = Vec::with_capacity(tensor_count);
    let mut seen = HashSet::with_capacity(tensor_count);
    for number in 0..tensor_count {
        let name = cursor.text().map_err(|problem| broken(format!("name of tensor {number}: {problem}")))?;
        if !seen.insert(name) {
            return Err(Error::tensor(name, path, "is there twice"));
        }
        unplaced.push((name, tensor_info(&mut cursor, alignment).map_err(|problem| Error::tensor(name, path, problem))?));
    }
    let tensors = place(path, unplaced, cursor.position().next_multiple_of(alignment), bytes.len())?;
    Ok(Header { metadata, tensors })
}

/// Reads a tensor's description; its bytes are counted from the start of the data.
fn tensor_info(cursor: &mut Cursor<'_>, alignment: usize) -> Result<TensorInfo, String> {
    let dims = cursor.u32()?;
    if dims == 0 || dims > MAX_DIMS {
        return Err(format!("has {dims} dimensions; 1 to {MAX_DIMS} are possible"));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let dim = cursor.u64()?;
        shape.push(usize::try_from(dim).ok().filter(|dim| *dim > 0).ok_or_else(|| format!("has a dimension of {dim}"))?);
    }
    let id = cursor.u32()?;
    let kind = TensorType::from_id(id).ok_or_else(|| format!("is of type {id}, which is unknown; convert the model to F16 or Q8_0"))?;
    let row = shape.first().copied().unwrap_or_default();
    if !row.is_multiple_of(kind.block_elements()) {
        return Err(format!("has rows of {row} numbers, but {kind} packs {} in a block", kind.block_elements()));
    }
    // The file lists the dimension whose numbers lie side by side first.
    shape.reverse();
    let elements = shape.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
    let size = elements.and_then(|n| (n / kind.block_elements()).checked_mul(kind.block_bytes()));
    let size = size.ok_or_else(|| format!("of shape {shape:?} is too large"))?;
    let offset = cursor.u64()?;
    let start = usize::try_from(offset).ok().filter(|start| start.is_multiple_of(alignment));
    let start = start.ok_or_else(|| format!("starts at offset {offset}, which is not a multiple of the alignment {alignment}"))?;
    let end = start.checked_add(size).ok_or_else(|| format!("at offset {offset} is too large"))?;
    Ok(TensorInfo { kind, shape, bytes: start..end })
}

/// Moves the tensors' ranges to where the data starts in the file, and checks that none leaves it or lies on another.
fn place(path: &Path, mut tensors: Vec<(&str, TensorInfo)>, data: usize, length: usize) -> Result<BTreeMap<String, TensorInfo>> {
    tensors.sort_by_key(|(_, info)| (info.bytes.start, info.bytes.end));
    let mut placed = BTreeMap::new();
    let mut last: Option<(&str, usize)> = None;
    for (name, mut info) in tensors {
        let start = data.checked_add(info.bytes.start);
        let end = data.checked_add(info.bytes.end).filter(|end| *end <= length);
        let (Some(start), Some(end)) = (start, end) else {
            let message = format!("needs {} bytes, but the file ends before; it is cut short or damaged", info.bytes.len());
            return Err(Error::tensor(name, path, message));
        };
        if let Some((before, before_end)) = last
            && start < before_end
        {
            return Err(Error::tensor(name, path, format!("lies on the data of tensor {before}")));
        }
        last = Some((name, end));
        info.bytes = start..end;
        placed.insert(name.to_owned(), info);
    }
    Ok(placed)
}
