//! Comparing a model with what another implementation computed from the same checkpoint.

mod golden;

use std::path::Path;

use easyedit_core::{Capture, LanguageModel, Module, Pass, Site, TokenBatch, tensor_values};
use serde::Serialize;

use crate::Result;
use golden::GoldenFile;

/// How far one tensor of the file is from the model's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorAgreement {
    /// Its name in the file.
    pub name: String,
    /// How many numbers were compared: those of real tokens.
    pub compared: usize,
    /// Largest absolute difference; infinite if one of the two is not a number.
    pub largest_difference: f32,
    /// The row and the token (counted among all tokens of the row in the file) where it is.
    pub at: [usize; 2],
    /// Whether it is at most the tolerance.
    pub agrees: bool,
}

/// A tensor of the file that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotCompared {
    /// Its name in the file.
    pub name: String,
    /// Why.
    pub reason: &'static str,
}

/// The outcome of [`verify`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verification {
    /// Rows of the file's batch.
    pub rows: usize,
    /// Real tokens in them.
    pub tokens: usize,
    /// Largest difference that is accepted.
    pub tolerance: f32,
    /// What was compared, in the order in which the model computes it; never empty.
    pub tensors: Vec<TensorAgreement>,
    /// What was not.
    pub not_compared: Vec<NotCompared>,
}

impl Verification {
    /// Whether every compared tensor agrees.
    pub fn agrees(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.agrees)
    }

    /// The compared tensor that is furthest off.
    pub fn worst(&self) -> Option<&TensorAgreement> {
        self.tensors.iter().max_by(|a, b| a.largest_difference.total_cmp(&b.largest_difference))
    }
}

/// Runs `model` on the `input_ids` of the safetensors file `golden`, and compares what it computes with the file's `logits` and
/// `hidden_i`.
///
/// # Shapes
///
/// `input_ids` and `attention_mask`: `[rows, length]` (the mask may be left out), `logits`: `[rows, length, vocab_size]`, `hidden_i`:
/// `[rows, length, d_model]`. Rows may be padded on either side: pads are neither run nor compared. `hidden_i` is what enters layer
/// `i`, `hidden_0` the embeddings; the last of Hugging Face's hidden states is taken behind the final norm and is not compared.
///
/// # Errors
///
/// [`Error::Io`](crate::Error::Io) or [`Error::Format`](crate::Error::Format) if the file cannot be read or holds nothing to
/// compare, [`Error::Tensor`](crate::Error::Tensor) naming a tensor of another type or a shape that does not fit, and what the model
/// says of token ids beyond its vocabulary.
pub fn verify(model: &dyn LanguageModel, golden: &Path, tolerance: f32) -> Result<Verification> {
    let file = GoldenFile::open(golden)?;
    let spec = model.spec();
    let batch = TokenBatch::new(file.rows())?;
    let comparable = file.comparable(spec.n_layers)?;
    for name in &comparable.names {
        let width = if name == golden::LOGITS { spec.vocab_size } else { spec.d_model };
        file.check_shape(name, width)?;
    }
    // The last site keeps the run from ending before the last layer is done.
    let sites = (0..spec.n_layers).map(|layer| Site::new(layer, Module::BlockInput));
    let mut capture = Capture::new(sites.chain([Site::new(spec.n_layers.saturating_sub(1), Module::BlockOutput)]));
    let mut pass = Pass::new(batch.clone(), &model.device());
    let last = model.hidden(&mut pass, &mut capture)?;

    let mut tensors = Vec::new();
    for name in comparable.names {
        let computed = match golden::hidden_index(&name) {
            Some(layer) => match capture.take(Site::new(layer, Module::BlockInput)) {
                Some(hidden) => hidden,
                None => continue,
            },
            None => model.logits(last.clone(), &(0..batch.tokens()).collect::<Vec<_>>())?,
        };
        tensors.push(file.compare(name, &tensor_values(&computed)?, tolerance)?);
    }
    Ok(Verification { rows: batch.rows(), tokens: batch.tokens(), tolerance, tensors, not_compared: comparable.left_out })
}
