//! GPT-2: pre-norm blocks with learned positions, fused query-key-value projections and weights stored `[in, out]`.

use easyedit_core::{LanguageModel, Visibility, WeightLayout};
use serde_json::json;

use crate::activation::Activation;
use crate::attention::Attention;
use crate::block::{Biases, BlockForm, BlockNames, NormPlace};
use crate::decoder_only::{DecoderNames, HeadForm, Plan, PositionKind};
use crate::families::{Family, ModelSource};
use crate::mlp_in::MlpInNames;
use crate::norm::NormKind;
use crate::projections::ProjectionNames;
use crate::shape::ShapeKeys;
use crate::{Result, Shape};

pub(crate) static FAMILY: Family = Family {
    name: "GPT-2",
    model_types: &["gpt2"],
    description: "GPT-2 small to XL and DistilGPT-2",
    base: NAMES.base,
    modules: |tied_head| NAMES.modules(tied_head),
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

const NAMES: DecoderNames = DecoderNames {
    base: "transformer.",
    tokens: "transformer.wte",
    positions: "transformer.wpe",
    blocks: "transformer.h",
    block: BlockNames {
        attention_norm: "ln_1",
        projections: ProjectionNames::Fused("attn.c_attn"),
        attention_out: "attn.c_proj",
        relative_bias: None,
        cross_attention: None,
        mlp_norm: Some("ln_2"),
        mlp_in: MlpInNames::Plain("mlp.c_fc"),
        mlp_out: "mlp.c_proj",
        norms_last: false,
    },
    attention: "attn",
    mlp: "mlp",
    norm: "transformer.ln_f",
    head: "lm_head",
};

/// Loads a model of the family.
fn load(source: ModelSource<'_>) -> Result<Box<dyn LanguageModel>> {
    let config = source.config;
    let shape = Shape::read(config, &FAMILY.keys)?;
    let attention = Attention::of(&shape);
    let activation = Activation::of(config, "activation_function", "gelu_new")?;
    let scale = if config.flag_or("scale_attn_weights", true)? { attention.scale() } else { 1.0 };
    let scaled_by_layer = config.flag_or("scale_attn_by_inverse_layer_idx", false)?;
    let form = |layer: usize| BlockForm {
        attention,
        visibility: Visibility::Causal,
        query_scale: if scaled_by_layer { scale / (layer + 1) as f64 } else { scale },
        activation,
        norms: NormPlace::Before,
        parallel: false,
    };
    let plan = Plan {
        names: NAMES,
        shape,
        forms: (0..shape.n_layers).map(form).collect(),
        positions: PositionKind::Learned { unused: 0 },
        layout: WeightLayout::InOut,
        biases: Biases::ALL,
        norms: NormKind::Layer { epsilon: config.positive_or("layer_norm_epsilon", 1e-5)?, affine: true },
        final_norm: true,
        head: HeadForm::plain(config.flag_or("tie_word_embeddings", true)?),
    };
    plan.load(source)
}
