use std::collections::BTreeSet;

use easyedit_core::{Error, LinearRole, ModelSpec, Parameter, Result, Stack};

/// Stands for the MLP's out-projection of the decoder's blocks, whatever the checkpoint calls it.
const MLP_OUT: &str = "mlp_out";

/// The matrices of the modules that `targets` name by the last part or parts of their paths (or [`MLP_OUT`]), in the blocks `layers` (all of the model if
/// there are none), in the model's order. Without targets, those of the decoder's projections of queries and values.
///
/// # Errors
///
/// [`Error::Hparams`], if a layer is out of range, or a target names no module (listing those there are).
pub(crate) fn target_weights<'a>(spec: &'a ModelSpec, targets: &[String], layers: &[usize]) -> Result<Vec<&'a Parameter>> {
    for layer in layers {
        spec.check_layer(*layer)?;
    }
    let modules: Vec<&Parameter> = spec.map.iter().filter(|parameter| parameter.is_matrix()).collect();
    let is_named = |parameter: &Parameter, target: &str| match target {
        MLP_OUT => parameter.stack == Stack::Decoder && parameter.linear_role() == Some(LinearRole::MlpOut),
        _ => ends_in(module_of(parameter), target),
    };
    if let Some(target) = targets.iter().find(|target| !modules.iter().any(|parameter| is_named(parameter, target))) {
        return Err(no_module(spec, target, &modules));
    }
    let is_default =
        |parameter: &Parameter| parameter.stack == Stack::Decoder && parameter.linear_role().is_some_and(LinearRole::is_query_or_value);
    let is_target = |parameter: &Parameter| match targets.is_empty() {
        true => is_default(parameter),
        false => targets.iter().any(|target| is_named(parameter, target)),
    };
    let in_layers = |parameter: &Parameter| layers.is_empty() || parameter.layer.is_some_and(|layer| layers.contains(&layer));
    let chosen: Vec<&Parameter> = modules.iter().copied().filter(|parameter| is_target(parameter) && in_layers(parameter)).collect();
    if chosen.is_empty() {
        return Err(no_module(spec, &targets.join(", "), &modules));
    }
    Ok(chosen)
}

/// The module that holds a weight.
fn module_of(parameter: &Parameter) -> &str {
    parameter.name.as_str().trim_end_matches(".weight")
}

fn ends_in(module: &str, target: &str) -> bool {
    module == target || module.strip_suffix(target).is_some_and(|before| before.ends_with('.'))
}

fn no_module(spec: &ModelSpec, target: &str, modules: &[&Parameter]) -> Error {
    let in_blocks = modules.iter().filter(|parameter| parameter.layer.is_some());
    let known: BTreeSet<&str> = in_blocks.filter_map(|parameter| module_of(parameter).rsplit('.').next()).collect();
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    let what = if target.is_empty() { "no projections of queries and values".to_owned() } else { format!("no module {target:?}") };
    Error::hparams(format!(
        "{} ({}) has {what} to adapt; target_modules may name {known}, or {MLP_OUT} for {}",
        spec.name, spec.family, spec.modules.mlp_out
    ))
}
