//! ChatGLM2 and ChatGLM3: pre-norm blocks with grouped queries, rotary positions on half of each head and a fused gated MLP.

use burn::tensor::{Device, Tensor};
use easyedit_core::{LanguageModel, Module, ModuleNames, Pass, Probe, Site, Visibility, WeightLayout, weight_product};
use serde_json::{Value, json};

use crate::activation::Activation;
use crate::attention::Attention;
use crate::decoder::{Decoder, Network};
use crate::families::{Family, ModelSource, check_tokenizer};
use crate::linear::Linear;
use crate::loader::Loader;
use crate::norm::RmsNorm;
use crate::parameters::parameters;
use crate::rotary::{Pairing, Rotary, RotaryShape, Rotations};
use crate::shape::ShapeKeys;
use crate::{Error, ModelConfig, Result, Shape};

pub(crate) static FAMILY: Family = Family {
    name: "ChatGLM",
    model_types: &["chatglm"],
    description: "ChatGLM2 and ChatGLM3",
    base: "",
    modules: module_names,
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

/// Names of the family's modules.
fn module_names(tied_head: bool) -> ModuleNames {
    ModuleNames {
        layer: "transformer.encoder.layers.{}".into(),
        mlp: "transformer.encoder.layers.{}.mlp".into(),
        mlp_out: "transformer.encoder.layers.{}.mlp.dense_4h_to_h".into(),
        attention: "transformer.encoder.layers.{}.self_attention".into(),
        final_norm: "transformer.encoder.final_layernorm".into(),
        lm_head: if tied_head { "transformer.embedding.word_embeddings" } else { "transformer.output_layer" }.into(),
    }
}

#[derive(Clone)]
struct ChatGlm {
    embedding: Tensor<2>,
    blocks: Vec<Block>,
    norm: Option<RmsNorm>,
    /// `None` when the head is the embedding.
    head: Option<Tensor<2>>,
    rotary: Rotary,
    attention: Attention,
}

parameters!(ChatGlm {
    "transformer.embedding.word_embeddings.weight" => embedding,
    "transformer.encoder.layers" => blocks,
    "transformer.encoder.final_layernorm" => norm,
    "transformer.output_layer.weight" => head,
});

#[derive(Clone)]
struct Block {
    input_norm: RmsNorm,
    query_key_value: Linear,
    output: Linear,
    post_attention_norm: RmsNorm,
    /// The gate's rows, then those of what it gates.
    gate_up: Linear,
    down: Linear,
    d_mlp: usize,
}

parameters!(Block {
    "input_layernorm" => input_norm,
    "self_attention.query_key_value" => query_key_value,
    "self_attention.dense" => output,
    "post_attention_layernorm" => post_attention_norm,
    "mlp.dense_h_to_4h" => gate_up,
    "mlp.dense_4h_to_h" => down,
});

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
    let ModelSource { config, name, tensors, tokenizer, device } = source;
    check(config)?;
    let kv_heads = if config.flag_or("multi_query_attention", false)? { FAMILY.keys.kv_heads } else { None };
    let shape = Shape::read(config, &ShapeKeys { kv_heads, ..FAMILY.keys })?;
    let Shape { vocab_size, d_model, d_mlp, n_layers, heads, kv_heads, head_dim, .. } = shape;
    check_tokenizer(config, &tokenizer, vocab_size)?;
    let tied_head = config.flag_or("tie_word_embeddings", false)?;
    let epsilon = config.positive_or("layernorm_epsilon", 1e-5)?;
    let qkv_bias = config.flag_or("add_qkv_bias", false)?;

    let loader = Loader::new(tensors, device, FAMILY.base);
    let linear = |name: String, shape, bias| loader.linear(&name, shape, bias, WeightLayout::OutIn);
    let embedding = loader.matrix("transformer.embedding.word_embeddings.weight", [vocab_size, d_model])?;
    let mut blocks = Vec::new();
    for layer in 0..n_layers {
        let at = |module: &str| format!("transformer.encoder.layers.{layer}.{module}");
        let d_fused = (heads + 2 * kv_heads) * head_dim;
        blocks.push(Block {
            input_norm: RmsNorm::load(&loader, &at("input_layernorm"), d_model, epsilon)?,
            query_key_value: linear(at("self_attention.query_key_value"), [d_model, d_fused], qkv_bias)?,
            output: linear(at("self_attention.dense"), [heads * head_dim, d_model], false)?,
            post_attention_norm: RmsNorm::load(&loader, &at("post_attention_layernorm"), d_model, epsilon)?,
            gate_up: linear(at("mlp.dense_h_to_4h"), [d_model, 2 * d_mlp], false)?,
            down: linear(at("mlp.dense_4h_to_h"), [d_mlp, d_model], false)?,
            d_mlp,
        });
    }
    let norm = match config.flag_or("post_layer_norm", true)? {
        true => Some(RmsNorm::load(&loader, "transformer.encoder.final_layernorm", d_model, epsilon)?),
        false => None,
    };
    let head = if tied_head { None } else { Some(loader.matrix("transformer.output_layer.weight", [vocab_size, d_model])?) };
    let rotary = read_rotary(config, head_dim, device)?;
    let spec = shape.spec(config, name, module_names(tied_head), WeightLayout::OutIn, tied_head);
    let network = ChatGlm { embedding, blocks, norm, head, rotary, attention: Attention::of(&shape) };
    Ok(Box::new(Decoder { spec, tokenizer, device: device.clone(), learned_positions: false, network }))
}

impl Network for ChatGlm {
    type Shared = Rotations;

    fn embed_ids(&self, pass: &Pass) -> Tensor<2> {
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
        let [query, key, value] = self.attention.fused(&block.query_key_value, normed);
        let mask = pass.mask(Visibility::Causal);
        let mixed = self.attention.attend(layer, shared.query.apply(query), shared.key.apply(key), value, mask, pass);
        let hidden = hidden + probe.at(site(Module::AttentionOutput), block.output.forward(mixed));
        let normed = block.post_attention_norm.forward(hidden.clone());
        let part = |start| block.gate_up.forward_part(normed.clone(), start, block.d_mlp);
        let key = probe.at(site(Module::MlpKey), Activation::Silu.gated(part(0), part(block.d_mlp)));
        if probe.ends_at(site(Module::MlpKey)) {
            return hidden;
        }
        let hidden = hidden + probe.at(site(Module::MlpOutput), block.down.forward(key));
        probe.at(site(Module::BlockOutput), hidden)
    }

    fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let hidden = match &self.norm {
            Some(norm) => norm.forward(hidden),
            None => hidden,
        };
        weight_product(hidden, head, WeightLayout::OutIn)
    }
}
