use std::ops::Range;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::token_batch::index_tensor;
use crate::{
    AsTokens, Encoder, EncoderSpec, Error, Fingerprint, ModelMap, Overlaid, ParamName, Parameter, ParameterRole, Pass, Predictor, Probe,
    Result, Stack, TokenBatch, TokenSlice,
};

/// How the checkpoint stores a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightLayout {
    /// `[out, in]`: `y = x Wᵀ` (most families).
    OutIn,
    /// `[in, out]`: `y = x W` (GPT-2's Conv1D).
    InOut,
}

impl WeightLayout {
    /// The layout of the transposed matrix.
    #[cfg(all(feature = "flex", feature = "extension"))]
    pub(crate) fn turned(self) -> Self {
        match self {
            Self::OutIn => Self::InOut,
            Self::InOut => Self::OutIn,
        }
    }
}

/// Names of a family's modules in its checkpoint, as EasyEdit's templates (`{}` stands for the layer).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleNames {
    /// A transformer block, e.g. `model.layers.{}`.
    pub layer: String,
    /// Its MLP.
    pub mlp: String,
    /// The MLP's out-projection, whose input is [`Module::MlpKey`](crate::Module::MlpKey).
    pub mlp_out: String,
    /// Its attention.
    pub attention: String,
    /// The norm before the head.
    pub final_norm: String,
    /// The head; for a tied head the embedding.
    pub lm_head: String,
}

/// What a model is, without its weights. Of an encoder-decoder, layers and modules are those of the decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// `model_type` of `config.json`.
    pub family: String,
    /// The name it was opened by, or the last part of its path.
    pub name: String,
    /// Number of transformer blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the MLP key.
    pub d_mlp: usize,
    /// Rows of the output head.
    pub vocab_size: usize,
    /// Longest sequence the positions allow, in tokens.
    pub max_positions: usize,
    /// Module names.
    pub modules: ModuleNames,
    /// Whether the head is the embedding.
    pub tied_head: bool,
    /// The encoder of an encoder-decoder; `None` for a decoder-only model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderSpec>,
    /// What every parameter is for, and how it is stored.
    #[serde(default)]
    pub map: ModelMap,
}

impl ModelSpec {
    /// The parameter called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] with the nearest name, if there is none.
    pub fn parameter(&self, name: &ParamName) -> Result<&Parameter> {
        self.map.get(name).ok_or_else(|| {
            let hint = self.map.nearest(name).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
            Error::tensor(name.as_str(), format!("{} has no such parameter{hint}", self.name))
        })
    }

    /// The name of the parameter of `stack` with this role, in block `layer` or outside of all blocks. The head of a tied model is its
    /// [`TokenEmbedding`](ParameterRole::TokenEmbedding).
    pub fn name_of(&self, stack: Stack, layer: Option<usize>, role: ParameterRole) -> Option<&ParamName> {
        self.map.at(stack, layer, role).map(|parameter| &parameter.name)
    }

    /// Number of blocks of a stack; 0 if the model has no such stack.
    pub fn n_layers_of(&self, stack: Stack) -> usize {
        match stack {
            Stack::Decoder => self.n_layers,
            Stack::Encoder => self.encoder.as_ref().map_or(0, |encoder| encoder.n_layers),
        }
    }

    /// Template of the MLPs' out-projections of a stack; `None` if the model has no such stack.
    pub fn mlp_out_of(&self, stack: Stack) -> Option<&str> {
        match stack {
            Stack::Decoder => Some(&self.modules.mlp_out),
            Stack::Encoder => self.encoder.as_ref().map(|encoder| encoder.mlp_out.as_str()),
        }
    }

    /// The weight of the MLP's out-projection of `layer`: what the locate-then-edit methods change.
    pub fn mlp_out_weight(&self, layer: usize) -> ParamName {
        ParamName::weight_of(&self.modules.mlp_out, layer)
    }

    /// Checks that `template`, with or without `.weight`, names the MLP's out-projection.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming both.
    pub fn check_mlp_out(&self, template: &str) -> Result<()> {
        if template.trim_end_matches(".weight") == self.modules.mlp_out {
            return Ok(());
        }
        Err(Error::hparams(format!(
            "rewrite_module_tmp is {template}, but the MLP out-projection of {} ({}) is {}; these are hyperparameters for another family",
            self.name, self.family, self.modules.mlp_out
        )))
    }

    /// Checks that the model has a layer `layer`.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming the layer and the model's depth.
    pub fn check_layer(&self, layer: usize) -> Result<()> {
        if layer < self.n_layers {
            Ok(())
        } else {
            Err(Error::hparams(format!("layer {layer} is out of range: {} has layers 0 to {}", self.name, self.n_layers.saturating_sub(1))))
        }
    }

    /// Checks that prompt and target are one sequence to the model, for the method `method` that needs it.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming method and model.
    pub fn check_decoder_only(&self, method: &str) -> Result<()> {
        match self.encoder {
            None => Ok(()),
            Some(_) => Err(Error::Unsupported {
                method: method.to_owned(),
                message: format!(
                    "edits decoder-only models, and {} is an encoder-decoder; choose a method that edits those, or a decoder-only model",
                    self.name
                ),
            }),
        }
    }
}

