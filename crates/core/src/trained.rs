use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Artefact, ArtefactLabel, ArtefactTensor, Error, HostTensor, Result};

/// Kind and version of the file.
const KIND: &str = "trained/1";
/// Largest file that is read.
const MOST_BYTES: u64 = 64 << 30;

/// What a method has learned in training: its parameters and statistics, and what they fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// Name of the method.
    pub method: String,
    /// Parameters and statistics, by the names that the method gives them.
    pub tensors: BTreeMap<String, HostTensor>,
    /// What the method has to know of the training: settings, fingerprints of the base model. Null if unknown, as of files of other programs.
    pub facts: Value,
}

/// What the label of the file says.
#[derive(Serialize, Deserialize)]
struct Facts {
    method: String,
    facts: Value,
}

impl Trained {
    /// Writes the file; if `half`, matrices as 16-bit numbers, at half the size. Vectors keep 32 bits: statistics and counts are among them.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] naming the file; the file that was there stays then.
    pub fn save(&self, path: &Path, half: bool) -> Result<()> {
        let label = ArtefactLabel::new(KIND, &(), &Facts { method: self.method.clone(), facts: self.facts.clone() })?;
        let array = |tensor: &HostTensor| {
            let is_half = half && tensor.shape().len() > 1;
            if is_half {
                ArtefactTensor::of_f16(tensor.shape().to_vec(), tensor.values())
            } else {
                ArtefactTensor::of_f32(tensor.shape().to_vec(), tensor.values())
            }
        };
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.clone(), array(tensor)));
        Artefact::write(path, label, &tensors.collect())
    }

    /// Reads a file that [`save`](Self::save) has written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] naming the file if it cannot be read, [`Error::Format`] if it is damaged or something else.
    pub fn load(path: &Path) -> Result<Self> {
        let missing = || Error::io("read", path, std::io::ErrorKind::NotFound.into());
        Self::of(path, &Artefact::read(path, KIND, &(), MOST_BYTES)?.ok_or_else(missing)?)
    }

    /// Reads the bytes of such a file; `path` names them in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if they are damaged or something else.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Self::of(path, &Artefact::parse(path, bytes, KIND, &())?)
    }

    fn of(path: &Path, file: &Artefact) -> Result<Self> {
        let Facts { method, facts } = file.facts()?;
        let tensor = |name: &str| -> Result<(String, HostTensor)> {
            let (shape, values) = file.f32(name)?;
            let tensor = HostTensor::new(shape.to_vec(), values);
            Ok((name.to_owned(), tensor.ok_or_else(|| Error::format(path, format!("holds {name} in a shape it does not fit")))?))
        };
        let tensors = file.names().map(tensor).collect::<Result<_>>()?;
        Ok(Self { method, tensors, facts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let tensors = BTreeMap::from([("a".to_owned(), HostTensor::new(vec![1, 2, 1], vec![0.5, 1.0 / 3.0]).unwrap())]);
        let trained = Trained { method: "LEARNED".into(), tensors, facts: serde_json::json!({"rank": 8}) };
        trained.save(&path, false).unwrap();
        assert_eq!(Trained::load(&path).unwrap(), trained);
        trained.save(&path, true).unwrap();
        let half = Trained::load(&path).unwrap();
        assert_eq!(half.tensors["a"].values()[0], 0.5);
        assert!((half.tensors["a"].values()[1] - 1.0 / 3.0).abs() < 2e-4);
        let message = Trained::load(&dir.path().join("other.safetensors")).unwrap_err().to_string();
        assert!(message.contains("other.safetensors"), "{message}");
    }
}
