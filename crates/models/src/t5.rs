//! T5 and its kin: an encoder that reads the prompt, and a decoder that writes the answer, both stacks of the same blocks.

use burn::tensor::{Device, Tensor};
use easyedit_core::{
    Encoder, EncoderOutput, EncoderSpec, LanguageModel, ModuleNames, ParameterRole, Pass, Probe, Stack, TokenBatch, WeightLayout,
};
use serde_json::json;

use crate::activation::Activation;
use crate::attention::Attention;
use crate::block::{Block, PositionTerms};
use crate::decoder::{Decoder, Network, check_ids, embed};
use crate::families::{Family, ModelSource, check_tokenizer};
use crate::loader::Loader;
use crate::parameters::parameters;
use crate::relative_position::RelativePositions;
use crate::shape::ShapeKeys;
use crate::t5_stack::{StackPlan, T5Stack};
use crate::weight::Weight;
use crate::{ModelConfig, Result, Shape};

pub(crate) static FAMILY: Family = Family {
    name: "T5",
    model_types: &["t5", "mt5"],
    description: "T5, T5 v1.1, FLAN-T5 and mT5 (encoder-decoders)",
    base: "",
    modules: module_names,
    load,
    keys: ShapeKeys {
        vocab_size: "vocab_size",
        d_model: "d_model",
        d_mlp: "d_ff",
        d_mlp_factor: None,
        n_layers: "num_layers",
        heads: "num_heads",
        kv_heads: None,
        head_dim: Some(HEAD_DIM),
        max_positions: POSITIONS,
    },
    new_config: |model_type| {
        let (architecture, projection, tied) = match model_type {
            "mt5" => ("MT5ForConditionalGeneration", "gated-gelu", false),
            _ => ("T5ForConditionalGeneration", "relu", true),
        };
        json!({
            "architectures": [architecture], "is_encoder_decoder": true, FEED_FORWARD: projection, "layer_norm_epsilon": 1e-6,
            "pad_token_id": 0, DECODER_START: 0, "tie_word_embeddings": tied,
        })
    },
};

const FEED_FORWARD: &str = "feed_forward_proj";
const DECODER_START: &str = "decoder_start_token_id";
const HEAD_DIM: &str = "d_kv";
/// Width of a head in a configuration that does not say it.
const DEFAULT_HEAD_DIM: usize = 64;
/// Configurations name the length of the texts trained on. Positions are relative, so nothing ends there.
const POSITIONS: &str = "n_positions";
/// Arbitrary: T5 has no position limit.
const UNBOUNDED: usize = 1 << 20;

/// Names of the decoder's modules.
fn module_names(tied_head: bool) -> ModuleNames {
    ModuleNames {
        layer: "decoder.block.{}".into(),
        mlp: "decoder.block.{}.layer.2.DenseReluDense".into(),
        mlp_out: "decoder.block.{}.layer.2.DenseReluDense.wo".into(),
        attention: "decoder.block.{}.layer.0.SelfAttention".into(),
        final_norm: "decoder.final_layer_norm".into(),
        lm_head: if tied_head { "shared" } else { "lm_head" }.into(),
    }
}

#[derive(Clone)]
struct T5 {
    /// The embedding of both stacks, and the head where that is tied.
    shared: Weight,
    encoder: T5Stack,
    decoder: T5Stack,
    /// `None` when the head is the embedding.
    head: Option<Weight>,
    name: String,
    device: Device,
}

parameters!(T5 {
    "shared.weight" => shared,
    "encoder" => encoder,
    "decoder" => decoder,
    "lm_head.weight" => head,
});

