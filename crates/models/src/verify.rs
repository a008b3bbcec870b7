//! Comparing a model with what another implementation computed from the same checkpoint.

mod golden;
mod grid;

use std::path::Path;

use burn::tensor::Tensor;
use easyedit_core::{Capture, LanguageModel, Module, Pass, Site, Stack, TokenBatch, tensor_values};
use serde::Serialize;

use crate::text_encoder::normalised;
use crate::{Result, TextEncoder};
use golden::{Along, Computed, GoldenFile, hidden_name};

/// How far one tensor of the file is from the model's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorAgreement {
    /// Its name in the file.
    pub name: String,
    /// How many numbers were compared: those of real tokens.
    pub compared: usize,
    /// Largest absolute difference; infinite if one of the two is not a number.
    pub largest_difference: f32,
    /// The row and the token (counted among all tokens of the row in the file; 0 where a row has one vector) where it is.
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

/// The outcome of [`verify`] and [`verify_text_encoder`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verification {
    /// Rows of the file's batch.
    pub rows: usize,
    /// Real tokens in them, those of a decoder's rows included.
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

/// Runs `model` on the token ids of the safetensors file `golden`, and compares what it computes with what the file holds of it.
///
/// # Shapes
///
/// `input_ids` and `attention_mask`: `[rows, length]` (the mask may be left out). Rows may be padded on either side: pads are neither run
/// nor compared. A decoder is compared by `logits: [rows, length, vocab_size]` and `hidden_i: [rows, length, d_model]`, where `hidden_i` is
/// what enters layer `i`. An encoder-decoder reads `decoder_input_ids` (and `decoder_attention_mask`) besides, and is compared by
/// `encoder_hidden_i`, `encoder_last_hidden_state` (behind the final norm), `decoder_hidden_i` and `logits`. The last of a decoder's hidden
/// states in Hugging Face's count is taken behind the final norm and is not compared.
///
/// # Errors
///
/// [`Error::Io`](crate::Error::Io) or [`Error::Format`](crate::Error::Format) if the file cannot be read or holds nothing to
/// compare, [`Error::Tensor`](crate::Error::Tensor) naming a tensor of another type or a shape that does not fit, and what the model
/// says of token ids beyond its vocabulary.
pub fn verify(model: &dyn LanguageModel, golden: &Path, tolerance: f32) -> Result<Verification> {
    let spec = model.spec();
    let file = GoldenFile::open(golden, spec.encoder.is_some())?;
    let mut known = Vec::new();
    let (prefix, along) = match &spec.encoder {
        Some(encoder) => {
            known.extend((0..encoder.n_layers).map(|layer| (hidden_name("encoder_", layer), Along::Input, spec.d_model)));
            known.push((ENCODER_LAST.to_owned(), Along::Input, spec.d_model));
            ("decoder_", Along::Decoder)
        }
        None => ("", Along::Input),
    };
    known.extend((0..spec.n_layers).map(|layer| (hidden_name(prefix, layer), along, spec.d_model)));
    known.push((LOGITS.to_owned(), along, spec.vocab_size));
    file.check(&known)?;

    let (computed, batch) = match model.encoder() {
        Some(encoder) => {
            let n_layers = model.spec().encoder.as_ref().map_or(0, |encoder| encoder.n_layers);
            let mut capture = Capture::new((0..n_layers).map(|layer| Site::in_stack(Stack::Encoder, layer, Module::BlockInput)));
            let output = encoder.encode(&TokenBatch::new(file.rows(Along::Input))?, &mut capture)?;
            let mut computed = hidden_states(&mut capture, Stack::Encoder, "encoder_", Along::Input, n_layers);
            computed.push(Computed::new(ENCODER_LAST, Along::Input, output.hidden()));
            let batch = TokenBatch::new(file.rows(Along::Decoder))?;
            let pass = Pass::new(batch.clone(), &model.device()).reading(output)?;
            computed.extend(decoder_states(model, pass, prefix, along)?);
            (computed, batch)
        }
        None => {
            let batch = TokenBatch::new(file.rows(Along::Input))?;
            (decoder_states(model, Pass::new(batch.clone(), &model.device()), prefix, along)?, batch)
        }
    };
    let tokens = batch.tokens() + if spec.encoder.is_some() { file.rows(Along::Input).iter().map(Vec::len).sum() } else { 0 };
    file.compare(&known, computed, tokens, tolerance)
}

/// As [`verify`], of a text encoder: by `last_hidden_state: [rows, length, d_model]`, and by `mean_pooled` and `sentence_embedding` (the mean
/// over the real tokens, and the same of length 1): `[rows, d_model]`.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_text_encoder(model: &TextEncoder, golden: &Path, tolerance: f32) -> Result<Verification> {
    let file = GoldenFile::open(golden, false)?;
    let known: Vec<(String, Along, usize)> = [(LAST, Along::Input), (MEAN_POOLED, Along::Row), (EMBEDDING, Along::Row)]
        .map(|(name, along)| (name.to_owned(), along, model.d_model()))
        .into();
    file.check(&known)?;
    let batch = TokenBatch::new(file.rows(Along::Input))?;
    let pooled = model.mean_pooled(&batch)?;
    let computed = vec![
        Computed::new(LAST, Along::Input, model.last_hidden_state(&batch)?),
        Computed::new(MEAN_POOLED, Along::Row, pooled.clone()),
        Computed::new(EMBEDDING, Along::Row, normalised(pooled)),
    ];
    file.compare(&known, computed, batch.tokens(), tolerance)
}

const LOGITS: &str = "logits";
const ENCODER_LAST: &str = "encoder_last_hidden_state";
const LAST: &str = "last_hidden_state";
const MEAN_POOLED: &str = "mean_pooled";
const EMBEDDING: &str = "sentence_embedding";

/// What enters each layer of a decoder, and its logits.
fn decoder_states(model: &dyn LanguageModel, mut pass: Pass, prefix: &str, along: Along) -> Result<Vec<Computed>> {
    let n_layers = model.spec().n_layers;
    // The last site keeps the run from ending before the last layer is done.
    let sites = (0..n_layers).map(|layer| Site::new(layer, Module::BlockInput));
    let mut capture = Capture::new(sites.chain([Site::new(n_layers.saturating_sub(1), Module::BlockOutput)]));
    let last = model.hidden(&mut pass, &mut capture)?;
    let mut computed = hidden_states(&mut capture, Stack::Decoder, prefix, along, n_layers);
    let positions: Vec<usize> = (0..pass.batch().tokens()).collect();
    computed.push(Computed::new(LOGITS, along, model.logits(last, &positions)?));
    Ok(computed)
}

fn hidden_states(capture: &mut Capture, stack: Stack, prefix: &str, along: Along, n_layers: usize) -> Vec<Computed> {
    let site = |layer| Site::in_stack(stack, layer, Module::BlockInput);
    let state = |layer| Some(Computed::new(&hidden_name(prefix, layer), along, capture.take(site(layer))?));
    (0..n_layers).filter_map(state).collect()
}

impl Computed {
    fn new(name: &str, along: Along, tensor: Tensor<2>) -> Self {
        Self { name: name.to_owned(), along, tensor }
    }

    fn values(&self) -> Result<Vec<f32>> {
        Ok(tensor_values(&self.tensor)?)
    }
}
