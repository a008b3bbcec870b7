//! Files of cache folders: what they are of, and whether they are what was written.
//!
//! Every artefact is a safetensors file. Its metadata holds an [`ArtefactLabel`] under one key: the kind of artefact, its identity (all that
//! the contents depend on), small facts as JSON, and the SHA-256 over these and the tensors. A file that does not fit its checksum, or is of
//! something else, is an error for the reader, who makes the artefact anew; files without a label are from before there were labels, and
//! are made anew, too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use half::f16;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files::TEMPORARY_PREFIX;
use crate::publish::is_unused;
use crate::{Error, Result, read_input, write_atomically};

/// Key of the label in the file's metadata.
const KEY: &str = "easyedit_artefact";
/// Temporary files that nobody has locked or written to for so long belong to a run that was killed: between its creation and its lock a
/// file is not older.
const ABANDONED: Duration = Duration::from_secs(60);
/// Bytes of a label and of the table of tensors, at most.
const LARGEST_HEADER: u64 = 64 << 20;

/// What an artefact is, with its checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtefactLabel {
    kind: String,
    identity: String,
    facts: String,
    sha256: String,
}

impl ArtefactLabel {
    /// The label of an artefact of a kind (a word with its version, `value/2`), whose contents depend on `identity` alone. `facts` go with it.
    ///
    /// # Errors
    ///
    /// If one of the two cannot be written as JSON.
    pub fn new(kind: &str, identity: &impl Serialize, facts: &impl Serialize) -> Result<Self> {
        let (identity, facts) =
            (serde_json::to_string(identity).map_err(Error::other)?, serde_json::to_string(facts).map_err(Error::other)?);
        Ok(Self { kind: kind.to_owned(), identity, facts, sha256: String::new() })
    }

    /// The label of a file's metadata, of this kind.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if it has no label, or that of another kind.
    pub fn of(path: &Path, kind: &str, metadata: &Metadata) -> Result<Self> {
        let label = metadata.metadata().as_ref().and_then(|entries| entries.get(KEY));
        let label =
            label.ok_or_else(|| Error::format(path, "has no checksum: another version wrote it, or it is no file of this cache"))?;
        let label: Self = serde_json::from_str(label).map_err(|e| Error::format(path, format!("has a damaged label: {e}")))?;
        if label.kind != kind {
            return Err(Error::format(path, format!("is {:?} instead of {kind:?}", label.kind)));
        }
        Ok(label)
    }

    /// What the contents depend on.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if it is not that of the kind.
    pub fn identity<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        serde_json::from_str(&self.identity).map_err(|e| Error::format(path, format!("has a damaged label: {e}")))
    }

    /// The small facts.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if they are not those of the kind.
    pub fn facts<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        serde_json::from_str(&self.facts).map_err(|e| Error::format(path, format!("has a damaged label: {e}")))
    }

    /// A checksum that has begun with the label: all tensors follow, each announced by [`hash_tensor`](Self::hash_tensor).
    pub fn checksum(&self) -> Sha256 {
        let mut hash = Sha256::new();
        for part in [&self.kind, &self.identity, &self.facts] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash
    }

    /// Announces a tensor to a checksum; its bytes follow.
    pub fn hash_tensor(hash: &mut Sha256, name: &str, dtype: Dtype, shape: &[usize]) {
        hash.update(format!("{}:{name}:{dtype:?}:{shape:?};", name.len()));
    }

    /// The label with its checksum, as an entry of a file's metadata.
    ///
    /// # Errors
    ///
    /// If it cannot be written as JSON.
    pub fn sealed(mut self, checksum: Sha256) -> Result<(String, String)> {
        self.sha256 = format!("{:x}", checksum.finalize());
        Ok((KEY.to_owned(), serde_json::to_string(&self).map_err(Error::other)?))
    }

    /// Compares the checksum of what was read with that of what was written.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file.
    pub fn check(&self, path: &Path, checksum: Sha256) -> Result<()> {
        match format!("{:x}", checksum.finalize()) == self.sha256 {
            true => Ok(()),
            false => Err(Error::format(path, "is damaged: its checksum does not fit its contents")),
        }
    }
}

