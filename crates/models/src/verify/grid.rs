use std::path::Path;

use safetensors::Dtype;

use crate::{Error, Result, SafetensorsSource, StoredTensor};

/// Longest batch that is run, in tokens: far more than a comparison needs, and no memory is asked for beyond it.
const MAX_TOKENS: usize = 1 << 16;

/// Padded token ids of a dump, with the places of the real ones.
pub(super) struct Grid {
    /// Rows and length of the ids.
    pub(super) shape: [usize; 2],
    /// Ids of the real tokens, by row.
    pub(super) rows: Vec<Vec<u32>>,
    /// Row and token of each of them, in the same order.
    pub(super) places: Vec<[usize; 2]>,
}

impl Grid {
    /// Reads the ids `ids` with the mask `mask`; without a mask all tokens are real.
    pub(super) fn read(source: &SafetensorsSource, path: &Path, ids: &str, mask: &str) -> Result<Self> {
        let way_out = "make the file as docs/verifying.md says";
        let stored = source.tensor(ids).ok_or_else(|| Error::tensor(ids, path, format!("is missing; {way_out}")))?;
        let [n_rows, length] = stored.shape[..] else {
            return Err(Error::tensor(ids, path, format!("has shape {:?} instead of [rows, length]; {way_out}", stored.shape)));
        };
        // Rows without a token take no bytes, so any number of them can be claimed.
        if n_rows > MAX_TOKENS || n_rows.saturating_mul(length) > MAX_TOKENS {
            return Err(Error::tensor(ids, path, format!("holds more than {MAX_TOKENS} tokens; compare on fewer")));
        }
        let numbers = integers(source, path, ids, stored)?;
        let real = match source.tensor(mask) {
            Some(tensor) if tensor.shape != stored.shape => {
                return Err(Error::tensor(mask, path, format!("has shape {:?} where {ids} has {:?}", tensor.shape, stored.shape)));
            }
            Some(tensor) => integers(source, path, mask, tensor)?,
            None => vec![1; numbers.len()],
        };
        let (mut rows, mut places) = (vec![Vec::new(); n_rows], Vec::new());
        for (index, (number, real)) in numbers.iter().zip(&real).enumerate() {
            let place = [index / length, index % length];
            match real {
                0 => continue,
                1 => {}
                other => {
                    return Err(Error::tensor(mask, path, format!("holds {other} at {place:?}; 1 marks a real token, 0 a pad")));
                }
            }
            let id = u32::try_from(*number)
                .map_err(|_| Error::tensor(ids, path, format!("holds {number} at {place:?}, which is not a token id")))?;
            if let Some(row) = rows.get_mut(place[0]) {
                row.push(id);
            }
            places.push(place);
        }
        if rows.is_empty() {
            return Err(Error::tensor(ids, path, "holds no tokens"));
        }
        if let Some(row) = rows.iter().position(Vec::is_empty) {
            return Err(Error::tensor(ids, path, format!("row {row} holds no real token; leave the row out")));
        }
        Ok(Self { shape: [n_rows, length], rows, places })
    }
}

/// The values of a tensor of whole numbers.
fn integers(source: &SafetensorsSource, path: &Path, name: &str, stored: &StoredTensor) -> Result<Vec<i64>> {
    let bytes = source.raw(name).unwrap_or_default();
    match stored.dtype {
        Dtype::I64 => Ok(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        Dtype::I32 => Ok(bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect()),
        Dtype::U8 | Dtype::BOOL => Ok(bytes.iter().map(|b| i64::from(*b)).collect()),
        other => Err(Error::tensor(name, path, format!("is stored as {other}; dump it as whole numbers (I64 or I32)"))),
    }
}
