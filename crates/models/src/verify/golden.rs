use std::path::Path;

use safetensors::Dtype;

use super::{NotCompared, TensorAgreement};
use crate::{Error, Result, SafetensorsSource, StoredTensor, TensorSource, WeightType};

pub(super) const LOGITS: &str = "logits";
const HIDDEN: &str = "hidden_";
const INPUT_IDS: &str = "input_ids";
const ATTENTION_MASK: &str = "attention_mask";
/// A tensor of it makes the file one of an encoder-decoder.
const DECODER_INPUT_IDS: &str = "decoder_input_ids";
/// Longest batch that is run, in tokens: far more than a comparison needs, and no memory is asked for beyond it.
const MAX_TOKENS: usize = 1 << 16;

/// A dump of another implementation, with the places of its real tokens.
pub(super) struct GoldenFile {
    source: SafetensorsSource,
    path: std::path::PathBuf,
    /// Rows and length of `input_ids`.
    shape: [usize; 2],
    /// Ids of the real tokens, by row.
    rows: Vec<Vec<u32>>,
    /// Row and token of each of them, in the same order.
    places: Vec<[usize; 2]>,
}

/// What of a file can be compared with a model.
pub(super) struct Comparable {
    pub(super) names: Vec<String>,
    pub(super) left_out: Vec<NotCompared>,
}

impl GoldenFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let source = SafetensorsSource::open_file(path)?;
        let way_out = "make the file as docs/verifying.md says";
        let ids = source.tensor(INPUT_IDS).ok_or_else(|| Error::tensor(INPUT_IDS, path, format!("is missing; {way_out}")))?;
        let [n_rows, length] = ids.shape[..] else {
            return Err(Error::tensor(INPUT_IDS, path, format!("has shape {:?} instead of [rows, length]; {way_out}", ids.shape)));
        };
        if n_rows.saturating_mul(length) > MAX_TOKENS {
            return Err(Error::tensor(INPUT_IDS, path, format!("holds more than {MAX_TOKENS} tokens; compare on fewer")));
        }
        let numbers = integers(&source, path, INPUT_IDS, ids)?;
        let mask = match source.tensor(ATTENTION_MASK) {
            Some(mask) if mask.shape != ids.shape => {
                let message = format!("has shape {:?} where {INPUT_IDS} has {:?}", mask.shape, ids.shape);
                return Err(Error::tensor(ATTENTION_MASK, path, message));
            }
            Some(mask) => integers(&source, path, ATTENTION_MASK, mask)?,
            None => vec![1; numbers.len()],
        };
        let (mut rows, mut places) = (vec![Vec::new(); n_rows], Vec::new());
        for (index, (number, real)) in numbers.iter().zip(&mask).enumerate() {
            let place = [index / length, index % length];
            match real {
                0 => continue,
                1 => {}
                other => {
                    let message = format!("holds {other} at {place:?}; 1 marks a real token, 0 a pad");
                    return Err(Error::tensor(ATTENTION_MASK, path, message));
                }
            }
            let id = u32::try_from(*number)
                .map_err(|_| Error::tensor(INPUT_IDS, path, format!("holds {number} at {place:?}, which is not a token id")))?;
            if let Some(row) = rows.get_mut(place[0]) {
                row.push(id);
            }
            places.push(place);
        }
        if rows.is_empty() {
            return Err(Error::tensor(INPUT_IDS, path, "holds no tokens"));
        }
        if let Some(row) = rows.iter().position(Vec::is_empty) {
            return Err(Error::tensor(INPUT_IDS, path, format!("row {row} holds no real token; leave the row out")));
        }
        Ok(Self { path: path.to_owned(), shape: [n_rows, length], rows, places, source })
    }

    /// Ids of the real tokens.
    pub(super) fn rows(&self) -> &[Vec<u32>] {
        &self.rows
    }

    /// The tensors a decoder of `n_layers` layers can be compared with: hidden states from below, then logits.
    pub(super) fn comparable(&self, n_layers: usize) -> Result<Comparable> {
        let mut names = Vec::new();
        let mut left_out = Vec::new();
        for name in self.source.names() {
            let reason = match hidden_index(&name) {
                Some(layer) if layer < n_layers => {
                    names.push(name);
                    continue;
                }
                Some(layer) if layer == n_layers => "taken behind the final norm; the logits show what comes of it",
                Some(_) => "the model has fewer layers",
                None if name == INPUT_IDS || name == ATTENTION_MASK || name == LOGITS => continue,
                None => "not a tensor that is known",
            };
            left_out.push(NotCompared { name, reason });
        }
        names.sort_by_key(|name| hidden_index(name));
        if self.source.contains(LOGITS) {
            names.push(LOGITS.to_owned());
        }
        if self.source.contains(DECODER_INPUT_IDS) {
            let message = "is of an encoder-decoder model, which this model is not";
            return Err(Error::tensor(DECODER_INPUT_IDS, &self.path, message));
        }
        if names.is_empty() {
            let message = format!("has nothing to compare: neither {LOGITS} nor a {HIDDEN}0, {HIDDEN}1, ...");
            return Err(Error::format(&self.path, message));
        }
        Ok(Comparable { names, left_out })
    }

    /// Checks that tensor `name` is one of real numbers of shape `[rows, length, width]`.
    pub(super) fn check_shape(&self, name: &str, width: usize) -> Result<()> {
        let [rows, length] = self.shape;
        let (stored, _) = self.floats(name)?;
        if stored.shape == [rows, length, width] {
            return Ok(());
        }
        let message =
            format!("has shape {:?}; with these {INPUT_IDS} and this model it would be {:?}", stored.shape, [rows, length, width]);
        Err(Error::tensor(name, &self.path, message))
    }

    /// Compares tensor `name` with what the model `computed` for the real tokens, one after the other.
    pub(super) fn compare(&self, name: String, computed: &[f32], tolerance: f32) -> Result<TensorAgreement> {
        let (stored, kind) = self.floats(&name)?;
        let width = stored.shape.last().copied().unwrap_or_default().max(1);
        let (golden, _) = kind.widen(self.source.raw(&name).unwrap_or_default());
        let (mut largest, mut at, mut compared) = (0f32, self.places.first().copied().unwrap_or_default(), 0);
        for (place, computed) in self.places.iter().zip(computed.chunks(width)) {
            let start = (place[0] * self.shape[1] + place[1]) * width;
            let golden = golden.get(start..start + width).unwrap_or_default();
            for (golden, computed) in golden.iter().zip(computed) {
                let difference = (golden - computed).abs();
                let difference = if difference.is_nan() { f32::INFINITY } else { difference };
                compared += 1;
                if difference > largest {
                    (largest, at) = (difference, *place);
                }
            }
        }
        Ok(TensorAgreement { name, compared, largest_difference: largest, at, agrees: largest <= tolerance })
    }

    fn floats(&self, name: &str) -> Result<(&StoredTensor, WeightType)> {
        let missing = || Error::tensor(name, &self.path, "is missing");
        let stored = self.source.tensor(name).ok_or_else(missing)?;
        let kind = WeightType::from_dtype(stored.dtype)
            .ok_or_else(|| Error::tensor(name, &self.path, format!("is stored as {}; dump it as F32, F16 or BF16", stored.dtype)))?;
        Ok((stored, kind))
    }
}

/// `i` of `hidden_i`.
pub(super) fn hidden_index(name: &str) -> Option<usize> {
    let digits = name.strip_prefix(HIDDEN)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
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
