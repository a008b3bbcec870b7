//! LLaMA and its kin: pre-norm blocks with rotary positions, grouped-query attention and a gated MLP.

use burn::tensor::{Device, Tensor};
use easyedit_core::{LanguageModel, ModelSpec, Module, ModuleNames, Pass, Probe, Site, Tokenizer, WeightLayout};

use crate::activation::Activation;
use crate::attention::Attention;
use crate::decoder::{Decoder, Network};
use crate::families::check_tokenizer;
use crate::linear::Linear;
use crate::loader::Loader;
use crate::norm::RmsNorm;
use crate::parameters::parameters;
use crate::rotary::{Rotary, Rotation};
use crate::{ModelConfig, Result, TensorSource};

/// What parameter names begin with, unless the checkpoint is of the headless model.
pub(crate) const BASE: &str = "model.";

/// Names of the family's modules.
pub(crate) fn module_names(tied_head: bool) -> ModuleNames {
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
    /// How far back tokens are seen, themselves included; `None` for all the way.
    window: Option<usize>,
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
pub(crate) fn load(
    config: &ModelConfig,
    name: &str,
    tensors: &dyn TensorSource,
    tokenizer: Tokenizer,
    device: &Device,
) -> Result<Box<dyn LanguageModel>> {
    let d_model = config.dimension("hidden_size")?;
    let d_mlp = config.dimension("intermediate_size")?;
    let n_layers = config.dimension("num_hidden_layers")?;
    let heads = config.dimension("num_attention_heads")?;
    let kv_heads = config.optional_dimension("num_key_value_heads")?.unwrap_or(heads);
    config.divide("num_attention_heads", heads, "num_key_value_heads", kv_heads)?;
    let head_dim = match config.optional_dimension("head_dim")? {
        Some(head_dim) => head_dim,
        None => config.divide("hidden_size", d_model, "num_attention_heads", heads)?,
    };
    let vocab_size = config.table_rows("vocab_size")?;
    check_tokenizer(config, &tokenizer, vocab_size)?;
    let tied_head = config.flag_or("tie_word_embeddings", false)?;
    let epsilon = config.positive_or("rms_norm_eps", 1e-6)?;
    let variant = Variant::of(config)?;
    let activation = Activation::of(config, "hidden_act", "silu")?;
    let rotary = Rotary::of(config, head_dim, device)?;
    let max_positions = config.table_rows("max_position_embeddings")?;

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
            window: variant.window.filter(|(_, first)| layer >= *first).map(|(window, _)| window),
        });
    }
    let norm = RmsNorm::load(&loader, "model.norm", d_model, epsilon)?;
    let head = if tied_head { None } else { Some(loader.matrix("lm_head.weight", [vocab_size, d_model])?) };
    let attention = Attention { heads, kv_heads, head_dim };
    let spec = ModelSpec {
        family: config.model_type().to_owned(),
        name: name.to_owned(),
        n_layers,
        d_model,
        d_mlp,
        vocab_size,
        max_positions,
        modules: module_names(tied_head),
        mlp_out_layout: WeightLayout::OutIn,
        tied_head,
    };
    let network = Llama { embedding, blocks, norm, head, rotary, attention, activation };
    Ok(Box::new(Decoder { spec, tokenizer, device: device.clone(), learned_positions: false, network }))
}

/// Rotations of queries (with the scale of the scores) and of keys.
struct Rotations {
    query: Rotation,
    key: Rotation,
}

impl Network for Llama {
    type Shared = Rotations;

    fn embed(&self, pass: &Pass) -> Tensor<2> {
        self.embedding.clone().select(0, pass.ids_tensor())
    }

    fn shared(&self, pass: &Pass) -> Rotations {
        Rotations { query: self.rotary.at(pass.positions(), self.attention.scale()), key: self.rotary.at(pass.positions(), 1.0) }
    }

    fn block(&self, layer: usize, hidden: Tensor<2>, shared: &Rotations, pass: &mut Pass, probe: &mut dyn Probe) -> Tensor<2> {
        let block = &self.blocks[layer];
        let site = |module| Site::new(layer, module);
        let hidden = probe.at(site(Module::BlockInput), hidden);
        let normed = block.input_norm.forward(hidden.clone());
        let query = shared.query.apply(block.query.forward(normed.clone()));
        let key = shared.key.apply(block.key.forward(normed.clone()));
        let value = block.value.forward(normed);
        let mixed = self.attention.attend(layer, query, key, value, block.window, pass);
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
