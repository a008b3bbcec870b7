//! The form of every file that easyedit writes for itself: edits, and what it keeps in cache folders.
//!
//! An artefact is a safetensors file. Its metadata holds an [`ArtefactLabel`] under one key: the kind of artefact with its version, its
//! identity (all that the contents depend on), facts as JSON, and the SHA-256 over these and the tensors. It is encoded by [`EncodedArtefact`]
//! and read by [`ArtefactFile`] alone, in parts, so neither takes memory beside the numbers themselves. A file that does not fit its checksum, or is
//! of something else, is an error for the reader; what a cache folder holds is then made anew.

mod encoded;
mod file;
mod label;
mod numbers;
mod tensor;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use encoded::EncodedArtefact;
pub use file::ArtefactFile;
pub use label::ArtefactLabel;
pub(crate) use numbers::ReadTensors;
pub use tensor::ArtefactTensor;

use crate::{Error, Result, write_atomically};

/// An artefact: read whole, and found to be what was written.
#[derive(Debug)]
pub struct Artefact {
    path: PathBuf,
    label: ArtefactLabel,
    tensors: ReadTensors,
}

impl Artefact {
    /// Writes an artefact; see [`ArtefactLabel::new`].
    ///
    /// # Errors
    ///
    /// As [`write_atomically`]; or if the tensors' shapes do not fit their numbers.
    pub fn write(path: &Path, label: ArtefactLabel, tensors: BTreeMap<String, ArtefactTensor<'_>>) -> Result<()> {
        let encoded = EncodedArtefact::new(label, tensors).map_err(|message| Error::format(path, message))?;
        write_atomically(path, |w| encoded.write_to(w))
    }

    /// Reads the artefact of this kind and identity; `None` if there is no file. Its tensors have at most `max_bytes` together.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if it is damaged, too large, or of something else; [`Error::Io`] if it cannot be read.
    pub fn read(path: &Path, kind: &str, identity: &impl Serialize, max_bytes: u64) -> Result<Option<Self>> {
        ArtefactFile::find(path, max_bytes)?.map(|file| Self::read_whole(file, kind, identity)).transpose()
    }

    /// Reads the bytes of an artefact of this kind and identity; `path` names them in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if they are damaged, or of something else.
    pub fn parse(path: &Path, bytes: &[u8], kind: &str, identity: &impl Serialize) -> Result<Self> {
        Self::read_whole(ArtefactFile::new(path, bytes, bytes.len() as u64)?, kind, identity)
    }

    fn read_whole(file: ArtefactFile<impl Read>, kind: &str, identity: &impl Serialize) -> Result<Self> {
        let (path, label) = (file.path().to_owned(), file.label(kind)?);
        let tensors = ReadTensors::read(file, Some(&label))?;
        if !label.is_of(identity)? {
            return Err(Error::format(path, "is of something else: another model, request, text or other settings"));
        }
        Ok(Self { path, label, tensors })
    }

    /// The small facts.
    ///
    /// # Errors
    ///
    /// As [`ArtefactLabel::facts`].
    pub fn facts<T: DeserializeOwned>(&self) -> Result<T> {
        self.label.facts(&self.path)
    }

