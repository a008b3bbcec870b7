use std::collections::BTreeSet;

use easyedit_core::{Error, LanguageModel, ModelSpec, ParamName, Result, Stack};

/// The parameters whose names contain `template` with one of `layers` filled in, as EasyEdit chooses them; by name.
///
/// # Errors
///
/// [`Error::Hparams`] naming the template, if a layer has none.
pub(crate) fn weights_of(model: &dyn LanguageModel, template: &str, layers: &[usize]) -> Result<Vec<ParamName>> {
    let names = model.parameter_names();
    let mut chosen = BTreeSet::new();
    for layer in layers {
        let wanted = template.replace("{}", &layer.to_string());
        let before = chosen.len();
        chosen.extend(names.iter().filter(|name| name.as_str().contains(&wanted)).cloned());
        let nothing_new = chosen.len() == before;
        if nothing_new && !names.iter().any(|name| name.as_str().contains(&wanted)) {
            return Err(no_match(model.spec(), template, *layer));
        }
    }
    Ok(chosen.into_iter().collect())
}

fn no_match(spec: &ModelSpec, template: &str, layer: usize) -> Error {
    if template.starts_with(&spec.modules.layer)
        && let Err(error) = spec.check_layer(layer)
    {
        return error;
    }
    let first = format!("{}.", spec.modules.layer.replace("{}", "0"));
    let of_layer = spec.map.iter().filter(|parameter| parameter.stack == Stack::Decoder && parameter.layer == Some(0));
    let known: Vec<&str> = of_layer.filter_map(|parameter| parameter.name.as_str().strip_prefix(&first)).collect();
    Error::hparams(format!(
        "rewrite_module_tmp is {template}, but no parameter of {} ({}) has that in its name with layer {layer} filled in; the MLP's out-projection is {}, and {} holds {}",
        spec.name,
        spec.family,
        spec.modules.mlp_out,
        spec.modules.layer,
        known.join(", ")
    ))
}
