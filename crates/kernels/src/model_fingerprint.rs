use std::collections::BTreeMap;

use easyedit_core::{Fingerprint, LanguageModel, ParamName, Result, fingerprint_values, tensor_values};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// Parameters copied from the device at once, to be hashed side by side.
const HASHED_AT_ONCE: usize = 8;

/// SHA-256 over every parameter that the activations of layer `layer` can depend on: all but those of deeper layers.
///
/// # Errors
///
/// If the device cannot give a parameter back.
pub fn fingerprint_up_to(model: &dyn LanguageModel, layer: usize) -> Result<String> {
    Ok(fingerprints_up_to(model, &[layer])?.remove(&layer).unwrap_or_default())
}

/// [`fingerprint_up_to`] of several layers, for which each parameter is hashed once.
///
/// # Errors
///
/// As [`fingerprint_up_to`].
pub fn fingerprints_up_to(model: &dyn LanguageModel, layers: &[usize]) -> Result<BTreeMap<usize, String>> {
    let Some(deepest) = layers.iter().max().copied() else {
        return Ok(BTreeMap::new());
    };
    let names: Vec<ParamName> = model.parameter_names().into_iter().filter(|name| reaches(model, name, deepest)).collect();
    let mut hashes: BTreeMap<usize, Sha256> = layers.iter().map(|layer| (*layer, Sha256::new())).collect();
    for names in names.chunks(HASHED_AT_ONCE) {
        let values: Result<Vec<([usize; 2], Vec<f32>)>> = names
            .iter()
            .map(|name| {
                let weight = model.weight(name)?;
                Ok((weight.dims(), tensor_values(&weight)?))
            })
            .collect();
        let prints: Vec<Fingerprint> = values?.par_iter().map(|(shape, values)| fingerprint_values(*shape, values)).collect();
        for (layer, hash) in &mut hashes {
            for (name, print) in names.iter().zip(&prints).filter(|(name, _)| reaches(model, name, *layer)) {
                hash.update(name.as_str());
                hash.update(print.as_str());
            }
        }
    }
    Ok(hashes.into_iter().map(|(layer, hash)| (layer, hex(hash))).collect())
}

/// Whether the activations of layer `layer` depend on a parameter.
fn reaches(model: &dyn LanguageModel, name: &ParamName, layer: usize) -> bool {
    let spec = model.spec();
    let is_deeper = (layer + 1..spec.n_layers).any(|deeper| is_in(name, &spec.modules.layer.replace("{}", &deeper.to_string())));
    let is_head = !spec.tied_head && is_in(name, &spec.modules.lm_head);
    !is_deeper && !is_head
}

fn is_in(name: &ParamName, module: &str) -> bool {
    name.as_str().strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
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
