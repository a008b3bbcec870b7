use easyedit_core::{Fingerprint, LanguageModel, ParamName, Result, tensor_values};
use sha2::{Digest, Sha256};

/// SHA-256 over every parameter that the activations of layer `layer` can depend on: all but those of deeper layers.
///
/// # Errors
///
/// If the device cannot give a parameter back.
pub fn fingerprint_up_to(model: &dyn LanguageModel, layer: usize) -> Result<String> {
    let template = &model.spec().modules.layer;
    let deeper: Vec<String> = (layer + 1..model.spec().n_layers).map(|l| format!("{}.", template.replace("{}", &l.to_string()))).collect();
    let head = format!("{}.", model.spec().modules.lm_head);
    let reaches = |name: &ParamName| {
        let is_deeper = deeper.iter().any(|prefix| name.as_str().starts_with(prefix));
        let is_head = !model.spec().tied_head && name.as_str().starts_with(&head);
        !is_deeper && !is_head
    };
    let mut hash = Sha256::new();
    for name in model.parameter_names().iter().filter(|name| reaches(name)) {
        hash.update(name.as_str());
        hash.update(Fingerprint::of(&model.weight(name)?)?.as_str());
    }
    Ok(hex(hash))
}

/// SHA-256 over the first row of every parameter: tells models apart at the cost of a few megabytes, for caches in which mistaking
/// a minutely changed model for its original does no harm.
///
/// # Errors
///
/// If the device cannot give a parameter back.
pub fn sampled_fingerprint(model: &dyn LanguageModel) -> Result<String> {
    let mut hash = Sha256::new();
    for name in model.parameter_names() {
        let weight = model.weight(&name)?;
        hash.update(name.as_str());
        for dim in weight.dims() {
            hash.update((dim as u64).to_le_bytes());
        }
        for value in tensor_values(&weight.narrow(0, 0, 1))? {
            hash.update(value.to_le_bytes());
        }
    }
    Ok(hex(hash))
}

pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
