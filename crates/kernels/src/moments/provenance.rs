use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::{CorpusText, LanguageModel, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::MomentConfig;
use super::plan::corpus_hash;
use crate::model_fingerprint::{hex, sampled_fingerprint};

/// Version of the numbers: raised when the same settings come to give others.
const FORMAT_VERSION: u32 = 2;

/// What a statistic is of: recorded in its file, and hashed into its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Provenance {
    format_version: u32,
    /// For people; the fingerprint decides.
    pub(super) model: String,
    /// Of all weights the keys depend on.
    model_fingerprint: String,
    pub(super) layer: usize,
    pub(super) module: String,
    /// For people; the hash decides.
    pub(super) corpus: String,
    corpus_sha256: String,
    pub(super) config: MomentConfig,
    dtype: String,
}

impl Provenance {
    /// Of the moments over `text`, called `corpus`, of the layers that have fingerprints.
    pub(super) fn of_text(
        model: &dyn LanguageModel,
        fingerprints: &BTreeMap<usize, String>,
        corpus: &str,
        text: &CorpusText,
        config: &MomentConfig,
    ) -> Result<BTreeMap<usize, Self>> {
        let corpus_sha256 = match text {
            CorpusText::Documents(documents) => corpus_hash(documents),
            // The text follows from the model and the settings; which model it is, the whole of it says.
            CorpusText::SelfWritten => digest(&format!("self-written, version 1, by {}", sampled_fingerprint(model)?)),
        };
        Ok(Self::of(model, fingerprints, corpus, &corpus_sha256, config))
    }

    /// Of moments that others collected over `samples` documents of a corpus known by its name alone.
    pub(super) fn of_name(
        model: &dyn LanguageModel,
        fingerprints: &BTreeMap<usize, String>,
        corpus: &str,
        samples: usize,
    ) -> BTreeMap<usize, Self> {
        let config = MomentConfig { samples, ..MomentConfig::default() };
        Self::of(model, fingerprints, corpus, &digest(&format!("imported, {corpus}")), &config)
    }

    fn of(
        model: &dyn LanguageModel,
        fingerprints: &BTreeMap<usize, String>,
        corpus: &str,
        corpus_sha256: &str,
        config: &MomentConfig,
    ) -> BTreeMap<usize, Self> {
        let spec = model.spec();
        let provenance = |(layer, model_fingerprint): (&usize, &String)| {
            let layer = *layer;
            let provenance = Self {
                format_version: FORMAT_VERSION,
                model: spec.name.clone(),
                model_fingerprint: model_fingerprint.clone(),
                layer,
                module: spec.modules.mlp_out.replace("{}", &layer.to_string()),
                corpus: corpus.to_owned(),
                corpus_sha256: corpus_sha256.to_owned(),
                config: config.resolved(spec),
                dtype: "float32".to_owned(),
            };
            (layer, provenance)
        };
        fingerprints.iter().map(provenance).collect()
    }

    /// Of a layer of a model that is not there.
    #[cfg(test)]
    pub(super) fn of_layer(layer: usize) -> Self {
        let [model, model_fingerprint, module, corpus, corpus_sha256, dtype] = [(); 6].map(|()| String::new());
        let config = MomentConfig::default();
        Self { format_version: FORMAT_VERSION, model, model_fingerprint, layer, module, corpus, corpus_sha256, config, dtype }
    }

    /// Without what is there for people: the same for whatever has the same numbers.
    pub(super) fn nameless(&self) -> Self {
        Self { model: String::new(), corpus: String::new(), ..self.clone() }
    }

    /// The digest of [`nameless`](Self::nameless).
    pub(super) fn key(&self) -> String {
        digest(&serde_json::to_string(&self.nameless()).unwrap_or_default())
    }

    /// The file in the cache folder.
    pub(super) fn path(&self, cache: &Path) -> PathBuf {
        folder(cache).join(format!("{}-{}.safetensors", self.module, &self.key()[..16]))
    }
}

/// Where the cache folder keeps statistics.
pub(super) fn folder(cache: &Path) -> PathBuf {
    cache.join("stats")
}

/// SHA-256 of a text.
pub(super) fn digest(text: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(text);
    hex(hash)
}
