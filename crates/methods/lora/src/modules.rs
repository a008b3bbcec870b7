use std::collections::BTreeSet;

use easyedit_core::{Error, LanguageModel, ModelSpec, ParamName, Result};
use easyedit_kernels::layer_of;

/// Names that checkpoints give to the projections of queries and of values, and to one that holds both.
const QUERIES_AND_VALUES: &[&str] =
    &["q_proj", "v_proj", "q", "v", "query", "value", "c_attn", "query_key_value", "qkv_proj", "W_pack", "Wqkv"];

/// Stands for the MLP's out-projection of the decoder's blocks, whatever the checkpoint calls it.
const MLP_OUT: &str = "mlp_out";

/// The matrices of the modules that `targets` name by the last part or parts of their paths (or [`MLP_OUT`]), in the blocks `layers` (all of the model if
/// there are none), in the model's order. Without targets, those of the decoder's projections of queries and values.
///
/// # Errors
///
/// [`Error::Hparams`], if a layer is out of range, or a target names no module (listing those there are).
pub(crate) fn target_weights(model: &dyn LanguageModel, targets: &[String], layers: &[usize]) -> Result<Vec<ParamName>> {
    let spec = model.spec();
    for layer in layers {
        spec.check_layer(*layer)?;
    }
    let mut modules = Vec::new();
    for name in model.parameter_names() {
        let Some(module) = name.as_str().strip_suffix(".weight") else { continue };
        if model.weight(&name)?.dims()[0] > 1 {
            modules.push((module.to_owned(), name));
        }
    }
    let is_named = |module: &str, target: &str| match target {
        MLP_OUT => is_instance(module, &spec.modules.mlp_out),
        _ => ends_in(module, target),
    };
    let in_layers = |name: &ParamName| layers.is_empty() || block_of(spec, name).is_some_and(|layer| layers.contains(&layer));
    let chosen: Vec<ParamName> = match targets.is_empty() {
        true => {
            let is_default = |module: &str| QUERIES_AND_VALUES.iter().any(|target| is_named(module, target));
            let default = modules.iter().filter(|(module, name)| layer_of(&spec.modules.layer, name).is_some() && is_default(module));
            default.map(|(_, name)| name.clone()).filter(in_layers).collect()
        }
        false => {
            if let Some(target) = targets.iter().find(|target| !modules.iter().any(|(module, _)| is_named(module, target))) {
                return Err(no_module(spec, target, &modules));
            }
            let is_target = |module: &str| targets.iter().any(|target| is_named(module, target));
            modules.iter().filter(|(module, _)| is_target(module)).map(|(_, name)| name.clone()).filter(in_layers).collect()
        }
    };
    if chosen.is_empty() {
        return Err(no_module(spec, &targets.join(", "), &modules));
    }
    Ok(chosen)
}

/// The block of the decoder or of the encoder that holds a parameter.
pub(crate) fn block_of(spec: &ModelSpec, name: &ParamName) -> Option<usize> {
    layer_of(&spec.modules.layer, name).or_else(|| layer_of(&spec.encoder.as_ref()?.layer, name))
}

/// Whether a module is `template` with a number for `{}`.
fn is_instance(module: &str, template: &str) -> bool {
    let number = template.split_once("{}").and_then(|(before, behind)| module.strip_prefix(before)?.strip_suffix(behind));
    number.is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}

fn ends_in(module: &str, target: &str) -> bool {
    module == target || module.strip_suffix(target).is_some_and(|before| before.ends_with('.'))
}

fn no_module(spec: &ModelSpec, target: &str, modules: &[(String, ParamName)]) -> Error {
    let known: BTreeSet<&str> =
        modules.iter().filter(|(_, name)| block_of(spec, name).is_some()).filter_map(|(module, _)| module.rsplit('.').next()).collect();
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    let what = if target.is_empty() { "no projections of queries and values".to_owned() } else { format!("no module {target:?}") };
    Error::hparams(format!(
        "{} ({}) has {what} to adapt; target_modules may name {known}, or {MLP_OUT} for {}",
        spec.name, spec.family, spec.modules.mlp_out
    ))
}
