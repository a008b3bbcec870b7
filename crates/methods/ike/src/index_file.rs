//! Embeddings of demonstrations, kept between runs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use easyedit_core::{Error, Matrix, Progress, Result, SentenceEncoder, read_input, write_atomically};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Demonstration;

/// Version of the file and of what is embedded.
const FORMAT_VERSION: u32 = 1;
const HEADER_KEY: &str = "easyedit_demonstrations";
const EMBEDDINGS: &str = "embeddings";
/// The strings themselves, a JSON array: what EasyEdit's pickle calls so.
const SENTENCES: &str = "sentences";
/// No index is larger; a file beyond it is not read.
const MAX_FILE_BYTES: u64 = 16 << 30;
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
    cache: Option<&PathBuf>,
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
        match read(path, &provenance) {
            Ok(Some(embeddings)) => return Ok(Found { embeddings, file, is_new: false }),
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}; it is computed again"),
        }
    }
    let embeddings = embed(demonstrations, encoder, progress)?;
    if let Some(path) = &file {
        write(path, &provenance, demonstrations, &embeddings)?;
    }
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
        let nameless = Self { encoder: String::new(), ..self.clone() };
        let hash = format!("{:x}", Sha256::digest(serde_json::to_string(&nameless).unwrap_or_default()));
        let last = self.encoder.rsplit(['/', '\\']).next().unwrap_or_default();
        let plain: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(60).collect();
        cache.join("ike").join(format!("{plain}_{}-{}.safetensors", self.records, hash.get(..16).unwrap_or_default()))
    }

    fn is_of_the_same(&self, other: &Self) -> bool {
        Self { encoder: String::new(), ..self.clone() } == Self { encoder: String::new(), ..other.clone() }
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
        progress.advance(texts.len() as u64);
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
    let fail = |message: String| Error::format(path, message);
    let header = serde_json::to_string(provenance).map_err(|e| fail(e.to_string()))?;
    let texts: Vec<&str> = demonstrations.iter().map(|one| one.text.as_str()).collect();
    let sentences = serde_json::to_vec(&texts).map_err(|e| fail(e.to_string()))?;
    let bytes: Vec<u8> = embeddings.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    let views = [
        (EMBEDDINGS, TensorView::new(Dtype::F32, embeddings.shape().to_vec(), &bytes)),
        (SENTENCES, TensorView::new(Dtype::U8, vec![sentences.len()], &sentences)),
    ];
    let views = views.into_iter().map(|(name, view)| Ok((name, view?)));
    let views = views.collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>().map_err(|e| fail(e.to_string()))?;
    let file = safetensors::serialize(views, Some(HashMap::from([(HEADER_KEY.to_owned(), header)]))).map_err(|e| fail(e.to_string()))?;
    write_atomically(path, |out| out.write_all(&file))
}

/// The embeddings that the file holds; `None` if there is no file.
fn read(path: &Path, wanted: &Provenance) -> Result<Option<Matrix>> {
    let bytes = match read_input(path, MAX_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = |message: &str| Error::format(path, format!("is no index of these demonstrations: {message}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|m| m.get(HEADER_KEY)).ok_or_else(|| damaged("it has no header"))?;
    let header: Provenance = serde_json::from_str(header).map_err(|e| damaged(&e.to_string()))?;
    if !header.is_of_the_same(wanted) {
        return Err(damaged("it is of another encoder or other records"));
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e.to_string()))?;
    let view = tensors.tensor(EMBEDDINGS).map_err(|e| damaged(&e.to_string()))?;
    let [rows, width] = view.shape() else { return Err(damaged("its embeddings are no matrix")) };
    if view.dtype() != Dtype::F32 || *rows != wanted.strings || *width == 0 {
        return Err(damaged(&format!(
            "its embeddings are {:?} of shape {:?} instead of F32 of {} rows",
            view.dtype(),
            view.shape(),
            wanted.strings
        )));
    }
    let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
    let embeddings = Matrix::new(*rows, *width, values).ok_or_else(|| damaged("its embeddings are misshapen"))?;
    let is_unit = |row: &[f32]| {
        let square: f32 = row.iter().map(|value| value * value).sum();
        (square - 1.0).abs() < 1e-2
    };
    if !embeddings.values().chunks(*width).all(is_unit) {
        return Err(damaged("its embeddings are not of length 1"));
    }
    Ok(Some(embeddings))
}
