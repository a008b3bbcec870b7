use std::path::Path;

use burn::tensor::Tensor;

use super::grid::Grid;
use super::{NotCompared, TensorAgreement, Verification};
use crate::{Error, Result, SafetensorsSource, StoredTensor, TensorSource, WeightType};

const INPUT_IDS: &str = "input_ids";
const ATTENTION_MASK: &str = "attention_mask";
const DECODER_INPUT_IDS: &str = "decoder_input_ids";
const DECODER_ATTENTION_MASK: &str = "decoder_attention_mask";
/// What the names of hidden states end in, but for the layer.
const HIDDEN: &str = "hidden_";

/// What the vectors of a tensor belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Along {
    /// The tokens of `input_ids`.
    Input,
    /// The tokens of `decoder_input_ids`.
    Decoder,
    /// A row each.
    Row,
}

/// A tensor the model computed: `[real tokens or rows, width]`.
pub(super) struct Computed {
    pub(super) name: String,
    pub(super) along: Along,
    pub(super) tensor: Tensor<2>,
}

/// Name, extent and width of a tensor that the model computes.
type Known = (String, Along, usize);

/// A dump of another implementation.
pub(super) struct GoldenFile {
    source: SafetensorsSource,
    path: std::path::PathBuf,
    input: Grid,
    decoder: Option<Grid>,
}

impl GoldenFile {
    /// Opens a dump of an encoder-decoder, or of a model that reads one sequence.
    pub(super) fn open(path: &Path, encoder_decoder: bool) -> Result<Self> {
        let source = SafetensorsSource::open_file(path)?;
        let input = Grid::read(&source, path, INPUT_IDS, ATTENTION_MASK)?;
        let decoder = match encoder_decoder {
            true => Some(Grid::read(&source, path, DECODER_INPUT_IDS, DECODER_ATTENTION_MASK)?),
            false if source.contains(DECODER_INPUT_IDS) => {
                return Err(Error::tensor(DECODER_INPUT_IDS, path, "is of an encoder-decoder model, which this model is not"));
            }
            false => None,
        };
        if let Some(grid) = decoder.as_ref().filter(|grid| grid.rows.len() != input.rows.len()) {
            let message = format!("has {} rows where {INPUT_IDS} has {}", grid.rows.len(), input.rows.len());
            return Err(Error::tensor(DECODER_INPUT_IDS, path, message));
        }
        Ok(Self { path: path.to_owned(), source, input, decoder })
    }

    /// Ids of the real tokens.
    pub(super) fn rows(&self, along: Along) -> &[Vec<u32>] {
        &self.grid(along).rows
    }

    fn grid(&self, along: Along) -> &Grid {
        match along {
            Along::Decoder => self.decoder.as_ref().unwrap_or(&self.input),
            Along::Input | Along::Row => &self.input,
        }
    }

    /// Checks type and shape of everything that is known, before anything is run.
    pub(super) fn check(&self, known: &[Known]) -> Result<()> {
        let mut found = false;
        for (name, along, width) in known.iter().filter(|(name, ..)| self.source.contains(name)) {
            found = true;
            let [rows, length] = self.grid(*along).shape;
            let want = match along {
                Along::Row => vec![rows, *width],
                Along::Input | Along::Decoder => vec![rows, length, *width],
            };
            let (stored, _) = self.floats(name)?;
            if stored.shape != want {
                let message = format!("has shape {:?}; with these {INPUT_IDS} and this model it would be {want:?}", stored.shape);
                return Err(Error::tensor(name, &self.path, message));
            }
        }
        if found {
            return Ok(());
        }
        let names: Vec<&str> = known.iter().map(|(name, ..)| name.as_str()).collect();
        Err(Error::format(&self.path, format!("has nothing to compare: it holds none of {}", names.join(", "))))
    }

    /// Compares what the model computed with the tensors of the file.
    pub(super) fn compare(&self, known: &[Known], computed: Vec<Computed>, tokens: usize, tolerance: f32) -> Result<Verification> {
        let mut tensors = Vec::new();
        for computed in computed.iter().filter(|computed| self.source.contains(&computed.name)) {
            tensors.push(self.agreement(computed, tolerance)?);
        }
        let ids = [INPUT_IDS, ATTENTION_MASK, DECODER_INPUT_IDS, DECODER_ATTENTION_MASK];
        let is_known = |name: &str| ids.contains(&name) || known.iter().any(|(known, ..)| known == name);
        let not_compared = self.source.names().into_iter().filter(|name| !is_known(name));
        let not_compared = not_compared.map(|name| NotCompared { reason: reason(&name, known), name }).collect();
        Ok(Verification { rows: self.input.rows.len(), tokens, tolerance, tensors, not_compared })
    }

    fn agreement(&self, computed: &Computed, tolerance: f32) -> Result<TensorAgreement> {
        let (stored, kind) = self.floats(&computed.name)?;
        let width = stored.shape.last().copied().unwrap_or_default().max(1);
        let (golden, _) = kind.widen(self.source.raw(&computed.name).unwrap_or_default());
        let grid = self.grid(computed.along);
        let (places, length) = match computed.along {
            Along::Row => ((0..grid.rows.len()).map(|row| [row, 0]).collect(), 1),
            Along::Input | Along::Decoder => (grid.places.clone(), grid.shape[1]),
        };
        let (mut largest, mut at, mut compared) = (0f32, places.first().copied().unwrap_or_default(), 0);
        for (place, computed) in places.iter().zip(computed.values()?.chunks(width)) {
            let start = (place[0] * length + place[1]) * width;
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
        let name = computed.name.clone();
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

/// Name of what enters layer `layer`; the names of an encoder-decoder's two stacks have a prefix.
pub(super) fn hidden_name(prefix: &str, layer: usize) -> String {
    format!("{prefix}{HIDDEN}{layer}")
}

/// Why a tensor that is not known is left out.
fn reason(name: &str, known: &[Known]) -> &'static str {
    let layer = name.rfind(HIDDEN).and_then(|at| {
        let (prefix, digits) = (&name[..at], &name[at + HIDDEN.len()..]);
        let layer: usize = if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok()? } else { return None };
        let has = |layer| known.iter().any(|(known, ..)| *known == hidden_name(prefix, layer));
        has(0).then(|| layer > 0 && has(layer - 1))
    });
    match layer {
        Some(true) => "taken behind the final norm",
        Some(false) => "the model has fewer layers",
        None => "not a tensor that is known",
    }
}
