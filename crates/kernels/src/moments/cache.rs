use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use easyedit_core::{Error, Result, write_atomically};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;

use super::SecondMoments;
use super::provenance::{Provenance, folder};

const HEADER_KEY: &str = "easyedit_moments";
const TENSOR: &str = "second_moment";

/// The file of sums that are not finished yet.
pub(super) fn unfinished(cache: &Path, key: &str) -> PathBuf {
    folder(cache).join(format!("unfinished-{}.safetensors", &key[..16]))
}

/// Keeps moments; gives the file.
pub(super) fn write(cache: &Path, provenance: &Provenance, moments: &SecondMoments) -> Result<PathBuf> {
    let path = provenance.path(cache);
    let fail = |message: String| Error::format(&path, message);
    let header = serde_json::json!({ "provenance": provenance, "tokens": moments.tokens() }).to_string();
    let bytes: Vec<u8> = moments.mean().iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![moments.size(); 2], &bytes).map_err(|e| fail(e.to_string()))?;
    let metadata = HashMap::from([(HEADER_KEY.to_owned(), header)]);
    let file = safetensors::serialize([(TENSOR, view)], Some(metadata)).map_err(|e| fail(e.to_string()))?;
    write_atomically(&path, |w| w.write_all(&file))?;
    Ok(path)
}

/// The moments kept for `provenance`; `None` if there are none.
pub(super) fn read(cache: &Path, provenance: &Provenance, size: usize) -> Result<Option<(SecondMoments, PathBuf)>> {
    #[derive(Deserialize)]
    struct Header {
        provenance: Provenance,
        tokens: u64,
    }
    let path = provenance.path(cache);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read the statistics", path, error)),
    };
    let damaged = |message: &str| Error::format(&path, format!("is no file of statistics: {message}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|m| m.get(HEADER_KEY)).ok_or_else(|| damaged("it has no header"))?;
    let header: Header = serde_json::from_str(header).map_err(|e| damaged(&e.to_string()))?;
    if header.provenance.key() != provenance.key() {
        return Err(damaged("it is of another model or text"));
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e.to_string()))?;
    let view = tensors.tensor(TENSOR).map_err(|e| damaged(&e.to_string()))?;
    if view.dtype() != Dtype::F32 || view.shape() != [size, size] {
        return Err(damaged(&format!("its matrix is {:?} of shape {:?} instead of F32 of {size} rows", view.dtype(), view.shape())));
    }
    let mean: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
    if mean.iter().any(|v| !v.is_finite()) {
        return Err(damaged("it holds NaN or infinity"));
    }
    Ok(SecondMoments::from_parts(size, header.tokens, mean).map(|moments| (moments, path)))
}
