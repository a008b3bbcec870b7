//! GPT-2: pre-norm blocks with learned positions, fused query-key-value projections and weights stored `[in, out]`.

use burn::tensor::{Device, Int, Tensor, TensorData};
use easyedit_core::{LanguageModel, Module, ModuleNames, Pass, Probe, Site, Tokenizer, Visibility, WeightLayout};
use serde_json::json;

use crate::activation::Activation;
use crate::attention::Attention;
use crate::decoder::{Decoder, Network};
use crate::families::{Family, check_tokenizer};
use crate::linear::Linear;
use crate::loader::Loader;
use crate::norm::LayerNorm;
use crate::parameters::parameters;
use crate::shape::ShapeKeys;
use crate::{ModelConfig, Result, Shape, TensorSource};

pub(crate) static FAMILY: Family = Family {
    name: "GPT-2",
    model_types: &["gpt2"],
    description: "GPT-2 small to XL and DistilGPT-2",
    base: BASE,
    modules: module_names,
    load,
    keys: ShapeKeys {
        vocab_size: "vocab_size",
        d_model: "n_embd",
        d_mlp: "n_inner",
        d_mlp_factor: Some(4),
        n_layers: "n_layer",
        heads: "n_head",
        kv_heads: None,
        head_dim: None,
        max_positions: "n_positions",
    },
    new_config: |_| json!({"architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}),
};

/// What parameter names begin with; the checkpoints on the Hub leave it out.
const BASE: &str = "transformer.";

/// Names of the family's modules.
fn module_names(tied_head: bool) -> ModuleNames {
    ModuleNames {
        layer: "transformer.h.{}".into(),
        mlp: "transformer.h.{}.mlp".into(),
        mlp_out: "transformer.h.{}.mlp.c_proj".into(),
        attention: "transformer.h.{}.attn".into(),
        final_norm: "transformer.ln_f".into(),
        lm_head: if tied_head { "transformer.wte" } else { "lm_head" }.into(),
    }
}

#[derive(Clone)]
struct Gpt2 {
    tokens: Tensor<2>,
    positions: Tensor<2>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    /// `None` when the head is the embedding.
    head: Option<Tensor<2>>,
    attention: Attention,
    activation: Activation,
}

parameters!(Gpt2 {
    "transformer.wte.weight" => tokens,
    "transformer.wpe.weight" => positions,
    "transformer.h" => blocks,
    "transformer.ln_f" => norm,
    "lm_head.weight" => head,
});

#[derive(Clone)]
struct Block {
    input_norm: LayerNorm,
    query_key_value: Linear,
    output: Linear,
    post_attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    /// Factor of the attention scores.
    scale: f64,
}

parameters!(Block {
    "ln_1" => input_norm,
    "attn.c_attn" => query_key_value,
    "attn.c_proj" => output,
    "ln_2" => post_attention_norm,
    "mlp.c_fc" => up,
    "mlp.c_proj" => down,
});

/// Loads a model of the family.
fn load(
    config: &ModelConfig,
    name: &str,
    tensors: &dyn TensorSource,
    tokenizer: Tokenizer,
    device: &Device,
) -> Result<Box<dyn LanguageModel>> {
    let shape = Shape::read(config, &FAMILY.keys)?;
    let Shape { vocab_size, d_model, d_mlp, n_layers, heads, kv_heads, head_dim, max_positions } = shape;
    check_tokenizer(config, &tokenizer, vocab_size)?;
    let tied_head = config.flag_or("tie_word_embeddings", true)?;
    let epsilon = config.positive_or("layer_norm_epsilon", 1e-5)?;
    let activation = Activation::of(config, "activation_function", "gelu_new")?;
    let scaled = config.flag_or("scale_attn_weights", true)?;
    let scaled_by_layer = config.flag_or("scale_attn_by_inverse_layer_idx", false)?;
    let attention = Attention { heads, kv_heads, head_dim };

    let loader = Loader::new(tensors, device, BASE);
    let linear = |name: String, shape| loader.linear(&name, shape, true, WeightLayout::InOut);
    let tokens = loader.matrix("transformer.wte.weight", [vocab_size, d_model])?;
    let positions = loader.matrix("transformer.wpe.weight", [max_positions, d_model])?;
    let mut blocks = Vec::new();
    for layer in 0..n_layers {
        let at = |module: &str| format!("transformer.h.{layer}.{module}");
        let scale = if scaled { attention.scale() } else { 1.0 };
        blocks.push(Block {
            input_norm: LayerNorm::load(&loader, &at("ln_1"), d_model, epsilon)?,
            query_key_value: linear(at("attn.c_attn"), [d_model, 3 * d_model])?,
            output: linear(at("attn.c_proj"), [d_model, d_model])?,
            post_attention_norm: LayerNorm::load(&loader, &at("ln_2"), d_model, epsilon)?,
            up: linear(at("mlp.c_fc"), [d_model, d_mlp])?,
            down: linear(at("mlp.c_proj"), [d_mlp, d_model])?,
            scale: if scaled_by_layer { scale / (layer + 1) as f64 } else { scale },
        });
    }
    let norm = LayerNorm::load(&loader, "transformer.ln_f", d_model, epsilon)?;
    let head = if tied_head { None } else { Some(loader.matrix("lm_head.weight", [vocab_size, d_model])?) };
    let spec = shape.spec(config, name, module_names(tied_head), WeightLayout::InOut, tied_head);
    let network = Gpt2 { tokens, positions, blocks, norm, head, attention, activation };
    Ok(Box::new(Decoder { spec, tokenizer, device: device.clone(), learned_positions: true, network }))
}

impl Network for Gpt2 {
    type Shared = ();

    fn embed(&self, pass: &Pass) -> Tensor<2> {
        let positions: Vec<i64> = pass.positions().iter().map(|position| *position as i64).collect();
        let count = positions.len();
        let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [count]), pass.device());
        self.tokens.clone().select(0, pass.ids_tensor()) + self.positions.clone().select(0, positions)
    }

    fn shared(&self, _: &Pass) {}

    fn block(&self, layer: usize, hidden: Tensor<2>, (): &(), pass: &mut Pass, probe: &mut dyn Probe) -> Tensor<2> {
        let block = &self.blocks[layer];
        let site = |module| Site::new(layer, module);
        let hidden = probe.at(site(Module::BlockInput), hidden);
        let normed = block.input_norm.forward(hidden.clone());
        let [_, width] = hidden.dims();
        // Three products with parts of the fused weight: slicing their joint result would cost copies here and in the gradient.
        let part = |index: usize| block.query_key_value.forward_part(normed.clone(), index * width, width);
        let mask = pass.mask(Visibility::Causal);
        let mixed = self.attention.attend(layer, part(0).mul_scalar(block.scale), part(1), part(2), mask, pass);
        let hidden = hidden + probe.at(site(Module::AttentionOutput), block.output.forward(mixed));
        let normed = block.post_attention_norm.forward(hidden.clone());
        let key = probe.at(site(Module::MlpKey), self.activation.forward(block.up.forward(normed)));
        let hidden = hidden + probe.at(site(Module::MlpOutput), block.down.forward(key));
        probe.at(site(Module::BlockOutput), hidden)
    }

    fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let head = self.head.as_ref().unwrap_or(&self.tokens);
        self.norm.forward(hidden).matmul(head.clone().transpose())
    }
}
