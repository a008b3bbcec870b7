//! ChatGLM2 and ChatGLM3: pre-norm blocks with grouped queries, rotary positions on half of each head and a fused gated MLP.

use burn::tensor::Device;
use easyedit_core::{LanguageModel, Visibility, WeightLayout};
use serde_json::{Value, json};

use crate::activation::Activation;
use crate::attention::Attention;
use crate::block::{Biases, BlockForm, BlockNames, NormPlace};
use crate::decoder_only::{DecoderNames, HeadForm, Plan, PositionKind};
use crate::families::{Family, ModelSource};
use crate::mlp_in::MlpInNames;
use crate::norm::NormKind;
use crate::projections::ProjectionNames;
use crate::rotary::{Pairing, Rotary, RotaryShape};
use crate::shape::ShapeKeys;
use crate::{Error, ModelConfig, Result, Shape};

pub(crate) static FAMILY: Family = Family {
    name: "ChatGLM",
    model_types: &["chatglm"],
    description: "ChatGLM2 and ChatGLM3",
    base: NAMES.base,
    modules: |tied_head| NAMES.modules(tied_head),
    load,
    keys: ShapeKeys {
        vocab_size: "padded_vocab_size",
        d_model: "hidden_size",
        d_mlp: "ffn_hidden_size",
        d_mlp_factor: None,
        n_layers: "num_layers",
        heads: "num_attention_heads",
        kv_heads: Some(GROUPS),
        head_dim: Some("kv_channels"),
        max_positions: "seq_length",
    },
    new_config: |_| {
        json!({
            "architectures": ["ChatGLMModel"], "multi_query_attention": true, "add_qkv_bias": true, "add_bias_linear": false,
            "rmsnorm": true, "layernorm_epsilon": 1e-5, "post_layer_norm": true, "tie_word_embeddings": false,
        })
    },
};

/// Key of the number of heads with keys and values of their own; it counts with `multi_query_attention` alone.
const GROUPS: &str = "multi_query_group_num";
/// Base of the rotary frequencies, before `rope_ratio`.
const THETA: f64 = 10_000.0;

const NAMES: DecoderNames = DecoderNames {
    base: "",
    tokens: "transformer.embedding.word_embeddings",
    positions: "",
    blocks: "transformer.encoder.layers",
    block: BlockNames {
        attention_norm: "input_layernorm",
        projections: ProjectionNames::Fused("self_attention.query_key_value"),
        attention_out: "self_attention.dense",
        relative_bias: None,
        cross_attention: None,
        mlp_norm: Some("post_attention_layernorm"),
        mlp_in: MlpInNames::FusedGated("mlp.dense_h_to_4h"),
        mlp_out: "mlp.dense_4h_to_h",
        norms_last: false,
    },
    attention: "self_attention",
    mlp: "mlp",
    norm: "transformer.encoder.final_layernorm",
    head: "transformer.output_layer",
};

/// Refuses what is called `chatglm` and built differently.
fn check(config: &ModelConfig) -> Result<()> {
    if config.get("position_encoding_2d").is_some() || config.get("inner_hidden_size").is_some() {
        let message = "the first ChatGLM (chatglm-6b) is built differently and not supported; use chatglm2-6b or chatglm3-6b";
        return Err(Error::Unsupported(format!("{}: {message}", config.origin().display())));
    }
    for (key, wanted) in [("rmsnorm", true), ("add_bias_linear", false), ("apply_residual_connection_post_layernorm", false)] {
        if config.flag_or(key, wanted)? != wanted {
            return Err(
                config.error(key, format!("is {}; published ChatGLM2 and ChatGLM3 models have {wanted}, and only they are read", !wanted))
            );
        }
    }
    Ok(())
}

/// The rotary embedding of half of each head; `rope_ratio` stretches it in the models for long texts.
fn read_rotary(config: &ModelConfig, head_dim: usize, device: &Device) -> Result<Rotary> {
    let mut value = config.value().clone();
    if let Some(keys) = value.as_object_mut() {
        keys.insert("rope_theta".to_owned(), Value::from(THETA * config.positive_or("rope_ratio", 1.0)?));
    }
    let shape = RotaryShape { rotated: head_dim / 2, pairing: Pairing::Neighbours, ..RotaryShape::whole(head_dim) };
    Rotary::of(&ModelConfig::new(value, config.origin())?, &shape, device)
}

/// Loads a model of the family.
fn load(source: ModelSource<'_>) -> Result<Box<dyn LanguageModel>> {
    let config = source.config;
    check(config)?;
    let kv_heads = if config.flag_or("multi_query_attention", false)? { FAMILY.keys.kv_heads } else { None };
    let shape = Shape::read(config, &ShapeKeys { kv_heads, ..FAMILY.keys })?;
    let form = BlockForm {
        attention: Attention::of(&shape),
        visibility: Visibility::Causal,
        query_scale: 1.0,
        activation: Activation::Silu,
        norms: NormPlace::Before,
        parallel: false,
    };
    let plan = Plan {
        names: NAMES,
        shape,
        forms: vec![form; shape.n_layers],
        positions: PositionKind::Rotary(Box::new(read_rotary(config, shape.head_dim, source.device)?)),
        layout: WeightLayout::OutIn,
        biases: Biases { projections: config.flag_or("add_qkv_bias", false)?, ..Biases::NONE },
        norms: NormKind::Rms { epsilon: config.positive_or("layernorm_epsilon", 1e-5)? },
        final_norm: config.flag_or("post_layer_norm", true)?,
        head: HeadForm::plain(config.flag_or("tie_word_embeddings", false)?),
    };
    plan.load(source)
}
