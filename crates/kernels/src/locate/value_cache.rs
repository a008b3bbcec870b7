use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::{Artefact, ArtefactLabel, ArtefactTensor, Error, LanguageModel, Result, Session, keep_in_cache, tidy_cache_folder};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::model_fingerprint::hex;
use crate::{Contexts, FactRow, OptimizedValue, StepLoss, ValueConfig, ValueTargets, optimize_values};

/// The kind of artefact; its number is raised when the same settings come to give other values.
const KIND: &str = "value/2";
/// Bytes of the vectors of a value, at most: three of width 2²⁰.
const LARGEST: u64 = 24 << 20;

/// The value of every request, in their order: from the cache folder where one was found before for the same model, contexts and settings,
/// optimised otherwise, many at once. Each is put into the cache as soon as it is found, so that a batch that was cut short goes on where it
/// ended. A single request is not cached: to find its file would cost a good part of what it takes to optimise its value.
///
/// # Errors
///
/// As [`optimize_values`]; or if the cache's disk is full. A file that is damaged or of another request is replaced, with a warning; in a
/// folder that cannot be written to, nothing is kept.
pub fn cached_values(
    model: &dyn LanguageModel,
    contexts: &[Contexts],
    layer: usize,
    config: &ValueConfig,
    session: &Session,
) -> Result<Vec<OptimizedValue>> {
    let mut values: Vec<Option<OptimizedValue>> = vec![None; contexts.len()];
    let cache = session.cache().filter(|_| contexts.len() > 1);
    let model_fingerprint = if cache.is_some() { fingerprint(model)? } else { String::new() };
    if let Some(folder) = cache {
        tidy_cache_folder(&folder.join("values"));
        for (contexts, value) in contexts.iter().zip(&mut values) {
            let identity = Identity::of(&model_fingerprint, contexts, layer, config);
            *value = read(&identity.path(folder)?, &identity).unwrap_or_else(|error| {
                tracing::warn!("{error}; optimising the value again");
                None
            });
        }
    }
    let missing: Vec<usize> = (0..contexts.len()).filter(|index| values[*index].is_none()).collect();
    if missing.len() < contexts.len() {
        tracing::info!("{} of {} values come from the cache", contexts.len() - missing.len(), contexts.len());
    }
    let wanted: Vec<&Contexts> = missing.iter().map(|index| &contexts[*index]).collect();
    optimize_values(model, &wanted, layer, config, session.progress(), &mut |number, value, _| {
        let index = missing[number];
        if let Some(folder) = cache {
            let identity = Identity::of(&model_fingerprint, &contexts[index], layer, config);
            let path = identity.path(folder)?;
            keep_in_cache(folder, || write(&path, &identity, &value))?;
        }
        values[index] = Some(value);
        Ok(())
    })?;
    values.into_iter().collect::<Option<_>>().ok_or_else(|| Error::Batch("a request's value was not found".into()))
}

/// SHA-256 over every parameter.
fn fingerprint(model: &dyn LanguageModel) -> Result<String> {
    let mut hash = Sha256::new();
    for name in model.parameter_names() {
        hash.update(name.as_str());
        hash.update(model.fingerprint(&name)?.as_str());
    }
    Ok(hex(hash))
}

/// What a value depends on.
#[derive(Serialize)]
struct Identity<'a> {
    model: &'a str,
    layer: usize,
    config: &'a ValueConfig,
    rows: &'a [FactRow],
    targets: &'a ValueTargets,
}

impl<'a> Identity<'a> {
    fn of(model: &'a str, contexts: &'a Contexts, layer: usize, config: &'a ValueConfig) -> Self {
        Self { model, layer, config, rows: &contexts.rows, targets: &contexts.targets }
    }

    /// The file in the cache folder.
    fn path(&self, cache: &Path) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        hash.update(KIND);
        hash.update(serde_json::to_string(self).map_err(Error::other)?);
        Ok(cache.join("values").join(format!("{}.safetensors", &hex(hash)[..24])))
    }
}

fn write(path: &Path, identity: &Identity<'_>, value: &OptimizedValue) -> Result<()> {
    let mut tensors = BTreeMap::from([
        ("initial".to_owned(), ArtefactTensor::of_f64(&value.initial)),
        ("delta".to_owned(), ArtefactTensor::of_f64(&value.delta)),
    ]);
    tensors.extend(value.attention_delta.as_ref().map(|delta| ("attention_delta".to_owned(), ArtefactTensor::of_f64(delta))));
    Artefact::write(path, ArtefactLabel::new(KIND, identity, &value.losses)?, tensors)
}

fn read(path: &Path, identity: &Identity<'_>) -> Result<Option<OptimizedValue>> {
    let Some(mut file) = Artefact::read(path, KIND, identity, LARGEST)? else { return Ok(None) };
    let attention_delta = file.has("attention_delta").then(|| file.f64("attention_delta")).transpose()?;
    let losses = file.facts::<Vec<StepLoss>>()?;
    Ok(Some(OptimizedValue { initial: file.f64("initial")?, delta: file.f64("delta")?, attention_delta, losses }))
}
