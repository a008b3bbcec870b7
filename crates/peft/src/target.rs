//! Which weights adapters can change, and how those are stored.

use easyedit_core::{LanguageModel, ModelSpec, ParamName, ParameterRole, WeightLayout, nearest_name};

/// Ending of a weight's name.
const WEIGHT: &str = ".weight";

/// A module whose weight an adapter can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its name in the model.
    pub(crate) module: String,
    /// How its weight is stored.
    pub(crate) layout: WeightLayout,
    /// Width of its input.
    pub(crate) d_in: usize,
    /// Width of its output.
    pub(crate) d_out: usize,
}

impl Target {
    /// The linear module whose weight is `name`; otherwise, in words, what the parameter is instead.
    pub(crate) fn of(spec: &ModelSpec, name: &ParamName) -> Result<Self, String> {
        let what = match spec.parameter(name) {
            Err(error) => return Err(error.to_string()),
            Ok(parameter) => match (parameter.role, parameter.layout, parameter.widths()) {
                (ParameterRole::Linear(_) | ParameterRole::Head, Some(layout), Some([d_in, d_out])) => {
                    let module = name.as_str().trim_end_matches(WEIGHT).to_owned();
                    return Ok(Self { module, layout, d_in, d_out });
                }
                (ParameterRole::TokenEmbedding, Some(_), _) => {
                    "is the embedding and the head at once, of which an adapter changes only one"
                }
                (ParameterRole::NormWeight(_), ..) => "is a vector",
                _ if parameter.is_matrix() => "is a table, not the weight of a linear module",
                _ => "is not the weight of a module",
            },
        };
        Err(format!("{what}; adapters change linear modules only; write the edited model itself instead (`easyedit apply`)"))
    }
}

/// The weight of the module that an adapter calls `module`: of that name, or the only one whose name ends in it (adapters made for a model
/// without its head leave out what all names begin with).
pub(crate) fn weight_of(model: &dyn LanguageModel, module: &str) -> Result<ParamName, String> {
    let names = model.parameter_names();
    let wanted = format!("{module}{WEIGHT}");
    if let Some(name) = names.iter().find(|name| name.as_str() == wanted) {
        return Ok(name.clone());
    }
    let ending = format!(".{wanted}");
    let found: Vec<&ParamName> = names.iter().filter(|name| name.as_str().ends_with(&ending)).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            // Compared without what the adapter may have left out.
            let near = nearest_name(&wanted, names.iter().map(|name| last_parts(name.as_str(), wanted.split('.').count())));
            let near = near.map(|near| near.trim_end_matches(WEIGHT));
            let hint = near.map(|near| format!(" (there is {near})")).unwrap_or_default();
            let name = &model.spec().name;
            Err(format!("{name} has no such module{hint}; give the model the adapter was trained on"))
        }
        several => Err(format!("could be any of {} modules; give the model the adapter was trained on", several.len())),
    }
}

/// The last `count` parts of a dotted name.
fn last_parts(name: &str, count: usize) -> &str {
    let start = name.rmatch_indices('.').nth(count.saturating_sub(1)).map_or(0, |(at, _)| at + 1);
    name.get(start..).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use easyedit_models::tiny::tiny_model;

    use super::*;

    fn target(family: &str, name: &str) -> Result<Target, String> {
        let model = tiny_model(family, 1).unwrap();
        Target::of(model.spec(), &ParamName::from(name))
    }

    #[test]
    fn projections_and_heads_of_their_own_are_targets() {
        let gpt2 = target("gpt2", "transformer.h.1.mlp.c_fc.weight").unwrap();
        assert_eq!((gpt2.layout, gpt2.d_in, gpt2.d_out), (WeightLayout::InOut, 32, 64));
        let llama = target("llama", "model.layers.1.mlp.up_proj.weight").unwrap();
        assert_eq!((llama.layout, llama.d_in, llama.d_out), (WeightLayout::OutIn, 32, 64));
        assert_eq!(target("llama", "lm_head.weight").unwrap().d_out, 260);
        assert_eq!(target("t5", "encoder.block.0.layer.0.SelfAttention.q.weight").unwrap().d_in, 32);
    }

    #[test]
    fn everything_else_is_told_apart() {
        for (family, name, what) in [
            ("gpt2", "transformer.wte.weight", "at once"),
            ("gpt2", "transformer.wpe.weight", "table"),
            ("gpt2", "transformer.h.1.ln_1.weight", "vector"),
            ("gpt2", "transformer.h.1.mlp.c_fc.bias", "not the weight"),
            ("llama", "model.embed_tokens.weight", "table"),
            ("t5", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "table"),
        ] {
            let message = target(family, name).unwrap_err();
            assert!(message.contains(what) && message.contains("easyedit apply"), "{name}: {message}");
        }
    }

    #[test]
    fn modules_are_found_with_and_without_the_prefix() {
        let model = tiny_model("gpt2", 1).unwrap();
        let whole = weight_of(&*model, "transformer.h.2.mlp.c_proj").unwrap();
        assert_eq!(weight_of(&*model, "h.2.mlp.c_proj").unwrap(), whole);
        assert!(weight_of(&*model, "c_proj").unwrap_err().contains("could be any of 6"));
        assert!(weight_of(&*model, "h.2.mlp.c_prj").unwrap_err().contains("c_proj"));
    }
}
