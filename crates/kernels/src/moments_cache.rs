use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use easyedit_core::{Error, LanguageModel, Progress, Result, write_atomically};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model_fingerprint::{fingerprint_up_to, hex};
use crate::{MomentConfig, SecondMoments};

const HEADER_KEY: &str = "easyedit_moments";
const TENSOR: &str = "second_moment";

/// What a cached statistic is of: recorded in its file, and hashed into its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Provenance {
    format_version: u32,
    model: String,
    /// Of all weights the keys depend on.
    model_fingerprint: String,
    layer: usize,
    module: String,
    corpus: String,
    corpus_sha256: String,
    config: MomentConfig,
    dtype: String,
}

impl Provenance {
    fn path(&self, folder: &Path) -> PathBuf {
        let mut hash = Sha256::new();
        hash.update(serde_json::to_string(self).unwrap_or_default());
        folder.join("stats").join(format!("{}-{}.safetensors", self.module, &hex(hash)[..16]))
    }
}

/// The second moments of `layers` over `documents`: from the cache folder where they were collected before, collected in one pass and
/// put there otherwise. Gives the moments and, per layer, the file.
///
/// # Errors
///
/// As [`SecondMoments::collect`]; or if the cache cannot be written. A damaged cache file is collected anew, with a warning.
pub fn cached_moments(
    model: &dyn LanguageModel,
    layers: &[usize],
    corpus: &str,
    documents: &[String],
    config: &MomentConfig,
    cache: Option<&Path>,
    progress: &dyn Progress,
) -> Result<BTreeMap<usize, (SecondMoments, Option<PathBuf>)>> {
    let Some(cache) = cache else {
        let collected = SecondMoments::collect(model, layers, documents, config, progress)?;
        return Ok(collected.into_iter().map(|(layer, moments)| (layer, (moments, None))).collect());
    };
    let mut found = BTreeMap::new();
    let mut missing = Vec::new();
    let corpus_sha256 = corpus_hash(documents);
    for layer in layers {
        model.spec().check_layer(*layer)?;
        let provenance = Provenance {
            format_version: 1,
            model: model.spec().name.clone(),
            model_fingerprint: fingerprint_up_to(model, *layer)?,
            layer: *layer,
            module: model.spec().modules.mlp_out.replace("{}", &layer.to_string()),
            corpus: corpus.to_owned(),
            corpus_sha256: corpus_sha256.clone(),
            config: config.clone(),
            dtype: "float32".to_owned(),
        };
        let path = provenance.path(cache);
        match read(&path, &provenance, model.spec().d_mlp) {
            Ok(Some(moments)) => {
                found.insert(*layer, (moments, Some(path)));
            }
            Ok(None) => missing.push((*layer, provenance, path)),
            Err(error) => {
                tracing::warn!("{error}; collecting the statistics again");
                missing.push((*layer, provenance, path));
            }
        }
    }
    let wanted: Vec<usize> = missing.iter().map(|(layer, ..)| *layer).collect();
    let mut collected = SecondMoments::collect(model, &wanted, documents, config, progress)?;
    for (layer, provenance, path) in missing {
        if let Some(moments) = collected.remove(&layer) {
            write(&path, &provenance, &moments)?;
            found.insert(layer, (moments, Some(path)));
        }
    }
    Ok(found)
}

fn corpus_hash(documents: &[String]) -> String {
    let mut hash = Sha256::new();
    for document in documents {
        hash.update((document.len() as u64).to_le_bytes());
        hash.update(document);
    }
    hex(hash)
}

fn write(path: &Path, provenance: &Provenance, moments: &SecondMoments) -> Result<()> {
    let fail = |message: String| Error::format(path, message);
    let header = serde_json::json!({ "provenance": provenance, "tokens": moments.tokens() }).to_string();
    let bytes: Vec<u8> = moments.mean().iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![moments.size(); 2], &bytes).map_err(|e| fail(e.to_string()))?;
    let metadata = HashMap::from([(HEADER_KEY.to_owned(), header)]);
    let file = safetensors::serialize([(TENSOR, view)], Some(metadata)).map_err(|e| fail(e.to_string()))?;
    write_atomically(path, |w| w.write_all(&file))
}

fn read(path: &Path, provenance: &Provenance, size: usize) -> Result<Option<SecondMoments>> {
    #[derive(Deserialize)]
    struct Header {
        provenance: Provenance,
        tokens: u64,
    }
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read the statistics", path, error)),
    };
    let damaged = |message: &str| Error::format(path, format!("is no file of statistics: {message}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|m| m.get(HEADER_KEY)).ok_or_else(|| damaged("it has no header"))?;
    let header: Header = serde_json::from_str(header).map_err(|e| damaged(&e.to_string()))?;
    if header.provenance != *provenance {
        return Err(damaged("it is of another model or text"));
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e.to_string()))?;
    let view = tensors.tensor(TENSOR).map_err(|e| damaged(&e.to_string()))?;
    if view.dtype() != Dtype::F32 || view.shape() != [size, size] {
        return Err(damaged(&format!("its matrix is {:?} of shape {:?} instead of F32 of {size} rows", view.dtype(), view.shape())));
    }
    let mean: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
    if mean.iter().any(|v| !v.is_finite()) {
        return Err(damaged("it holds NaN or infinity"));
    }
    Ok(SecondMoments::from_parts(size, header.tokens, mean))
}