/// Loads a model of the family.
fn load(source: ModelSource<'_>) -> Result<Box<dyn LanguageModel>> {
    let ModelSource { config, name, tensors, tokenizer, device } = source;
    let mut config = config.clone().with(POSITIONS, UNBOUNDED);
    if config.get(HEAD_DIM).is_none() {
        config = config.with(HEAD_DIM, DEFAULT_HEAD_DIM);
    }
    let config = &config;
    let mut shape = Shape::read(config, &FAMILY.keys)?;
    let Shape { vocab_size, d_model, d_mlp, n_layers, heads, kv_heads, head_dim, .. } = shape;
    shape.n_layers = config.optional_dimension("num_decoder_layers")?.unwrap_or(n_layers);
    check_tokenizer(config, &tokenizer, vocab_size)?;
    let tied_head = config.flag_or("tie_word_embeddings", true)?;
    let (activation, gated) = feed_forward(config)?;
    let decoder_start = config.count_or(DECODER_START, config.count_or("pad_token_id", 0)?)?;
    if decoder_start >= vocab_size {
        return Err(config.error(DECODER_START, format!("is {decoder_start}, beyond the {vocab_size} rows of the vocabulary")));
    }
    let encoder = StackPlan {
        stack: Stack::Encoder,
        n_layers,
        d_model,
        d_mlp,
        attention: Attention { heads, kv_heads, head_dim },
        positions: RelativePositions::of(config, true)?,
        activation,
        gated,
        epsilon: config.positive_or("layer_norm_epsilon", 1e-6)?,
    };
    let decoder =
        StackPlan { stack: Stack::Decoder, n_layers: shape.n_layers, positions: RelativePositions::of(config, false)?, ..encoder };

    let loader = Loader::new(tensors, device, FAMILY.base);
    let scope = loader.stack(Stack::Decoder);
    let (rows, logits) = ([vocab_size, d_model], Some(WeightLayout::OutIn));
    let network = T5 {
        shared: scope.weight("shared.weight", rows, ParameterRole::TokenEmbedding, if tied_head { logits } else { None })?,
        encoder: encoder.load(&loader)?,
        decoder: decoder.load(&loader)?,
        head: if tied_head { None } else { Some(scope.weight("lm_head.weight", rows, ParameterRole::Head, logits)?) },
        name: name.to_owned(),
        device: device.clone(),
    };
    let mut spec = shape.spec(config, name, module_names(tied_head), tied_head, loader.map(&network)?);
    let mlp_out = "encoder.block.{}.layer.1.DenseReluDense.wo".into();
    spec.encoder = Some(EncoderSpec { n_layers, mlp_out, decoder_start: decoder_start as u32 });
    Ok(Box::new(Decoder::new(spec, tokenizer, device, false, network)))
}

/// The activation of the MLPs, and whether they have a gate: `relu`, `gated-gelu`, ...
fn feed_forward(config: &ModelConfig) -> Result<(Activation, bool)> {
    let projection = config.text_or(FEED_FORWARD, "relu")?;
    match projection.strip_prefix("gated-") {
        // What is called GELU here is its approximation.
        Some("gelu") => Ok((Activation::GeluTanh, true)),
        Some(name) => Ok((Activation::named(config, FEED_FORWARD, name)?, true)),
        None => Ok((Activation::named(config, FEED_FORWARD, projection)?, false)),
    }
}

impl Encoder for T5 {
    fn encode(&self, sources: &TokenBatch, probe: &mut dyn Probe) -> easyedit_core::Result<EncoderOutput> {
        let [vocab_size, _] = self.shared.dims();
        check_ids(sources, vocab_size, &self.name)?;
        let mut pass = Pass::new(sources.clone(), &self.device);
        let embeddings = embed(self, &pass)?;
        let hidden = self.encoder.encode(embeddings, &mut pass, probe);
        EncoderOutput::new(hidden, sources.clone(), &self.device)
    }
}

impl Network for T5 {
    fn encoder(&self) -> Option<&dyn Encoder> {
        Some(self)
    }

    fn embed_ids(&self, pass: &Pass) -> Tensor<2> {
        self.shared.rows(pass.ids_tensor())
    }

    fn positions(&self, pass: &Pass) -> PositionTerms {
        self.decoder.positions(pass)
    }

    fn blocks(&self) -> &[Block] {
        &self.decoder.blocks
    }

    fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let hidden = self.decoder.finish(hidden);
        match &self.head {
            Some(head) => head.product(hidden, WeightLayout::OutIn),
            None => {
                let [_, d_model] = hidden.dims();
                self.shared.product(hidden.mul_scalar(1.0 / (d_model as f64).sqrt()), WeightLayout::OutIn)
            }
        }
    }
}
