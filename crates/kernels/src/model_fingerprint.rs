use std::collections::BTreeMap;

use easyedit_core::{
    Fingerprint, LanguageModel, Parameter, ParameterRole, Progress, Result, Silent, Stack, fingerprint_values, tensor_values,
};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// Parameters copied from the device at once, to be hashed side by side.
const HASHED_AT_ONCE: usize = 8;

/// SHA-256 over every parameter that the activations of layer `layer` can depend on: all but those of deeper layers and of the head.
///
/// # Errors
///
/// If the device cannot give a parameter back.
pub fn fingerprint_up_to(model: &dyn LanguageModel, layer: usize) -> Result<String> {
    Ok(fingerprints_up_to(model, &[layer], &Silent)?.remove(&layer).unwrap_or_default())
}

/// [`fingerprint_up_to`] of several layers, for which each parameter is hashed once; until `progress` says that the work is to end.
///
/// # Errors
///
/// As [`fingerprint_up_to`]; [`Cancelled`](easyedit_core::Error::Cancelled).
pub fn fingerprints_up_to(model: &dyn LanguageModel, layers: &[usize], progress: &dyn Progress) -> Result<BTreeMap<usize, String>> {
    let Some(deepest) = layers.iter().max().copied() else {
        return Ok(BTreeMap::new());
    };
    let parameters: Vec<&Parameter> = model.spec().map.iter().filter(|parameter| reaches(parameter, deepest)).collect();
    let mut hashes: BTreeMap<usize, Sha256> = layers.iter().map(|layer| (*layer, Sha256::new())).collect();
    for parameters in parameters.chunks(HASHED_AT_ONCE) {
        progress.check()?;
        let values: Result<Vec<([usize; 2], Vec<f32>)>> = parameters
            .iter()
            .map(|parameter| {
                let weight = model.weight(&parameter.name)?;
                Ok((weight.dims(), tensor_values(&weight)?))
            })
            .collect();
        let prints: Vec<Fingerprint> = values?.par_iter().map(|(shape, values)| fingerprint_values(*shape, values)).collect();
        for (layer, hash) in &mut hashes {
            for (parameter, print) in parameters.iter().zip(&prints).filter(|(parameter, _)| reaches(parameter, *layer)) {
                hash.update(parameter.name.as_str());
                hash.update(print.as_str());
            }
        }
    }
    Ok(hashes.into_iter().map(|(layer, hash)| (layer, hex(hash))).collect())
}

/// Whether the activations of the decoder's layer `layer` may depend on a parameter.
fn reaches(parameter: &Parameter, layer: usize) -> bool {
    let is_deeper = parameter.stack == Stack::Decoder && parameter.layer.is_some_and(|deeper| deeper > layer);
    let is_head = matches!(parameter.role, ParameterRole::Head | ParameterRole::HeadBias);
    !is_deeper && !is_head
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
