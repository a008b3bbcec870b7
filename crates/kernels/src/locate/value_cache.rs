use std::collections::HashMap;
use std::path::{Path, PathBuf};

use easyedit_core::{EditContext, Error, Fingerprint, LanguageModel, Result, write_atomically};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model_fingerprint::hex;
use crate::{Contexts, OptimizedValue, StepLoss, ValueConfig, optimize_values};

const HEADER_KEY: &str = "easyedit_value";

#[derive(Serialize, Deserialize)]
struct Header {
    losses: Vec<StepLoss>,
}

/// The value of every request, in their order: from the cache folder where one was found before for the same model, contexts and settings,
/// optimised otherwise, many at once. Each is put into the cache as soon as it is found, so that a batch that was cut short goes on where it
/// ended. A single request is not cached: to find its file would cost a good part of what it takes to optimise its value.
///
/// # Errors
///
/// As [`optimize_values`]; or if the cache cannot be written. A damaged file is replaced, with a warning.
pub fn cached_values(
    model: &dyn LanguageModel,
    contexts: &[Contexts],
    layer: usize,
    config: &ValueConfig,
    context: &EditContext<'_>,
) -> Result<Vec<OptimizedValue>> {
    let mut values: Vec<Option<OptimizedValue>> = vec![None; contexts.len()];
    let mut paths: Vec<Option<PathBuf>> = vec![None; contexts.len()];
    if let Some(folder) = context.cache.filter(|_| contexts.len() > 1) {
        let model_fingerprint = fingerprint(model)?;
        for ((contexts, value), path) in contexts.iter().zip(&mut values).zip(&mut paths) {
            let file = folder.join("values").join(format!("{}.safetensors", &key(&model_fingerprint, contexts, layer, config)?[..24]));
            *value = read(&file).unwrap_or_else(|error| {
                tracing::warn!("{error}; optimising the value again");
                None
            });
            *path = Some(file);
        }
    }
    let missing: Vec<usize> = (0..contexts.len()).filter(|index| values[*index].is_none()).collect();
    if missing.len() < contexts.len() {
        tracing::info!("{} of {} values come from the cache", contexts.len() - missing.len(), contexts.len());
    }
    let wanted: Vec<&Contexts> = missing.iter().map(|index| &contexts[*index]).collect();
    optimize_values(model, &wanted, layer, config, context.progress, &mut |number, value, _| {
        let index = missing[number];
        if let Some(path) = &paths[index] {
            write(path, &value)?;
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
        hash.update(Fingerprint::of(&model.weight(&name)?)?.as_str());
    }
    Ok(hex(hash))
}

fn key(model: &str, contexts: &Contexts, layer: usize, config: &ValueConfig) -> Result<String> {
    let mut hash = Sha256::new();
    let of = (1, model, layer, config, &contexts.rows, &contexts.targets);
    hash.update(serde_json::to_string(&of).map_err(Error::other)?);
    Ok(hex(hash))
}

fn write(path: &Path, value: &OptimizedValue) -> Result<()> {
    let fail = |message: String| Error::format(path, message);
    let header = serde_json::to_string(&Header { losses: value.losses.clone() }).map_err(|e| fail(e.to_string()))?;
    let parts =
        [Some(("initial", &value.initial)), Some(("delta", &value.delta)), value.attention_delta.as_ref().map(|d| ("attention_delta", d))];
    let bytes: Vec<(&str, Vec<u8>)> =
        parts.into_iter().flatten().map(|(name, values)| (name, values.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let views = bytes.iter().map(|(name, bytes)| Ok((*name, TensorView::new(Dtype::F64, vec![bytes.len() / 8], bytes)?)));
    let views = views.collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>().map_err(|e| fail(e.to_string()))?;
    let metadata = HashMap::from([(HEADER_KEY.to_owned(), header)]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(|e| fail(e.to_string()))?;
    write_atomically(path, |w| w.write_all(&file))
}

fn read(path: &Path) -> Result<Option<OptimizedValue>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read the optimised value", path, error)),
    };
    let damaged = |message: &str| Error::format(path, format!("holds no optimised value: {message}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|m| m.get(HEADER_KEY)).ok_or_else(|| damaged("it has no header"))?;
    let header: Header = serde_json::from_str(header).map_err(|e| damaged(&e.to_string()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e.to_string()))?;
    let values = |name: &str| -> Result<Vec<f64>> {
        let view = tensors.tensor(name).map_err(|e| damaged(&e.to_string()))?;
        if view.dtype() != Dtype::F64 {
            return Err(damaged(&format!("{name} is {:?} instead of F64", view.dtype())));
        }
        let values: Vec<f64> = view.data().as_chunks::<8>().0.iter().map(|c| f64::from_le_bytes(*c)).collect();
        if values.iter().any(|v| !v.is_finite()) { Err(damaged(&format!("{name} holds NaN or infinity"))) } else { Ok(values) }
    };
    let attention_delta = tensors.names().contains(&"attention_delta").then(|| values("attention_delta")).transpose()?;
    Ok(Some(OptimizedValue { initial: values("initial")?, delta: values("delta")?, attention_delta, losses: header.losses }))
}
