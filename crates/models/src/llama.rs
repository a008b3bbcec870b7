//! LLaMA and its kin: pre-norm blocks with rotary positions, grouped-query attention and a gated MLP.

use burn::tensor::{Device, Tensor};
use easyedit_core::{LanguageModel, Module, ModuleNames, Pass, Probe, Site, Tokenizer, Visibility, WeightLayout};
use serde_json::json;

use crate::activation::Activation;
use crate::attention::Attention;
use crate::decoder::{Decoder, Network};
use crate::families::{Family, check_tokenizer};
use crate::linear::Linear;
use crate::loader::Loader;
use crate::norm::RmsNorm;
use crate::parameters::parameters;
use crate::rotary::{Rotary, RotaryShape, Rotations};
use crate::shape::ShapeKeys;
use crate::{ModelConfig, Result, Shape, TensorSource};

pub(crate) static FAMILY: Family = Family {
    name: "LLaMA",
    model_types: &["llama", "mistral", "qwen2"],
    description: "Llama 1 to 3, SmolLM, Mistral (sliding window), Qwen2 and Qwen2.5",
    base: BASE,
    modules: module_names,
    load,
    keys: ShapeKeys {
        vocab_size: "vocab_size",
        d_model: "hidden_size",
        d_mlp: "intermediate_size",
        d_mlp_factor: None,
        n_layers: "num_hidden_layers",
        heads: "num_attention_heads",
        kv_heads: Some("num_key_value_heads"),
        head_dim: Some("head_dim"),
        max_positions: "max_position_embeddings",
    },
    new_config: |model_type| {
        let (architecture, tied) = match model_type {
            "mistral" => ("MistralForCausalLM", false),
            "qwen2" => ("Qwen2ForCausalLM", true),
            _ => ("LlamaForCausalLM", false),
        };
        json!({"architectures": [architecture], "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": tied})
    },
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
    rotary: Rotary,
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
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    post_attention_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    visibility: Visibility,
}

parameters!(Block {
    "input_layernorm" => input_norm,
    "self_attn.q_proj" => query,
    "self_attn.k_proj" => key,
    "self_attn.v_proj" => value,
    "self_attn.o_proj" => output,
    "post_attention_layernorm" => post_attention_norm,
    "mlp.gate_proj" => gate,
    "mlp.up_proj" => up,
    "mlp.down_proj" => down,
});

/// Where the members of the family differ.
struct Variant {
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
    /// The window, and the first layer that has it.
    window: Option<(usize, usize)>,
}

impl Variant {
    fn of(config: &ModelConfig) -> Result<Self> {
        let plain = Self { qkv_bias: false, output_bias: false, mlp_bias: false, window: None };
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
            _ => {
                let bias = config.flag_or("attention_bias", false)?;
                Self { qkv_bias: bias, output_bias: bias, mlp_bias: config.flag_or("mlp_bias", false)?, ..plain }
            }
        })
    }
}

/// Loads a model of the family.
fn load(
    config: &ModelConfig,
    name: &str,
    tensors: &dyn TensorSource,
    tokenizer: Tokenizer,
    device: &Device,
) -> Result<Box<dyn LanguageModel>> {
    let shape = Shape::read(config, &FAMILY.keys)?;
    let Shape { vocab_size, d_model, d_mlp, n_layers, heads, kv_heads, head_dim, .. } = shape;
    check_tokenizer(config, &tokenizer, vocab_size)?;
    let tied_head = config.flag_or("tie_word_embeddings", false)?;
    let epsilon = config.positive_or("rms_norm_eps", 1e-6)?;
    let variant = Variant::of(config)?;
    let activation = Activation::of(config, "hidden_act", "silu")?;
    let rotary = Rotary::of(config, &RotaryShape::whole(head_dim), device)?;

    let loader = Loader::new(tensors, device, BASE);
    let linear = |name: String, shape, bias| loader.linear(&name, shape, bias, WeightLayout::OutIn);
    let embedding = loader.matrix("model.embed_tokens.weight", [vocab_size, d_model])?;
    let mut blocks = Vec::new();
    for layer in 0..n_layers {
        let at = |module: &str| format!("model.layers.{layer}.{module}");
        let (d_query, d_key) = (heads * head_dim, kv_heads * head_dim);
        blocks.push(Block {
            input_norm: RmsNorm::load(&loader, &at("input_layernorm"), d_model, epsilon)?,
            query: linear(at("self_attn.q_proj"), [d_model, d_query], variant.qkv_bias)?,
            key: linear(at("self_attn.k_proj"), [d_model, d_key], variant.qkv_bias)?,
            value: linear(at("self_attn.v_proj"), [d_model, d_key], variant.qkv_bias)?,
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
    let network = Llama { embedding, blocks, norm, head, rotary, attention, activation };
    Ok(Box::new(Decoder { spec, tokenizer, device: device.clone(), learned_positions: false, network }))
}

impl Network for Llama {
    type Shared = Rotations;

    fn embed(&self, pass: &Pass) -> Tensor<2> {
        self.embedding.clone().select(0, pass.ids_tensor())
    }

    fn shared(&self, pass: &Pass) -> Rotations {
        self.rotary.for_attention(pass.positions(), self.attention.scale())
    }

    fn block(&self, layer: usize, hidden: Tensor<2>, shared: &Rotations, pass: &mut Pass, probe: &mut dyn Probe) -> Tensor<2> {
        let block = &self.blocks[layer];
        let site = |module| Site::new(layer, module);
        let hidden = probe.at(site(Module::BlockInput), hidden);
        let normed = block.input_norm.forward(hidden.clone());
        let query = shared.query.apply(block.query.forward(normed.clone()));
        let key = shared.key.apply(block.key.forward(normed.clone()));
        let value = block.value.forward(normed);
        let mask = pass.mask(block.visibility);
        let mixed = self.attention.attend(layer, query, key, value, mask, pass);
        let hidden = hidden + probe.at(site(Module::AttentionOutput), block.output.forward(mixed));
        let normed = block.post_attention_norm.forward(hidden.clone());
        let key = self.activation.gated(block.gate.forward(normed.clone()), block.up.forward(normed));
        let key = probe.at(site(Module::MlpKey), key);
        let hidden = hidden + probe.at(site(Module::MlpOutput), block.down.forward(key));
        probe.at(site(Module::BlockOutput), hidden)
    }

    fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        self.norm.forward(hidden).matmul(head.clone().transpose())
    }
}
