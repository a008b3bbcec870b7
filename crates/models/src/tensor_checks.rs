//! What is checked of every tensor that is read, whatever its file's format.

use std::path::Path;

use easyedit_core::nearest_name;
use half::{bf16, f16};
use safetensors::Dtype;

use crate::{Error, Result, StoredValues, WeightType};

/// The error for a tensor that is not among `names`.
pub(crate) fn missing<'a>(name: &str, names: impl IntoIterator<Item = &'a str>, path: &Path) -> Error {
    let near = nearest_name(name, names).map(|near| format!(" (there is {near})")).unwrap_or_default();
    Error::tensor(name, path, format!("is missing{near}; the checkpoint is incomplete or not of the kind config.json says"))
}

/// Checks the shape a tensor is stored with against the one the configuration asks for.
pub(crate) fn check_shape(name: &str, file: &Path, stored: &[usize], wanted: &[usize]) -> Result<()> {
    if stored == wanted {
        return Ok(());
    }
    let message = format!("has shape {stored:?} where config.json asks for {wanted:?}; they do not belong to the same model");
    Err(Error::tensor(name, file, message))
}

/// How the numbers of a tensor of type `dtype` are widened.
pub(crate) fn weight_type(name: &str, file: &Path, dtype: Dtype) -> Result<WeightType> {
    WeightType::from_dtype(dtype).ok_or_else(|| {
        let way_out = "convert it with `transformers` (model.to(torch.float32).save_pretrained(FOLDER))";
        Error::tensor(name, file, format!("is stored as {dtype}; weights are read as F32, F16 or BF16: {way_out}"))
    })
}

/// The little-endian numbers in `bytes`, all of them finite.
pub(crate) fn numbers(name: &str, file: &Path, kind: WeightType, bytes: &[u8]) -> Result<StoredValues> {
    let halves = || bytes.as_chunks::<2>().0.iter();
    let values = match kind {
        WeightType::F32 => StoredValues::F32(kind.widen(bytes).0),
        WeightType::F16 => StoredValues::F16(halves().map(|bytes| f16::from_le_bytes(*bytes)).collect()),
        WeightType::Bf16 => StoredValues::Bf16(halves().map(|bytes| bf16::from_le_bytes(*bytes)).collect()),
    };
    match values.first_not_finite() {
        None => Ok(values),
        Some(_) => Err(not_finite(name, file, &values)),
    }
}

/// The error for a tensor that could not be read from a file whose header promises it.
pub(crate) fn read_fault(name: &str, file: &Path, fault: std::io::Error) -> Error {
    match fault.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::tensor(name, file, "is not whole: the file was cut short while it was open"),
        _ => Error::io("read", file, fault),
    }
}

/// The error for a tensor with a number that is not finite, naming the first.
pub(crate) fn not_finite(name: &str, file: &Path, values: &StoredValues) -> Error {
    let (place, value) = values.first_not_finite().unwrap_or((0, f32::NAN));
    Error::tensor(name, file, format!("is damaged: value {place} of {} is {value}; fetch the checkpoint again", values.len()))
}
