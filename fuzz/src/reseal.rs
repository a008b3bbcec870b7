//! Checksums that fit again, so that what lies behind the check is reached, too.

use std::path::Path;

use easyedit::ArtefactLabel;
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::Digest;

/// A mutated artefact with the checksum of its contents in place of the old one; as it is if it is none, or its checksum is not as long.
pub(crate) fn resealed(content: &[u8]) -> Vec<u8> {
    reseal(content).unwrap_or_else(|| content.to_vec())
}

fn reseal(content: &[u8]) -> Option<Vec<u8>> {
    let (_, metadata) = SafeTensors::read_metadata(content).ok()?;
    let file = SafeTensors::deserialize(content).ok()?;
    let entry: Value = metadata.metadata().as_ref()?.values().find_map(|entry| serde_json::from_str(entry).ok())?;
    let (kind, old) = (entry.get("kind")?.as_str()?, entry.get("sha256")?.as_str()?);
    let label = ArtefactLabel::of(Path::new("mutated"), kind, &metadata).ok()?;
    let mut checksum = label.checksum();
    let mut tensors = file.tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, view) in &tensors {
        ArtefactLabel::hash_tensor(&mut checksum, name, view.dtype(), view.shape());
        checksum.update(view.data());
    }
    let (_, sealed) = label.sealed(checksum).ok()?;
    let new: Value = serde_json::from_str(&sealed).ok()?;
    let new = new.get("sha256")?.as_str()?;
    if old.is_empty() || old.len() != new.len() {
        return None;
    }
    let at = content.windows(old.len()).position(|window| window == old.as_bytes())?;
    let mut resealed = content.to_vec();
    resealed.get_mut(at..at + new.len())?.copy_from_slice(new.as_bytes());
    Some(resealed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use easyedit::{Artefact, ArtefactTensor};

    use super::*;

    #[test]
    fn a_changed_tensor_is_read_again_once_its_checksum_is_renewed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.safetensors");
        let tensors = BTreeMap::from([
            ("b".to_owned(), ArtefactTensor::of_f64(&[1.0])),
            ("a".to_owned(), ArtefactTensor::of_f32(vec![1, 2], &[2.0, 3.0])),
        ]);
        Artefact::write(&path, ArtefactLabel::new("kept/1", &"this", &7).unwrap(), &tensors).unwrap();
        let read = || Artefact::read(&path, "kept/1", &"this", 1 << 20);
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(resealed(&bytes), bytes);
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(read().unwrap_err().to_string().contains("checksum"));
        std::fs::write(&path, resealed(&bytes)).unwrap();
        let kept = read().unwrap().unwrap();
        assert_ne!((kept.f32("a").unwrap().1, kept.f64("b").unwrap()), (vec![2.0, 3.0], vec![1.0]));
        assert_eq!(resealed(b"no artefact"), b"no artefact");
    }
}