/// A language model whose decoder's layers can be run in parts, looked into, and changed: the door for methods and kernels. What it answers is
/// asked of it as a [`Predictor`]; [`white_box`](crate::white_box) has the answers by its layers, for those who implement it.
/// An encoder-decoder is one whose passes
/// [read](Pass::reading) what its [`encoder`](Self::encoder) made of the prompts; `start` makes passes of
/// both kinds.
///
/// # Contract
///
/// - A block's output is its input plus what attention and MLP add (`BlockOutput = BlockInput + AttentionOutput + MlpOutput`; in an
///   encoder-decoder `+ CrossAttentionOutput`), so a vector added to the MLP output is the same vector added to the block output.
/// - `run_layers(0..a)` followed by `run_layers(a..n)` is `run_layers(0..n)`.
/// - Tensors that carry gradients may be passed to [`run_layers`](Self::run_layers) and [`logits`](Self::logits); weights do not
///   ask for gradients.
/// - Cloning shares the weights' storage; setting a weight of a clone leaves the original as it was.
pub trait LanguageModel: Predictor {
    /// What the model is.
    fn spec(&self) -> &ModelSpec;

    /// The device its weights are on.
    fn device(&self) -> Device;

    /// The embeddings that enter layer 0: `[tokens, d_model]`. The pass's inserts replace those of their tokens
    /// ([`Pass::put_inserts`]); what a model adds for positions is added to both.
    ///
    /// # Errors
    ///
    /// If a token id or a position is beyond the model's tables, or an insert is not of width `d_model`.
    fn embed(&self, pass: &Pass) -> Result<Tensor<2>>;

    /// Runs the layers `layers` on `hidden: [tokens, d_model]`, calling `probe` at each site and for each linear map, and
    /// stops early once [`Probe::is_done`].
    ///
    /// # Errors
    ///
    /// If the range or the shapes do not fit.
    fn run_layers(&self, hidden: Tensor<2>, layers: Range<usize>, pass: &mut Pass, probe: &mut dyn Probe) -> Result<Tensor<2>>;

    /// Final norm and head at chosen positions (indices into `hidden`'s rows): `[positions, vocab_size]`.
    fn logits(&self, hidden: Tensor<2>, positions: &[usize]) -> Result<Tensor<2>>;

    /// Names of all parameters, in the checkpoint's words.
    fn parameter_names(&self) -> Vec<ParamName>;

    /// A parameter as the checkpoint stores it; a vector is seen as one row.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if there is no such parameter.
    fn weight(&self, name: &ParamName) -> Result<Tensor<2>>;

    /// The fingerprint of [`weight`](Self::weight). Models compute it once for each weight, and clones share it.
    ///
    /// # Errors
    ///
    /// As [`weight`](Self::weight), or if the device cannot give the values back.
    fn fingerprint(&self, name: &ParamName) -> Result<Fingerprint> {
        Fingerprint::of(&self.weight(name)?)
    }

    /// Replaces a parameter by one of the same shape.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if there is no such parameter, or the shape differs.
    fn set_weight(&mut self, name: &ParamName, weight: Tensor<2>) -> Result<()>;

    /// A clone that shares the weights' storage.
    fn boxed_clone(&self) -> Box<dyn LanguageModel>;

    /// The encoder of an encoder-decoder, `None` for a decoder-only model; so is [`ModelSpec::encoder`].
    fn encoder(&self) -> Option<&dyn Encoder> {
        None
    }

    /// What lies over the model, if anything does: the uppermost [overlay](crate::Overlay).
    fn overlaid(&self) -> Option<Overlaid<'_>> {
        None
    }

    /// Runs all layers: the last block's output, `[tokens, d_model]`.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed) and [`run_layers`](Self::run_layers).
    fn hidden(&self, pass: &mut Pass, probe: &mut dyn Probe) -> Result<Tensor<2>> {
        let hidden = self.embed(pass)?;
        self.run_layers(hidden, 0..self.spec().n_layers, pass, probe)
    }
}

impl Clone for Box<dyn LanguageModel> {
    fn clone(&self) -> Self {
        self.boxed_clone()
    }
}

impl dyn LanguageModel + '_ {
    /// A pass of `rows` from position 0. In an encoder-decoder, row `r` reads `sources[r]`, which is encoded here (equal sources once); in
    /// a decoder-only model the sources are empty, or there are none. [`TargetTokens`](crate::tokens::TargetTokens) hold both parts.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if sources and rows do not fit each other or the model, otherwise as [`Encoder::encode`].
    pub fn start<S: AsTokens>(&self, sources: &[S], rows: TokenBatch) -> Result<Pass> {
        let name = &self.spec().name;
        let Some(encoder) = self.encoder() else {
            return match sources.iter().all(|source| source.as_tokens().is_empty()) {
                true => Ok(Pass::new(rows, &self.device())),
                false => {
                    Err(Error::Batch(format!("{name} is a decoder-only model and reads no sources; put them before the rows' tokens")))
                }
            };
        };
        if sources.len() != rows.rows() || sources.iter().any(|source| source.as_tokens().is_empty()) {
            return Err(Error::Batch(format!(
                "{name} is an encoder-decoder: each of the {} rows needs a source of at least one token",
                rows.rows()
            )));
        }
        let mut unique: Vec<TokenSlice<'_>> = sources.iter().map(AsTokens::as_tokens).collect();
        unique.sort_unstable();
        unique.dedup();
        let encoded = encoder.encode(&TokenBatch::new(&unique)?, &mut ())?;
        let rows_of: Vec<usize> = sources.iter().map(|source| unique.binary_search(&source.as_tokens()).unwrap_or(0)).collect();
        let as_encoded = rows_of.iter().copied().eq(0..unique.len());
        Pass::new(rows, &self.device()).reading(if as_encoded { encoded } else { encoded.select_rows(&rows_of)? })
    }

    /// The rows `positions` of `hidden`.
    pub fn rows_of(&self, hidden: Tensor<2>, positions: &[usize]) -> Tensor<2> {
        hidden.select(0, index_tensor(positions, &self.device()))
    }
}