/// A tensor of an artefact: little-endian numbers, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct ArtefactTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl ArtefactTensor {
    /// Of 32-bit floating-point numbers.
    pub fn of_f32(shape: Vec<usize>, values: &[f32]) -> Self {
        Self { dtype: Dtype::F32, shape, bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    /// Of 16-bit floating-point numbers, the nearest to `values`.
    pub fn of_f16(shape: Vec<usize>, values: &[f32]) -> Self {
        Self { dtype: Dtype::F16, shape, bytes: values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect() }
    }

    /// A vector of 64-bit floating-point numbers.
    pub fn of_f64(values: &[f64]) -> Self {
        Self { dtype: Dtype::F64, shape: vec![values.len()], bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    /// A vector of 32-bit whole numbers.
    pub fn of_u32(values: &[u32]) -> Self {
        Self { dtype: Dtype::U32, shape: vec![values.len()], bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    /// Text.
    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        Self { dtype: Dtype::U8, shape: vec![bytes.len()], bytes }
    }
}

/// An artefact: read whole, and found to be what was written.
#[derive(Debug)]
pub struct Artefact {
    path: PathBuf,
    label: ArtefactLabel,
    tensors: BTreeMap<String, ArtefactTensor>,
}

impl Artefact {
    /// Writes an artefact; see [`ArtefactLabel::new`].
    ///
    /// # Errors
    ///
    /// As [`write_atomically`]; or if the tensors' shapes do not fit their bytes.
    pub fn write(path: &Path, label: ArtefactLabel, tensors: &BTreeMap<String, ArtefactTensor>) -> Result<()> {
        let mut checksum = label.checksum();
        for (name, tensor) in tensors {
            ArtefactLabel::hash_tensor(&mut checksum, name, tensor.dtype, &tensor.shape);
            checksum.update(&tensor.bytes);
        }
        let fail = |e: safetensors::SafeTensorError| Error::format(path, e.to_string());
        let views = tensors.iter().map(|(name, t)| Ok((name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?)));
        let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(fail)?;
        let file = safetensors::serialize(views, Some(HashMap::from([label.sealed(checksum)?]))).map_err(fail)?;
        write_atomically(path, |w| w.write_all(&file))
    }

    /// Reads the artefact of this kind and identity; `None` if there is no file. Its tensors have at most `max_bytes` together.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if it is damaged, too large, or of something else; [`Error::Io`] if it cannot be read.
    pub fn read(path: &Path, kind: &str, identity: &impl Serialize, max_bytes: u64) -> Result<Option<Self>> {
        let bytes = match read_input(path, max_bytes.saturating_add(LARGEST_HEADER)) {
            Ok(bytes) => bytes,
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::parse(path, &bytes, kind, identity).map(Some)
    }

    /// Reads the bytes of an artefact of this kind and identity; `path` names them in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if they are damaged, or of something else.
    pub fn parse(path: &Path, bytes: &[u8], kind: &str, identity: &impl Serialize) -> Result<Self> {
        let damaged = |e: safetensors::SafeTensorError| Error::format(path, format!("is damaged: {e}"));
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let label = ArtefactLabel::of(path, kind, &metadata)?;
        let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            tensors.insert(name, ArtefactTensor { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() });
        }
        let mut checksum = label.checksum();
        for (name, tensor) in &tensors {
            ArtefactLabel::hash_tensor(&mut checksum, name, tensor.dtype, &tensor.shape);
            checksum.update(&tensor.bytes);
        }
        label.check(path, checksum)?;
        if label.identity != serde_json::to_string(identity).map_err(Error::other)? {
            return Err(Error::format(path, "is of something else: another model, request, text or other settings"));
        }
        Ok(Self { path: path.to_owned(), label, tensors })
    }

    /// The small facts.
    ///
    /// # Errors
    ///
    /// As [`ArtefactLabel::facts`].
    pub fn facts<T: DeserializeOwned>(&self) -> Result<T> {
        self.label.facts(&self.path)
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Shape and numbers of a tensor of finite 32-bit floating-point numbers; those of 16 bits are widened.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if there is no such tensor, it is of another type, or not finite.
    pub fn f32(&self, name: &str) -> Result<(&[usize], Vec<f32>)> {
        let is_half = self.tensors.get(name).is_some_and(|tensor| tensor.dtype == Dtype::F16);
        let tensor = self.tensor(name, if is_half { Dtype::F16 } else { Dtype::F32 })?;
        let values: Vec<f32> = match is_half {
            true => tensor.bytes.as_chunks::<2>().0.iter().map(|c| f16::from_le_bytes(*c).to_f32()).collect(),
            false => tensor.bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect(),
        };
        if values.iter().all(|v| v.is_finite()) { Ok((&tensor.shape, values)) } else { Err(self.not_finite(name)) }
    }

    /// A tensor of finite 64-bit floating-point numbers.
    ///
    /// # Errors
    ///
    /// As [`f32`](Self::f32).
    pub fn f64(&self, name: &str) -> Result<Vec<f64>> {
        let tensor = self.tensor(name, Dtype::F64)?;
        let values: Vec<f64> = tensor.bytes.as_chunks::<8>().0.iter().map(|c| f64::from_le_bytes(*c)).collect();
        if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(self.not_finite(name)) }
    }

    /// A tensor of 32-bit whole numbers.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if there is no such tensor, or it is of another type.
    pub fn u32(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.tensor(name, Dtype::U32)?.bytes.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c)).collect())
    }

    fn tensor(&self, name: &str, dtype: Dtype) -> Result<&ArtefactTensor> {
        let tensor = self.tensors.get(name).ok_or_else(|| Error::format(&self.path, format!("holds no tensor {name}")))?;
        match tensor.dtype == dtype {
            true => Ok(tensor),
            false => Err(Error::format(&self.path, format!("holds {name} as {:?} instead of {dtype:?}", tensor.dtype))),
        }
    }

    fn not_finite(&self, name: &str) -> Error {
        Error::format(&self.path, format!("holds NaN or infinity in {name}"))
    }
}

/// Writes into a cache folder. Where the folder cannot be written to, the run goes on without what it would have kept: `None`, and one
/// warning for each top folder `cache`.
///
/// # Errors
///
/// Other errors of `write` than a lack of permission.
pub fn keep_in_cache(cache: &Path, write: impl FnOnce() -> Result<()>) -> Result<Option<()>> {
    match write() {
        Ok(()) => Ok(Some(())),
        Err(error) if is_read_only(&error) => {
            if once(&WARNED, cache) {
                tracing::warn!("{error}; nothing is kept in the cache folder {} (set EASYEDIT_CACHE to another)", cache.display());
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static TIDIED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Whether a path comes by for the first time.
fn once(seen: &Mutex<BTreeSet<PathBuf>>, path: &Path) -> bool {
    seen.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned())
}

fn is_read_only(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
}

/// Removes what killed runs have left in a folder: temporary files that nobody holds locked or has written to for a minute. Looks once per run and
/// folder; what cannot be looked at or removed is left.
pub fn tidy_cache_folder(folder: &Path) {
    if once(&TIDIED, folder) {
        remove_abandoned(folder, SystemTime::now());
    }
}

fn remove_abandoned(folder: &Path, now: SystemTime) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        // Of the entry itself, never of what a link leads to.
        let written = entry.metadata().ok().filter(std::fs::Metadata::is_file).and_then(|metadata| metadata.modified().ok());
        if written.and_then(|written| now.duration_since(written).ok()).is_some_and(|age| age > ABANDONED)
            && is_unused(&entry.path())
            && std::fs::remove_file(entry.path()).is_ok()
        {
            tracing::info!("removed {}, which an interrupted run left behind", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path) -> Vec<u8> {
        let label = ArtefactLabel::new("number/1", &("model", 7), &"seven").unwrap();
        let tensors = BTreeMap::from([
            ("a".to_owned(), ArtefactTensor::of_f32(vec![2, 1], &[1.0, 2.0])),
            ("b".to_owned(), ArtefactTensor::of_f64(&[3.0])),
            ("c".to_owned(), ArtefactTensor::of_bytes(vec![4, 5])),
            ("d".to_owned(), ArtefactTensor::of_u32(&[6, 7])),
        ]);
        Artefact::write(path, label, &tensors).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        assert!(Artefact::read(&path, "number/1", &("model", 7), 100).unwrap().is_none());
        written(&path);
        let found = Artefact::read(&path, "number/1", &("model", 7), 100).unwrap().unwrap();
        assert_eq!(found.facts::<String>().unwrap(), "seven");
        assert_eq!(found.f32("a").unwrap(), (&[2, 1][..], vec![1.0, 2.0]));
        assert_eq!(found.f64("b").unwrap(), [3.0]);
        assert_eq!(found.u32("d").unwrap(), [6, 7]);
        assert!(found.has("c") && !found.has("e"));
        assert!(found.f32("b").unwrap_err().to_string().contains("F64 instead of F32"));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let bytes = written(&path);
        let read = || Artefact::read(&path, "number/1", &("model", 7), 100);
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            std::fs::write(&path, &flipped).unwrap();
            match read() {
                Err(error) => assert!(error.to_string().contains("x.safetensors"), "{error}"),
                // A bit of white space in the header may change nothing that is read.
                Ok(found) => {
                    let found = found.unwrap();
                    assert_eq!((found.f32("a").unwrap().1, found.f64("b").unwrap()), (vec![1.0, 2.0], vec![3.0]));
                }
            }
            std::fs::write(&path, &bytes[..place]).unwrap();
            assert!(read().unwrap_err().to_string().contains("x.safetensors"));
        }
    }

    #[test]
    fn artefacts_of_something_else_or_without_a_label_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        written(&path);
        let message = |kind: &str, model: &str| Artefact::read(&path, kind, &(model, 7), 100).unwrap_err().to_string();
        assert!(message("number/1", "other").contains("something else"));
        assert!(message("number/2", "model").contains("\"number/1\" instead of \"number/2\""));
        assert!(Artefact::read(&path, "number/1", &("model", 7), 0).unwrap().is_some(), "a small file fits into the header's allowance");
        let plain = safetensors::serialize([("a", TensorView::new(Dtype::U8, vec![1], &[1]).unwrap())], None).unwrap();
        std::fs::write(&path, plain).unwrap();
        assert!(message("number/1", "model").contains("no checksum"));
    }

    #[test]
    fn abandoned_temporary_files_are_removed_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let touch = |name: &str| std::fs::write(dir.path().join(name), "x").unwrap();
        [".easyedit-abc", ".easyedit.lock", "x.safetensors"].into_iter().for_each(touch);
        std::fs::create_dir(dir.path().join(".easyedit-folder")).unwrap();
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        remove_abandoned(dir.path(), SystemTime::now());
        assert_eq!(names().len(), 4, "a file that was just written belongs to a live run");
        let live = std::fs::File::open(dir.path().join(".easyedit-abc")).unwrap();
        fs4::FileExt::try_lock(&live).unwrap();
        remove_abandoned(dir.path(), SystemTime::now() + 2 * ABANDONED);
        assert_eq!(names().len(), 4, "a file that is locked belongs to a live run");
        drop(live);
        remove_abandoned(dir.path(), SystemTime::now() + 2 * ABANDONED);
        assert_eq!(names(), [".easyedit-folder", ".easyedit.lock", "x.safetensors"]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_no_error_and_other_failures_are() {
        let cache = Path::new("read-only");
        let failing = |kind: ErrorKind| keep_in_cache(cache, || Err(Error::io("write", "read-only/x", kind.into())));
        assert!(failing(ErrorKind::PermissionDenied).unwrap().is_none());
        assert!(failing(ErrorKind::ReadOnlyFilesystem).unwrap().is_none());
        assert!(failing(ErrorKind::StorageFull).is_err());
        assert!(keep_in_cache(cache, || Ok(())).unwrap().is_some());
    }
}
