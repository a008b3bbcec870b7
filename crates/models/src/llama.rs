//! LLaMA and its kin: pre-norm blocks with rotary positions or ALiBi, grouped-query attention and a gated MLP.

use burn::tensor::Device;
use easyedit_core::{LanguageModel, Visibility, WeightLayout};
use serde_json::{Value, json};

use crate::activation::Activation;
use crate::alibi::Alibi;
use crate::attention::Attention;
use crate::block::{Biases, BlockForm, BlockNames, NormPlace};
use crate::decoder_only::{DecoderNames, HeadForm, Plan, PositionKind};
use crate::families::{Family, ModelSource};
use crate::mlp_in::MlpInNames;
use crate::norm::NormKind;
use crate::projections::ProjectionNames;
use crate::rotary::{Rotary, RotaryShape};
use crate::shape::ShapeKeys;
use crate::{ModelConfig, Result, Shape};

pub(crate) static FAMILY: Family = Family {
    name: "LLaMA",
    model_types: &["llama", "mistral", "qwen2", "internlm", "baichuan"],
    description: "Llama 1 to 3, SmolLM, Mistral (sliding window), Qwen2 and Qwen2.5, InternLM (v1), Baichuan and Baichuan2",
    base: NAMES.base,
    modules: |tied_head| NAMES.modules(tied_head),
    load,
    keys: KEYS,
    new_config: |model_type| {
        let (architecture, tied) = match model_type {
            "mistral" => ("MistralForCausalLM", false),
            "qwen2" => ("Qwen2ForCausalLM", true),
            "internlm" => ("InternLMForCausalLM", false),
            "baichuan" => ("BaichuanForCausalLM", false),
            _ => ("LlamaForCausalLM", false),
        };
        json!({"architectures": [architecture], "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": tied})
    },
};

const KEYS: ShapeKeys = ShapeKeys {
    vocab_size: "vocab_size",
    d_model: "hidden_size",
    d_mlp: "intermediate_size",
    d_mlp_factor: None,
    n_layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: Some("num_key_value_heads"),
    head_dim: Some("head_dim"),
    max_positions: "max_position_embeddings",
};

const NAMES: DecoderNames = DecoderNames {
    base: "model.",
    tokens: "model.embed_tokens",
    positions: "",
    blocks: "model.layers",
    block: BlockNames {
        attention_norm: "input_layernorm",
        projections: ProjectionNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        attention_out: "self_attn.o_proj",
        relative_bias: None,
        cross_attention: None,
        mlp_norm: Some("post_attention_layernorm"),
        mlp_in: MlpInNames::Gated(["mlp.gate_proj", "mlp.up_proj"]),
        mlp_out: "mlp.down_proj",
        norms_last: false,
    },
    attention: "self_attn",
    mlp: "mlp",
    norm: "model.norm",
    head: "lm_head",
};

/// Baichuan's projections in one weight.
const FUSED: ProjectionNames = ProjectionNames::Fused("self_attn.W_pack");

/// Rows of Baichuan2's embedding, by which its own code and its users know it: `config.json` says nothing else about its head.
const BAICHUAN2_VOCABULARY: usize = 125_696;
/// Where the members of the family differ.
struct Variant {
    qkv_bias: bool,
    /// Queries, keys and values come from one weight, `W_pack`.
    fused: bool,
    alibi: bool,
    unit_head: bool,
    output_bias: bool,
    mlp_bias: bool,
    /// The window, and the first layer that has it.
    window: Option<(usize, usize)>,
}

