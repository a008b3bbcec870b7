use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::{Error, Result};

/// No JSON file of a checkpoint is larger: tokenizers of a quarter of a million tokens take about 40 MB.
const MAX_JSON_BYTES: u64 = 512 << 20;

/// Opens a regular file: a pipe or a device would be waited on for ever.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if !metadata.is_file() {
        return Err(Error::format(path, "is not a regular file"));
    }
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    Ok((file, metadata.len()))
}

/// The bytes of a small file of a checkpoint.
pub(crate) fn read_small_file(path: &Path) -> Result<Vec<u8>> {
    let (file, length) = open_regular(path)?;
    if length > MAX_JSON_BYTES {
        return Err(Error::format(path, format!("is too large to be what its name says ({length} bytes)")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_JSON_BYTES).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(bytes)
}

/// The content of a JSON file of a checkpoint or an adapter, whose outermost value is an object.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is no regular file, absurdly large, or holds anything else.
pub fn read_json_object(path: &Path) -> Result<Value> {
    let bytes = read_small_file(path)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| Error::format(path, format!("is not JSON: {e}; fetch it again")))?;
    if value.is_object() { Ok(value) } else { Err(Error::format(path, "does not hold a JSON object; fetch it again")) }
}

/// As [`read_json_object`]; `None` if there is no such file.
pub(crate) fn read_json_object_if_present(path: &Path) -> Result<Option<Value>> {
    if path.exists() { read_json_object(path).map(Some) } else { Ok(None) }
}
