//! OPT: pre-norm blocks with learned positions, whose table begins with two rows of no position.

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
use crate::{Error, ModelConfig, Result, Shape};

pub(crate) static FAMILY: Family = Family {
    name: "OPT",
    model_types: &["opt"],
    description: "OPT 125M to 66B (all but the post-norm 350M) and Galactica",
    base: NAMES.base,
    modules: |tied_head| NAMES.modules(tied_head),
    load,
    keys: ShapeKeys {
        vocab_size: "vocab_size",
        d_model: "hidden_size",
        d_mlp: "ffn_dim",
        d_mlp_factor: None,
        n_layers: "num_hidden_layers",
        heads: "num_attention_heads",
        kv_heads: None,
        head_dim: None,
        max_positions: "max_position_embeddings",
    },
    new_config: |_| json!({"architectures": ["OPTForCausalLM"], "activation_function": "relu", "do_layer_norm_before": true}),
};

const NAMES: DecoderNames = DecoderNames {
    base: "model.",
    tokens: "model.decoder.embed_tokens",
    positions: "model.decoder.embed_positions",
    blocks: "model.decoder.layers",
    block: BlockNames {
        attention_norm: "self_attn_layer_norm",
        projections: ProjectionNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        attention_out: "self_attn.out_proj",
        relative_bias: None,
        cross_attention: None,
        mlp_norm: Some("final_layer_norm"),
        mlp_in: MlpInNames::Plain("fc1"),
        mlp_out: "fc2",
        norms_last: false,
    },
    attention: "self_attn",
    mlp: "",
    norm: "model.decoder.final_layer_norm",
    head: "lm_head",
};

/// Rows of the table of positions before that of the first.
const UNUSED_POSITIONS: usize = 2;

/// Loads a model of the family.
fn load(source: ModelSource<'_>) -> Result<Box<dyn LanguageModel>> {
    let config = source.config;
    let shape = Shape::read(config, &FAMILY.keys)?;
    let attention = Attention::of(&shape);
    check_supported(config, &shape)?;
    let form = BlockForm {
        attention,
        visibility: Visibility::Causal,
        query_scale: attention.scale(),
        activation: Activation::of(config, "activation_function", "relu")?,
        norms: NormPlace::Before,
        parallel: false,
    };
    let bias = config.flag_or("enable_bias", true)?;
    let plan = Plan {
        names: NAMES,
        shape,
        forms: vec![form; shape.n_layers],
        positions: PositionKind::Learned { unused: UNUSED_POSITIONS },
        layout: WeightLayout::OutIn,
        biases: Biases { projections: bias, attention_out: bias, mlp: bias },
        norms: NormKind::Layer { epsilon: 1e-5, affine: config.flag_or("layer_norm_elementwise_affine", true)? },
        final_norm: true,
        head: HeadForm::plain(config.flag_or("tie_word_embeddings", true)?),
    };
    plan.load(source)
}

/// Refuses the 350M model's forms: behind a norm, the output of a block is no sum of what its parts add to the residual stream.
fn check_supported(config: &ModelConfig, shape: &Shape) -> Result<()> {
    let refused = |what: String| {
        let way_out = "the 350M model is of that kind; use any other size, such as facebook/opt-125m or facebook/opt-1.3b";
        Err(Error::Unsupported(format!("{}: OPT with {what} is not supported; {way_out}", config.origin().display())))
    };
    if !config.flag_or("do_layer_norm_before", true)? {
        return refused("do_layer_norm_before false (norms behind attention and MLP)".into());
    }
    if config.flag_or("_remove_final_layer_norm", false)? {
        return refused("_remove_final_layer_norm true (no final norm)".into());
    }
    match config.optional_dimension("word_embed_proj_dim")? {
        Some(width) if width != shape.d_model => {
            refused(format!("word_embed_proj_dim {width} (embeddings narrower or wider than hidden_size, {})", shape.d_model))
        }
        _ => Ok(()),
    }
}
