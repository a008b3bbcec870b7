//! GPT-NeoX: attention and MLP side by side, each on its own norm, partly rotary positions, and a projection to queries, keys and
//! values that is fused head by head.

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
use crate::rotary::{Pairing, Rotary, RotaryShape};
use crate::shape::ShapeKeys;
use crate::{Result, Shape};

pub(crate) static FAMILY: Family = Family {
    name: "GPT-NeoX",
    model_types: &["gpt_neox"],
    description: "Pythia, GPT-NeoX 20B, Dolly 2 and RedPajama-INCITE",
    base: NAMES.base,
    modules: |tied_head| NAMES.modules(tied_head),
    load,
    keys: ShapeKeys {
        vocab_size: "vocab_size",
        d_model: "hidden_size",
        d_mlp: "intermediate_size",
        d_mlp_factor: None,
        n_layers: "num_hidden_layers",
        heads: "num_attention_heads",
        kv_heads: None,
        head_dim: None,
        max_positions: "max_position_embeddings",
    },
    new_config: |_| {
        json!({"architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rotary_pct": 1.0,
               "rotary_emb_base": 10_000, "use_parallel_residual": true, "tie_word_embeddings": false})
    },
};

const NAMES: DecoderNames = DecoderNames {
    base: "gpt_neox.",
    tokens: "gpt_neox.embed_in",
    positions: "",
    blocks: "gpt_neox.layers",
    block: BlockNames {
        attention_norm: "input_layernorm",
        projections: ProjectionNames::FusedByHead("attention.query_key_value"),
        attention_out: "attention.dense",
        relative_bias: None,
        cross_attention: None,
        mlp_norm: Some("post_attention_layernorm"),
        mlp_in: MlpInNames::Plain("mlp.dense_h_to_4h"),
        mlp_out: "mlp.dense_4h_to_h",
        norms_last: false,
    },
    attention: "attention",
    mlp: "mlp",
    norm: "gpt_neox.final_layer_norm",
    head: "embed_out",
};

/// Loads a model of the family.
fn load(source: ModelSource<'_>) -> Result<Box<dyn LanguageModel>> {
    let config = source.config;
    let shape = Shape::read(config, &FAMILY.keys)?;
    let attention = Attention::of(&shape);
    let share = config.positive_or("rotary_pct", 0.25)?;
    if share > 1.0 {
        return Err(config.error("rotary_pct", format!("is {share}, more than the whole of a head, 1")));
    }
    let rotated = (shape.head_dim as f64 * share) as usize;
    if rotated == 0 || !rotated.is_multiple_of(2) {
        let message = format!("is {share}, which makes {rotated} of a head's {} dimensions; it has to be an even number", shape.head_dim);
        return Err(config.error("rotary_pct", message));
    }
    // The older key; where a configuration has both, transformers heeds this one.
    let theta_key = if config.get("rotary_emb_base").is_some() { "rotary_emb_base" } else { "rope_theta" };
    let rotary_shape = RotaryShape { head_dim: shape.head_dim, rotated, pairing: Pairing::Halves, theta_key };
    let rotary = Rotary::of(config, &rotary_shape, source.device)?;
    let form = BlockForm {
        attention,
        visibility: Visibility::Causal,
        query_scale: 1.0,
        activation: Activation::of(config, "hidden_act", "gelu")?,
        norms: NormPlace::Before,
        parallel: config.flag_or("use_parallel_residual", true)?,
    };
    let attention_bias = config.flag_or("attention_bias", true)?;
    let plan = Plan {
        names: NAMES,
        shape,
        forms: vec![form; shape.n_layers],
        positions: PositionKind::Rotary(Box::new(rotary)),
        layout: WeightLayout::OutIn,
        biases: Biases { projections: attention_bias, attention_out: attention_bias, mlp: true },
        norms: NormKind::Layer { epsilon: config.positive_or("layer_norm_eps", 1e-5)?, affine: true },
        final_norm: true,
        head: HeadForm::plain(config.flag_or("tie_word_embeddings", false)?),
    };
    plan.load(source)
}
