//! LLaMA and its kin: pre-norm blocks with rotary positions or ALiBi, grouped-query attention and a gated MLP.

use burn::tensor::{Device, Tensor};
use easyedit_core::{LanguageModel, Module, ModuleNames, Pass, Probe, Site, Visibility, WeightLayout, weight_product};
use serde_json::{Value, json};

use crate::activation::Activation;
use crate::alibi::Alibi;
use crate::attention::Attention;
use crate::decoder::{Decoder, Network};
use crate::families::{Family, ModelSource, check_tokenizer};
use crate::linear::Linear;
use crate::loader::Loader;
use crate::norm::RmsNorm;
use crate::parameters::parameters;
use crate::projections::Projections;
use crate::rotary::{Rotary, RotaryShape, Rotations};
use crate::shape::ShapeKeys;
use crate::{ModelConfig, Result, Shape};

pub(crate) static FAMILY: Family = Family {
    name: "LLaMA",
    model_types: &["llama", "mistral", "qwen2", "internlm", "baichuan"],
    description: "Llama 1 to 3, SmolLM, Mistral (sliding window), Qwen2 and Qwen2.5, InternLM (v1), Baichuan and Baichuan2",
    base: BASE,
    modules: module_names,
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

/// What parameter names begin with, unless the checkpoint is of the headless model.
const BASE: &str = "model.";

/// Names of the family's modules.
fn module_names(tied_head: bool) -> ModuleNames {
    ModuleNames {
        layer: "model.layers.{}".into(),
        mlp: "model.layers.{}.mlp".into(),
        mlp_out: "model.layers.{}.mlp.down_proj".into(),
        attention: "model.layers.{}.self_attn".into(),
        final_norm: "model.norm".into(),
        lm_head: if tied_head { "model.embed_tokens" } else { "lm_head" }.into(),
    }
}

#[derive(Clone)]
struct Llama {
    embedding: Tensor<2>,
    blocks: Vec<Block>,
    norm: RmsNorm,
    /// `None` when the head is the embedding.
    head: Option<Tensor<2>>,
    /// Whether the rows of the head count with length 1.
    unit_head: bool,
    positions: Positions,
    attention: Attention,
    activation: Activation,
}

parameters!(Llama {
    "model.embed_tokens.weight" => embedding,
    "model.layers" => blocks,
    "model.norm" => norm,
    "lm_head.weight" => head,
});

#[derive(Clone)]
struct Block {
    input_norm: RmsNorm,
    projections: Projections,
    output: Linear,
    post_attention_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    visibility: Visibility,
}

parameters!(Block {
    "input_layernorm" => input_norm,
    "self_attn" => projections,
    "self_attn.o_proj" => output,
    "post_attention_layernorm" => post_attention_norm,
    "mlp.gate_proj" => gate,
    "mlp.up_proj" => up,
    "mlp.down_proj" => down,
});

/// How tokens know where they are.
#[derive(Clone)]
enum Positions {
    Rotary(Box<Rotary>),
    Alibi(Alibi),
}

/// Rows of Baichuan2's embedding, by which its own code and its users know it: `config.json` says nothing else about its head.
const BAICHUAN2_VOCABULARY: usize = 125_696;
/// Shortest length a row of a head is divided by.
const SHORTEST_ROW: f64 = 1e-12;
/// Rows of a head whose lengths are taken at once.
const ROWS_AT_ONCE: usize = 4096;

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
    let ModelSource { config, name, tensors, tokenizer, device } = source;
    let variant = Variant::of(config)?;
    let shape = read_shape(config, &variant)?;
    let Shape { vocab_size, d_model, d_mlp, n_layers, heads, kv_heads, head_dim, .. } = shape;
    check_tokenizer(config, &tokenizer, vocab_size)?;
    let tied_head = config.flag_or("tie_word_embeddings", false)?;
    let epsilon = config.positive_or("rms_norm_eps", 1e-6)?;
    let activation = Activation::of(config, "hidden_act", "silu")?;
    let positions = match variant.alibi {
        true => Positions::Alibi(Alibi::new(heads)),
        false => Positions::Rotary(Box::new(read_rotary(config, head_dim, device)?)),
    };

    let loader = Loader::new(tensors, device, BASE);
    let linear = |name: String, shape, bias| loader.linear(&name, shape, bias, WeightLayout::OutIn);
    let embedding = loader.matrix("model.embed_tokens.weight", [vocab_size, d_model])?;
    let mut blocks = Vec::new();
    for layer in 0..n_layers {
        let at = |module: &str| format!("model.layers.{layer}.{module}");
        let (d_query, d_key) = (heads * head_dim, kv_heads * head_dim);
        blocks.push(Block {
            input_norm: RmsNorm::load(&loader, &at("input_layernorm"), d_model, epsilon)?,
            projections: match variant.fused {
                true => Projections::Fused(Box::new(linear(at("self_attn.W_pack"), [d_model, d_query + 2 * d_key], variant.qkv_bias)?)),
                false => Projections::Separate(Box::new([
                    linear(at("self_attn.q_proj"), [d_model, d_query], variant.qkv_bias)?,
                    linear(at("self_attn.k_proj"), [d_model, d_key], variant.qkv_bias)?,
                    linear(at("self_attn.v_proj"), [d_model, d_key], variant.qkv_bias)?,
                ])),
            },
            output: linear(at("self_attn.o_proj"), [d_query, d_model], variant.output_bias)?,
            post_attention_norm: RmsNorm::load(&loader, &at("post_attention_layernorm"), d_model, epsilon)?,
            gate: linear(at("mlp.gate_proj"), [d_model, d_mlp], variant.mlp_bias)?,
            up: linear(at("mlp.up_proj"), [d_model, d_mlp], variant.mlp_bias)?,
            down: linear(at("mlp.down_proj"), [d_mlp, d_model], variant.mlp_bias)?,
            visibility: match variant.window {
                Some((window, first)) if layer >= first => Visibility::Window(window),
                _ => Visibility::Causal,
            },
        });
    }
    let norm = RmsNorm::load(&loader, "model.norm", d_model, epsilon)?;
    let head = if tied_head { None } else { Some(loader.matrix("lm_head.weight", [vocab_size, d_model])?) };
    let attention = Attention::of(&shape);
    let spec = shape.spec(config, name, module_names(tied_head), WeightLayout::OutIn, tied_head);
    let network = Llama { embedding, blocks, norm, head, unit_head: variant.unit_head, positions, attention, activation };
    Ok(Box::new(Decoder { spec, tokenizer, device: device.clone(), learned_positions: false, network }))
}

