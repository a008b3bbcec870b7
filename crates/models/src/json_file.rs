use std::path::Path;

use easyedit_core::read_input;
use serde_json::Value;

use crate::{Error, Result};

/// No JSON file of a checkpoint but its tokenizer is larger: the index of a hundred thousand tensors takes 9 MB.
pub(crate) const MAX_JSON_BYTES: u64 = 32 << 20;
/// No file of weights is larger. Such files are mapped, not read, so their size costs no memory.
pub(crate) const MAX_WEIGHT_BYTES: u64 = 16 << 40;

/// The content of a JSON file of a checkpoint or an adapter, whose outermost value is an object.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is no regular file, absurdly large, or holds anything else.
pub fn read_json_object(path: &Path) -> Result<Value> {
    let bytes = read_input(path, MAX_JSON_BYTES)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| Error::format(path, format!("is not JSON: {e}; fetch it again")))?;
    if value.is_object() { Ok(value) } else { Err(Error::format(path, "does not hold a JSON object; fetch it again")) }
}

/// As [`read_json_object`]; `None` if there is no such file.
pub(crate) fn read_json_object_if_present(path: &Path) -> Result<Option<Value>> {
    if path.exists() { read_json_object(path).map(Some) } else { Ok(None) }
}