    /// Names of the tensors that were not taken yet, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tensors.names().map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    /// Whether there is a tensor of this name that was not taken yet.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.has(name)
    }

    /// Takes shape and numbers of a tensor of finite 32-bit floating-point numbers; those of 16 bits are widened.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if there is no such tensor, it is of another type, or not finite.
    pub fn f32(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (shape, values) = match self.tensors.is_of::<f16>(name) {
            true => {
                let (shape, values) = self.tensors.take::<f16>(name)?;
                (shape, values.to_f32_vec())
            }
            false => self.tensors.take::<f32>(name)?,
        };
        if values.iter().all(|v| v.is_finite()) { Ok((shape, values)) } else { Err(self.not_finite(name)) }
    }

    /// Takes a tensor of finite 64-bit floating-point numbers.
    ///
    /// # Errors
    ///
    /// As [`f32`](Self::f32).
    pub fn f64(&mut self, name: &str) -> Result<Vec<f64>> {
        let (_, values) = self.tensors.take::<f64>(name)?;
        if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(self.not_finite(name)) }
    }

    /// Takes a tensor of 32-bit whole numbers.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if there is no such tensor, or it is of another type.
    pub fn u32(&mut self, name: &str) -> Result<Vec<u32>> {
        Ok(self.tensors.take(name)?.1)
    }

    fn not_finite(&self, name: &str) -> Error {
        self.tensors.fault(format!("holds NaN or infinity in {name}"))
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;

    fn written(path: &Path) -> Vec<u8> {
        let label = ArtefactLabel::new("number/1", &("model", 7), &"seven").unwrap();
        let tensors = [
            ("a", ArtefactTensor::of_f32(&[2, 1], &[1.0, 2.0])),
            ("b", ArtefactTensor::of_f64(&[3.0])),
            ("c", ArtefactTensor::of_bytes(&[4, 5])),
            ("d", ArtefactTensor::of_u32(&[6, 7])),
            ("e", ArtefactTensor::of_f32(&[0, 3], &[])),
            ("f", ArtefactTensor::of_f32(&[3, 0], &[])),
            ("g", ArtefactTensor::of_u32(&[])),
            ("h", ArtefactTensor::of_i128(&[-2])),
            ("i", ArtefactTensor::of_f16(&[2], &[0.5, -3.0])),
        ];
        Artefact::write(path, label, tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into()).unwrap();
        std::fs::read(path).unwrap()
    }

    fn read(path: &Path) -> Result<Option<Artefact>> {
        Artefact::read(path, "number/1", &("model", 7), 100)
    }

    #[test]
    fn what_was_written_is_read_by_us_and_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        assert!(read(&path).unwrap().is_none());
        let bytes = written(&path);
        let mut found = read(&path).unwrap().unwrap();
        assert_eq!(found.facts::<String>().unwrap(), "seven");
        assert_eq!(found.f32("a").unwrap(), (vec![2, 1], vec![1.0, 2.0]));
        assert!(found.f32("b").unwrap_err().to_string().contains("F64 instead of F32"));
        assert_eq!(found.u32("d").unwrap(), [6, 7]);
        assert_eq!(found.f32("f").unwrap(), (vec![3, 0], vec![]));
        assert!(found.has("c") && !found.has("d"), "a tensor is taken once");
        assert_eq!(read(&path).unwrap().unwrap().f64("b").unwrap(), [3.0]);
        let others = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(others.len(), 9);
        assert_eq!(found.names(), ["c", "e", "g", "h", "i"]);
        assert_eq!(found.f32("i").unwrap(), (vec![2], vec![0.5, -3.0]));
        assert_eq!(others.tensor("c").unwrap().data(), [4, 5]);
        assert_eq!(others.tensor("h").unwrap().data(), (-2i128).to_le_bytes());
        assert_eq!((others.tensor("h").unwrap().dtype(), others.tensor("h").unwrap().shape()), (Dtype::I64, &[1, 2][..]));
    }

    #[test]
    fn tensors_of_several_parts_are_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let values: Vec<f32> = (0..tensor::PART / 2 + 3).map(|i| i as f32).collect();
        let tensors = [("a".to_owned(), ArtefactTensor::of_f32(&[values.len()], &values))].into();
        Artefact::write(&path, ArtefactLabel::new("many/1", &(), &()).unwrap(), tensors).unwrap();
        let mut found = Artefact::read(&path, "many/1", &(), 4 * values.len() as u64).unwrap().unwrap();
        assert_eq!(found.f32("a").unwrap(), (vec![values.len()], values));
        assert!(
            Artefact::write(
                &path,
                ArtefactLabel::new("many/1", &(), &()).unwrap(),
                [("a".to_owned(), ArtefactTensor::of_f32(&[3], &[1.0]))].into()
            )
            .is_err()
        );
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let bytes = written(&path);
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            std::fs::write(&path, &flipped).unwrap();
            match read(&path) {
                Err(error) => assert!(error.to_string().contains("x.safetensors"), "{error}"),
                // A bit of white space in the header may change nothing that is read.
                Ok(found) => {
                    let mut found = found.unwrap();
                    assert_eq!((found.f32("a").unwrap().1, found.f64("b").unwrap()), (vec![1.0, 2.0], vec![3.0]));
                }
            }
            std::fs::write(&path, &bytes[..place]).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("x.safetensors"));
        }
    }

    #[test]
    fn artefacts_of_something_else_or_without_a_label_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        written(&path);
        let message = |kind: &str, model: &str| Artefact::read(&path, kind, &(model, 7), 100).unwrap_err().to_string();
        assert!(message("number/1", "other").contains("something else"));
        assert!(message("number/2", "model").ends_with("is \"number/1\" instead of \"number/2\""));
        assert!(message("number/0", "model").contains("update easyedit"));
        assert!(Artefact::read(&path, "number/1", &("model", 7), 0).unwrap().is_some(), "a small file fits into the header's allowance");
        let plain = safetensors::serialize([("a", TensorView::new(Dtype::U8, vec![1], &[1]).unwrap())], None).unwrap();
        std::fs::write(&path, plain).unwrap();
        assert!(message("number/1", "model").contains("no checksum"));
    }
}
