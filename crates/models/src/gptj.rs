//! GPT-J: attention and MLP side by side on one norm, rotary positions on the first dimensions of a head, and a head with a bias.

use easyedit_core::{LanguageModel, Visibility, WeightLayout};
use serde_json::json;

use crate::activation::Activation;
use crate::attention::Attention;
use crate::families::{Family, ModelSource};
use crate::plain_block::{BlockForm, BlockNames, ProjectionNames};
use crate::plain_decoder::{Biases, PlainNames, Plan, PositionKind};
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

static NAMES: PlainNames = PlainNames {
    base: "transformer.",
    tokens: "transformer.wte",
    positions: "",
    blocks: "transformer.h",
    block: BlockNames {
        input_norm: "ln_1",
        projections: ProjectionNames::Separate(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
        attention_out: "attn.out_proj",
        mlp_norm: None,
        mlp_in: "mlp.fc_in",
        mlp_out: "mlp.fc_out",
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
        parallel: true,
    };
    let plan = Plan {
        names: &NAMES,
        shape,
        forms: vec![form; shape.n_layers],
        positions: PositionKind::Rotary(&rotary),
        layout: WeightLayout::OutIn,
        biases: Biases { projections: false, attention_out: false, mlp: true, head: true },
        tied_head: config.flag_or("tie_word_embeddings", false)?,
        epsilon: config.positive_or("layer_norm_epsilon", 1e-5)?,
        affine_norms: true,
    };
    plan.load(source)
}