impl Variant {
    fn of(config: &ModelConfig) -> Result<Self> {
        let plain =
            Self { qkv_bias: false, fused: false, alibi: false, unit_head: false, output_bias: false, mlp_bias: false, window: None };
        Ok(match config.model_type() {
            "mistral" => Self { window: config.optional_dimension("sliding_window")?.map(|window| (window, 0)), ..plain },
            "qwen2" => {
                let window = match config.flag_or("use_sliding_window", false)? {
                    true => config.optional_dimension("sliding_window")?,
                    false => None,
                };
                let first = config.count_or("max_window_layers", 28)?;
                Self { qkv_bias: true, window: window.map(|window| (window, first)), ..plain }
            }
            "internlm" => {
                let bias = config.flag_or("bias", true)?;
                Self { qkv_bias: bias, output_bias: bias, ..plain }
            }
            // The 7B models have rotary positions and say how many, the 13B models name their context `model_max_length`.
            "baichuan" => Self {
                fused: true,
                alibi: config.get("max_position_embeddings").is_none(),
                unit_head: config.table_rows("vocab_size")? == BAICHUAN2_VOCABULARY,
                ..plain
            },
            _ => {
                let bias = config.flag_or("attention_bias", false)?;
                Self { qkv_bias: bias, output_bias: bias, mlp_bias: config.flag_or("mlp_bias", false)?, ..plain }
            }
        })
    }
}

/// The sizes of a model of the family.
fn read_shape(config: &ModelConfig, variant: &Variant) -> Result<Shape> {
    match variant.alibi {
        true => Shape::read(config, &ShapeKeys { max_positions: "model_max_length", ..KEYS }),
        false => Shape::read(config, &KEYS),
    }
}

/// The rotary embedding of a member. InternLM's `rotary` of type `dynamic` differs from the plain one only beyond
/// `max_position_embeddings`, and is read as plain.
fn read_rotary(config: &ModelConfig, head_dim: usize, device: &Device) -> Result<Rotary> {
    let shape = RotaryShape::whole(head_dim);
    let Some(rotary) = config.get("rotary").filter(|_| config.model_type() == "internlm") else {
        return Rotary::of(config, &shape, device);
    };
    if !matches!(rotary.get("type").and_then(Value::as_str), None | Some("origin" | "dynamic")) {
        return Err(config.error("rotary", format!("is {rotary}; its known types are origin and dynamic")));
    }
    let mut value = config.value().clone();
    if let (Some(base), Some(keys)) = (rotary.get("base"), value.as_object_mut()) {
        keys.insert("rope_theta".to_owned(), base.clone());
    }
    Rotary::of(&ModelConfig::new(value, config.origin())?, &shape, device)
}

/// Loads a model of the family.
fn load(source: ModelSource<'_>) -> Result<Box<dyn LanguageModel>> {
    let config = source.config;
    let variant = Variant::of(config)?;
    let shape = read_shape(config, &variant)?;
    let attention = Attention::of(&shape);
    let activation = Activation::of(config, "hidden_act", "silu")?;
    let (positions, query_scale) = match variant.alibi {
        true => (PositionKind::Alibi(Alibi::new(shape.heads)), attention.scale()),
        false => (PositionKind::Rotary(Box::new(read_rotary(config, shape.head_dim, source.device)?)), 1.0),
    };
    let form = |layer: usize| BlockForm {
        attention,
        visibility: match variant.window {
            Some((window, first)) if layer >= first => Visibility::Window(window),
            _ => Visibility::Causal,
        },
        query_scale,
        activation,
        norms: NormPlace::Before,
        parallel: false,
    };
    let projections = if variant.fused { FUSED } else { NAMES.block.projections };
    let plan = Plan {
        names: DecoderNames { block: BlockNames { projections, ..NAMES.block }, ..NAMES },
        shape,
        forms: (0..shape.n_layers).map(form).collect(),
        positions,
        layout: WeightLayout::OutIn,
        biases: Biases { projections: variant.qkv_bias, attention_out: variant.output_bias, mlp: variant.mlp_bias },
        norms: NormKind::Rms { epsilon: config.positive_or("rms_norm_eps", 1e-6)? },
        final_norm: true,
        head: HeadForm { unit_rows: variant.unit_head, ..HeadForm::plain(config.flag_or("tie_word_embeddings", false)?) },
    };
    plan.load(source)
}
