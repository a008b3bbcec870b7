use std::fmt;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Result, matrix::tensor_values};

/// SHA-256 of a tensor's shape and its values as little-endian `f32`: the same for a checkpoint stored in f32, or in f16/bf16 and
/// widened, so that an edit can be checked against the weights it was made for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Fingerprint of a matrix on any device.
    ///
    /// # Errors
    ///
    /// If the device cannot give the values back.
    pub fn of(tensor: &Tensor<2>) -> Result<Self> {
        Ok(fingerprint_values(tensor.dims(), &tensor_values(tensor)?))
    }

    /// The hexadecimal digest.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.0.get(..12).unwrap_or(&self.0))
    }
}

/// [`Fingerprint`] of row-major values in host memory.
pub fn fingerprint_values(shape: [usize; 2], values: &[f32]) -> Fingerprint {
    tracing::trace!(target: "easyedit::work", ?shape, "fingerprint");
    let mut hash = Sha256::new();
    for dim in shape {
        hash.update((dim as u64).to_le_bytes());
    }
    if cfg!(target_endian = "little") {
        hash.update(bytemuck::cast_slice::<f32, u8>(values));
    } else {
        for value in values {
            hash.update(value.to_le_bytes());
        }
    }
    from_hash(hash)
}

/// The fingerprint of what was put into `hash`.
pub(crate) fn from_hash(hash: Sha256) -> Fingerprint {
    Fingerprint(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
