use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Key of the label in a file's metadata.
pub(super) const KEY: &str = "easyedit_artefact";

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

    /// The label that `entry`, of the metadata of the file at `path`, holds.
    pub(super) fn parse(path: &Path, entry: Option<&str>, kind: &str) -> Result<Self> {
        let entry = entry.ok_or_else(|| Error::format(path, "has no checksum: another version wrote it, or it is no file of easyedit"))?;
        let label: Self = serde_json::from_str(entry).map_err(|e| Error::format(path, format!("has a damaged label: {e}")))?;
        if label.kind != kind {
            let advice = if is_newer(&label.kind, kind) { "; a newer easyedit wrote it: update easyedit" } else { "" };
            return Err(Error::format(path, format!("is {:?} instead of {kind:?}{advice}", label.kind)));
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

    /// Whether the contents depend on `identity`.
    pub(super) fn is_of(&self, identity: &impl Serialize) -> Result<bool> {
        Ok(self.identity == serde_json::to_string(identity).map_err(Error::other)?)
    }

    /// The small facts.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if they are not those of the kind.
    pub fn facts<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        serde_json::from_str(&self.facts).map_err(|e| Error::format(path, format!("has a damaged label: {e}")))
    }

    /// A checksum that has begun with the label. All tensors follow in the order of the file.
    pub(super) fn checksum(&self) -> Sha256 {
        let mut hash = Sha256::new();
        for part in [&self.kind, &self.identity, &self.facts] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash
    }

    /// The label with its checksum, as an entry of a file's metadata.
    pub(super) fn sealed(mut self, checksum: Sha256) -> Result<(String, String), serde_json::Error> {
        self.sha256 = format!("{:x}", checksum.finalize());
        Ok((KEY.to_owned(), serde_json::to_string(&self)?))
    }

    /// Compares the checksum of what was read with that of what was written.
    pub(super) fn check(&self, path: &Path, checksum: Sha256) -> Result<()> {
        match format!("{:x}", checksum.finalize()) == self.sha256 {
            true => Ok(()),
            false => Err(Error::format(path, "is damaged: its checksum does not fit its contents")),
        }
    }
}

/// Whether `found` is a later version of the kind `wanted`.
fn is_newer(found: &str, wanted: &str) -> bool {
    let parts = |kind: &str| kind.split_once('/').and_then(|(word, version)| Some((word.to_owned(), version.parse::<u32>().ok()?)));
    matches!((parts(found), parts(wanted)), (Some((a, found)), Some((b, wanted))) if a == b && found > wanted)
}
