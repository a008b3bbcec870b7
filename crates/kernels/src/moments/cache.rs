use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::{Artefact, ArtefactLabel, ArtefactTensor, Error, Result, keep_in_cache, tidy_cache_folder};

use super::SecondMoments;
use super::provenance::{Provenance, folder};

/// The kind of artefact.
const KIND: &str = "second-moments/2";
const TENSOR: &str = "second_moment";

/// The file of sums that are not finished yet.
pub(super) fn unfinished(cache: &Path, key: &str) -> PathBuf {
    folder(cache).join(format!("unfinished-{}.safetensors", &key[..16]))
}

/// Keeps moments; gives the file, or `None` if the folder cannot be written to.
pub(super) fn write(cache: &Path, provenance: &Provenance, moments: &SecondMoments) -> Result<Option<PathBuf>> {
    let path = provenance.path(cache);
    let kept = keep_in_cache(cache, || {
        let label = ArtefactLabel::new(KIND, &provenance.nameless(), &(provenance, moments.tokens()))?;
        let mean = ArtefactTensor::of_f32(&[moments.size(); 2], moments.mean());
        Artefact::write(&path, label, BTreeMap::from([(TENSOR.to_owned(), mean)]))
    })?;
    Ok(kept.map(|()| path))
}

/// The moments kept for `provenance`; `None` if there are none.
pub(super) fn read(cache: &Path, provenance: &Provenance, size: usize) -> Result<Option<(SecondMoments, PathBuf)>> {
    let path = provenance.path(cache);
    tidy_cache_folder(&folder(cache));
    let bytes = (size as u64).saturating_mul(size as u64).saturating_mul(4);
    let Some(mut file) = Artefact::read(&path, KIND, &provenance.nameless(), bytes)? else { return Ok(None) };
    let (_, tokens): (Provenance, u64) = file.facts()?;
    let (shape, mean) = file.f32(TENSOR)?;
    if shape != [size, size] {
        return Err(Error::format(&path, format!("holds a matrix of shape {shape:?} instead of one of {size} rows")));
    }
    Ok(SecondMoments::from_parts(size, tokens, mean).map(|moments| (moments, path)))
}
