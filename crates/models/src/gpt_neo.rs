//! GPT-Neo: GPT-2's blocks with unscaled attention, which in every other layer sees a window of the nearest tokens only.

use easyedit_core::{LanguageModel, Visibility, WeightLayout};
use serde_json::{Value, json};

use crate::activation::Activation;
use crate::attention::Attention;
use crate::block::{Biases, BlockForm, BlockNames, NormPlace};
use crate::decoder_only::{DecoderNames, HeadForm, Plan, PositionKind};
use crate::families::{Family, ModelSource};
use crate::mlp_in::MlpInNames;
use crate::norm::NormKind;
use crate::projections::ProjectionNames;
use crate::shape::ShapeKeys;
use crate::{ModelConfig, Result, Shape};

pub(crate) static FAMILY: Family = Family {
    name: "GPT-Neo",
    model_types: &["gpt_neo"],
    description: "GPT-Neo 125M to 2.7B and TinyStories",
    base: NAMES.base,
    modules: |tied_head| NAMES.modules(tied_head),
    load,
    keys: ShapeKeys {
        vocab_size: "vocab_size",
        d_model: "hidden_size",
        d_mlp: "intermediate_size",
        d_mlp_factor: Some(4),
        n_layers: "num_layers",
        heads: "num_heads",
        kv_heads: None,
        head_dim: None,
        max_positions: "max_position_embeddings",
    },
    new_config: |_| json!({"architectures": ["GPTNeoForCausalLM"], "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "window_size": 256}),
};

const NAMES: DecoderNames = DecoderNames {
    base: "transformer.",
    tokens: "transformer.wte",
    positions: "transformer.wpe",
    blocks: "transformer.h",
    block: BlockNames {
        attention_norm: "ln_1",
        projections: ProjectionNames::Separate(["attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"]),
        attention_out: "attn.attention.out_proj",
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
    let form = |visibility| BlockForm { attention, visibility, query_scale: 1.0, activation, norms: NormPlace::Before, parallel: false };
    let plan = Plan {
        names: NAMES,
        shape,
        forms: visibilities(config, shape.n_layers)?.into_iter().map(form).collect(),
        positions: PositionKind::Learned { unused: 0 },
        layout: WeightLayout::OutIn,
        biases: Biases { projections: false, attention_out: true, mlp: true },
        norms: NormKind::Layer { epsilon: config.positive_or("layer_norm_epsilon", 1e-5)?, affine: true },
        final_norm: true,
        head: HeadForm::plain(config.flag_or("tie_word_embeddings", true)?),
    };
    plan.load(source)
}

/// What each layer sees: as `attention_layers` lists them or `attention_types` counts them; if neither is there, all and a window
/// by turns.
fn visibilities(config: &ModelConfig, n_layers: usize) -> Result<Vec<Visibility>> {
    let window = Visibility::Window(config.optional_dimension("window_size")?.unwrap_or(256));
    let (key, names) = match (config.get("attention_layers"), config.get("attention_types")) {
        (Some(layers), _) => ("attention_layers", layers.as_array().cloned()),
        (None, Some(types)) => ("attention_types", counted(types, n_layers)),
        (None, None) => return Ok([Visibility::Causal, window].into_iter().cycle().take(n_layers).collect()),
    };
    let names = names.ok_or_else(|| config.error(key, "does not list kinds of attention, such as [[[\"global\", \"local\"], 12]]"))?;
    if names.len() != n_layers {
        return Err(config.error(key, format!("is about another number of layers than num_layers, {n_layers}")));
    }
    let visibility = |name: &Value| match name.as_str() {
        Some("global") => Ok(Visibility::Causal),
        Some("local") => Ok(window),
        _ => Err(config.error(key, format!("names the attention {name}; known are \"global\" and \"local\""))),
    };
    names.iter().map(visibility).collect()
}

/// The kinds in `[[kinds, count], ...]`, each list so many times; no further than just beyond `n_layers`.
fn counted(types: &Value, n_layers: usize) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    for group in types.as_array()? {
        let kinds = group.get(0)?.as_array()?;
        for _ in 0..group.get(1)?.as_u64()? {
            all.extend(kinds.iter().cloned());
            if kinds.is_empty() || all.len() > n_layers {
                break;
            }
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: Value) -> Result<Vec<Visibility>> {
        let mut config = json!({"model_type": "gpt_neo", "window_size": 7});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        visibilities(&ModelConfig::new(config, "config.json").unwrap(), 3)
    }

    #[test]
    fn attention_is_read_from_either_key() {
        let (all, near) = (Visibility::Causal, Visibility::Window(7));
        assert_eq!(read(json!({})).unwrap(), [all, near, all]);
        assert_eq!(read(json!({"attention_layers": ["local", "global", "global"]})).unwrap(), [near, all, all]);
        assert_eq!(read(json!({"attention_types": [[["local", "global"], 1], [["local"], 1]]})).unwrap(), [near, all, near]);
    }

    #[test]
    fn lists_that_do_not_fit_are_errors() {
        let far = u64::MAX;
        for (key, value) in [
            ("attention_types", json!([[["global", "local"], 2]])),
            ("attention_types", json!([[["global", "local"], far]])),
            ("attention_types", json!([[[], far]])),
            ("attention_types", json!("global")),
            ("attention_types", json!([["global", 3]])),
            ("attention_layers", json!(["global"])),
            ("attention_layers", json!(["global", "local", "sideways"])),
            ("attention_layers", json!({"0": "global"})),
        ] {
            let message = read(json!({key: value})).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }
}
