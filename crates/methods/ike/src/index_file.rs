//! Embeddings of demonstrations, kept between runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::{
    Artefact, ArtefactLabel, ArtefactTensor, Error, Matrix, Progress, Result, SentenceEncoder, keep_in_cache, tidy_cache_folder,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Demonstration;

/// Version of the file and of what is embedded.
const FORMAT_VERSION: u32 = 1;
/// The kind of artefact.
const KIND: &str = "demonstrations/2";
const EMBEDDINGS: &str = "embeddings";
/// The strings themselves, a JSON array: what EasyEdit's pickle calls so.
const SENTENCES: &str = "sentences";
/// Width of embeddings, at most; and bytes that JSON makes of one of a text, at most.
const WIDEST: u64 = 1 << 15;
const JSON_BYTES: u64 = 6;
/// Strings that are embedded between two reports of progress.
const CHUNK: usize = 128;

/// What an index is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Provenance {
    format_version: u32,
    /// For people; the digest decides.
    encoder: String,
    encoder_sha256: String,
    strings_sha256: String,
    strings: usize,
    records: usize,
}

/// Embeddings, and where they are kept.
pub(crate) struct Found {
    /// `[strings, width]`, rows of length 1.
    pub(crate) embeddings: Matrix,
    pub(crate) file: Option<PathBuf>,
    /// Whether they were computed now.
    pub(crate) is_new: bool,
}

/// The embeddings of all demonstrations: those an earlier run has kept in `cache`, else computed and kept there. A file that is damaged is
/// replaced, with a warning.
pub(crate) fn find_or_build(
    demonstrations: &[Demonstration],
    encoder: &dyn SentenceEncoder,
    cache: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Found> {
    let provenance = Provenance {
        format_version: FORMAT_VERSION,
        encoder: encoder.name().to_owned(),
        encoder_sha256: encoder.fingerprint()?,
        strings_sha256: digest(demonstrations),
        strings: demonstrations.len(),
        records: demonstrations.last().map_or(0, |last| last.record + 1),
    };
    let file = cache.map(|folder| provenance.path(folder));
    if let Some(path) = &file {
        path.parent().into_iter().for_each(tidy_cache_folder);
        let texts = demonstrations.iter().map(|one| one.text.len() as u64 * JSON_BYTES).sum::<u64>();
        match read(path, &provenance, texts.saturating_add(demonstrations.len() as u64 * WIDEST * 4)) {
            Ok(Some(embeddings)) => return Ok(Found { embeddings, file, is_new: false }),
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}; it is computed again"),
        }
    }
    let embeddings = embed(demonstrations, encoder, progress)?;
    let file = match (cache, file) {
        (Some(cache), Some(path)) => keep_in_cache(cache, || write(&path, &provenance, demonstrations, &embeddings))?.map(|()| path),
        _ => None,
    };
    Ok(Found { embeddings, file, is_new: true })
}

fn digest(demonstrations: &[Demonstration]) -> String {
    let mut hash = Sha256::new();
    for one in demonstrations {
        hash.update((one.text.len() as u64).to_le_bytes());
        hash.update(&one.text);
    }
    format!("{:x}", hash.finalize())
}

impl Provenance {
    /// `ike/all-MiniLM-L6-v2_2000-0123456789abcdef.safetensors`: the last part of the encoder's name, the number of records, and a hash
    /// over everything that counts.
    fn path(&self, cache: &Path) -> PathBuf {
        let hash = format!("{:x}", Sha256::digest(serde_json::to_string(&self.nameless()).unwrap_or_default()));
        let last = self.encoder.rsplit(['/', '\\']).next().unwrap_or_default();
        let plain: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(60).collect();
        cache.join("ike").join(format!("{plain}_{}-{}.safetensors", self.records, hash.get(..16).unwrap_or_default()))
    }

    /// Without what is there for people.
    fn nameless(&self) -> Self {
        Self { encoder: String::new(), ..self.clone() }
    }
}

fn embed(demonstrations: &[Demonstration], encoder: &dyn SentenceEncoder, progress: &dyn Progress) -> Result<Matrix> {
    // Texts of like length are run together.
    let mut order: Vec<usize> = (0..demonstrations.len()).collect();
    let text = |index: usize| demonstrations.get(index).map_or("", |one| one.text.as_str());
    order.sort_by_key(|index| text(*index).len());
    let mut rows: Vec<f32> = Vec::new();
    let mut width = 0;
    progress.begin("embed demonstrations", Some(demonstrations.len() as u64));
    let embedded = order.chunks(CHUNK).try_for_each(|chunk| {
        let texts: Vec<&str> = chunk.iter().map(|index| text(*index)).collect();
        let part = encoder.embed(&texts)?;
        let [got, wide] = part.shape();
        if got != texts.len() || wide == 0 || (width != 0 && wide != width) {
            return Err(Error::Batch(format!("{} gave embeddings of shape {:?} for {} texts", encoder.name(), part.shape(), texts.len())));
        }
        if part.values().iter().any(|value| !value.is_finite()) {
            return Err(Error::NotFinite(format!("the embeddings of {} hold NaN or infinity; its weights are damaged", encoder.name())));
        }
        width = wide;
        rows.extend_from_slice(part.values());
        progress.step(texts.len() as u64)?;
        Ok(())
    });
    progress.end();
    embedded?;
    let mut places = vec![0; order.len()];
    order.iter().enumerate().for_each(|(place, index)| places[*index] = place);
    let sorted = Matrix::new(order.len(), width, rows).ok_or_else(|| Error::Batch("embeddings are missing".into()))?;
    Ok(sorted.select_rows(&places))
}

fn write(path: &Path, provenance: &Provenance, demonstrations: &[Demonstration], embeddings: &Matrix) -> Result<()> {
    let texts: Vec<&str> = demonstrations.iter().map(|one| one.text.as_str()).collect();
    let sentences = serde_json::to_vec(&texts).map_err(Error::other)?;
    let tensors = BTreeMap::from([
        (EMBEDDINGS.to_owned(), ArtefactTensor::of_f32(&embeddings.shape(), embeddings.values())),
        (SENTENCES.to_owned(), ArtefactTensor::of_bytes(&sentences)),
    ]);
    Artefact::write(path, ArtefactLabel::new(KIND, &provenance.nameless(), provenance)?, tensors)
}

/// The embeddings that the file holds; `None` if there is no file.
fn read(path: &Path, wanted: &Provenance, max_bytes: u64) -> Result<Option<Matrix>> {
    let Some(mut file) = Artefact::read(path, KIND, &wanted.nameless(), max_bytes)? else { return Ok(None) };
    let (shape, values) = file.f32(EMBEDDINGS)?;
    let damaged = || Error::format(path, format!("holds embeddings of shape {shape:?} instead of {} rows", wanted.strings));
    match shape[..] {
        [rows, width] if rows == wanted.strings && width > 0 => Matrix::new(rows, width, values).ok_or_else(damaged).map(Some),
        _ => Err(damaged()),
    }
}
