//! GPT-J: attention and MLP side by side on one norm, rotary positions on the first dimensions of a head, and a head with a bias.

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
    name: "GPT-J",
    model_types: &["gptj"],
    description: "GPT-J 6B and its finetunes",
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
    new_config: |_| {
        json!({"architectures": ["GPTJForCausalLM"], "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
               "rotary_dim": null, "tie_word_embeddings": false})
    },
};

const NAMES: DecoderNames = DecoderNames {
    base: "transformer.",
    tokens: "transformer.wte",
    positions: "",
    blocks: "transformer.h",
    block: BlockNames {
        attention_norm: "ln_1",
        projections: ProjectionNames::Separate(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
        attention_out: "attn.out_proj",
        relative_bias: None,
        cross_attention: None,
        mlp_norm: None,
        mlp_in: MlpInNames::Plain("mlp.fc_in"),
        mlp_out: "mlp.fc_out",
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
    let rotated = config.optional_dimension("rotary_dim")?.unwrap_or(shape.head_dim);
    if rotated > shape.head_dim || !rotated.is_multiple_of(2) {
        let message = format!("is {rotated}, not an even number of the {} dimensions of a head", shape.head_dim);
        return Err(config.error("rotary_dim", message));
    }
    let rotary_shape = RotaryShape { head_dim: shape.head_dim, rotated, pairing: Pairing::Neighbours, theta_key: "rope_theta" };
    let rotary = Rotary::of(config, &rotary_shape, source.device)?;
    let form = BlockForm {
        attention,
        visibility: Visibility::Causal,
        query_scale: 1.0,
        activation: Activation::of(config, "activation_function", "gelu_new")?,
        norms: NormPlace::Before,
        parallel: true,
    };
    let plan = Plan {
        names: NAMES,
        shape,
        forms: vec![form; shape.n_layers],
        positions: PositionKind::Rotary(Box::new(rotary)),
        layout: WeightLayout::OutIn,
        biases: Biases { projections: false, attention_out: false, mlp: true },
        norms: NormKind::Layer { epsilon: config.positive_or("layer_norm_epsilon", 1e-5)?, affine: true },
        final_norm: true,
        head: HeadForm { bias: true, ..HeadForm::plain(config.flag_or("tie_word_embeddings", false)?) },
    };
    plan.load(source)
}