/// What all blocks of a pass share.
#[allow(clippy::large_enum_variant, reason = "there is one per pass")]
enum Shared {
    /// Rotations of queries (with the scale of the scores) and of keys.
    Rotations(Rotations),
    /// What is added to the scores, the causal mask with it: `[rows, heads, width, slots]`.
    Bias(Tensor<4>),
}

impl Network for Llama {
    type Shared = Shared;

    fn embed_ids(&self, pass: &Pass) -> Tensor<2> {
        self.embedding.clone().select(0, pass.ids_tensor())
    }

    fn shared(&self, pass: &Pass) -> Shared {
        match &self.positions {
            Positions::Rotary(rotary) => Shared::Rotations(rotary.for_attention(pass.positions(), self.attention.scale())),
            Positions::Alibi(alibi) => Shared::Bias(alibi.bias(pass)),
        }
    }

    fn block(&self, layer: usize, hidden: Tensor<2>, shared: &Shared, pass: &mut Pass, probe: &mut dyn Probe) -> Tensor<2> {
        let block = &self.blocks[layer];
        let site = |module| Site::new(layer, module);
        let hidden = probe.at(site(Module::BlockInput), hidden);
        let normed = block.input_norm.forward(hidden.clone());
        let [query, key, value] = block.projections.forward(normed, &self.attention);
        let (query, key, mask) = match shared {
            Shared::Rotations(turn) => (turn.query.apply(query), turn.key.apply(key), pass.mask(block.visibility)),
            Shared::Bias(bias) => (query.mul_scalar(self.attention.scale()), key, Some(bias.clone())),
        };
        let mixed = self.attention.attend(layer, query, key, value, mask, pass);
        let hidden = hidden + probe.at(site(Module::AttentionOutput), block.output.forward(mixed));
        let normed = block.post_attention_norm.forward(hidden.clone());
        let key = self.activation.gated(block.gate.forward(normed.clone()), block.up.forward(normed));
        let key = probe.at(site(Module::MlpKey), key);
        if probe.ends_at(site(Module::MlpKey)) {
            return hidden;
        }
        let hidden = hidden + probe.at(site(Module::MlpOutput), block.down.forward(key));
        probe.at(site(Module::BlockOutput), hidden)
    }

    fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let logits = weight_product(self.norm.forward(hidden), head, WeightLayout::OutIn);
        if !self.unit_head {
            return logits;
        }
        // The parameter stays as it is stored; a column of the logits is divided by the length of its row instead. In parts, because
        // squares of the whole head would take as much memory as the head.
        let [rows, _] = head.dims();
        let parts = (0..rows).step_by(ROWS_AT_ONCE).map(|start| {
            let rows = head.clone().narrow(0, start, ROWS_AT_ONCE.min(rows - start));
            (rows.clone() * rows).sum_dim(1).sqrt().clamp_min(SHORTEST_ROW)
        });
        logits / Tensor::cat(parts.collect(), 0).transpose()
    }
}
