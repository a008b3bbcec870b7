use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::{Error, Matrix, Result};

/// SHA-256 of one vector's width and values.
pub(crate) type VectorHash = [u8; 32];

/// Vectors that stand in the place of the embeddings of consecutive tokens of a row, e.g. those of a picture.
///
/// The ids at these places are placeholders: any id of the vocabulary. Every vector has a content hash of its own, so a part of an insert is
/// known by the same hashes as the whole. Clones and parts share the vectors, which are kept in host memory.
#[derive(Clone)]
pub struct Insert {
    start: usize,
    vectors: Arc<Vectors>,
    /// The vectors of this part.
    part: Range<usize>,
}

struct Vectors {
    values: Matrix,
    /// One for each vector.
    hashes: Vec<VectorHash>,
}

impl Insert {
    /// Puts `vectors` in the place of the embeddings of the tokens from index `start` of a row on.
    ///
    /// # Shapes
    ///
    /// `vectors: [count, d_model]`
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there is no vector or it has no width, [`Error::NotFinite`] if a value is NaN or infinite.
    pub fn new(start: usize, vectors: Matrix) -> Result<Self> {
        let [count, width] = vectors.shape();
        if count == 0 || width == 0 {
            return Err(Error::Batch(format!("an insert of {count} vectors of width {width} stands for no token")));
        }
        if let Some(place) = vectors.values().iter().position(|value| !value.is_finite()) {
            return Err(Error::NotFinite(format!("vector {} of an insert holds NaN or infinity", place / width)));
        }
        let hashes = vectors.values().chunks_exact(width).map(hash).collect();
        Ok(Self { start, part: 0..count, vectors: Arc::new(Vectors { values: vectors, hashes }) })
    }

    /// Indices of the tokens whose embeddings the vectors replace.
    pub fn tokens(&self) -> Range<usize> {
        self.start..self.start.saturating_add(self.part.len())
    }

    /// Width of the vectors.
    pub fn width(&self) -> usize {
        let [_, width] = self.vectors.values.shape();
        width
    }

    /// The vectors, one after the other: `[count, d_model]`.
    pub fn values(&self) -> &[f32] {
        let width = self.width();
        self.vectors.values.values().get(self.part.start * width..self.part.end * width).unwrap_or_default()
    }

    /// Hash of the vector at token `token`; `None` if the insert does not reach there.
    pub(crate) fn vector_hash(&self, token: usize) -> Option<&VectorHash> {
        let offset = token.checked_sub(self.start).filter(|offset| *offset < self.part.len())?;
        self.vectors.hashes.get(self.part.start + offset)
    }

    /// The vectors at the tokens `tokens`, placed so that the first of these tokens gets index `start`; `None` if there are none.
    pub(crate) fn cut(&self, tokens: &Range<usize>, start: usize) -> Option<Self> {
        let own = self.tokens();
        let kept = own.start.max(tokens.start)..own.end.min(tokens.end);
        (!kept.is_empty()).then(|| Self {
            start: start + (kept.start - tokens.start),
            vectors: Arc::clone(&self.vectors),
            part: self.part.start + (kept.start - own.start)..self.part.start + (kept.end - own.start),
        })
    }
}

impl fmt::Debug for Insert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Insert").field("tokens", &self.tokens()).field("width", &self.width()).finish_non_exhaustive()
    }
}

fn hash(vector: &[f32]) -> VectorHash {
    let mut hash = Sha256::new();
    hash.update((vector.len() as u64).to_le_bytes());
    vector.iter().for_each(|value| hash.update(value.to_le_bytes()));
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_that_are_none_or_not_finite_are_refused() {
        let of =
            |rows, cols, values: Vec<f32>| Insert::new(0, Matrix::new(rows, cols, values).unwrap()).map(|_| ()).map_err(|e| e.to_string());
        assert!(of(0, 2, vec![]).unwrap_err().contains("0 vectors"));
        assert!(of(2, 0, vec![]).unwrap_err().contains("width 0"));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(of(2, 2, vec![0.0, 1.0, 2.0, bad]).unwrap_err().contains("vector 1"));
        }
        of(2, 2, vec![0.0, 1.0, 2.0, f32::MAX]).unwrap();
    }

    #[test]
    fn a_part_has_the_vectors_and_hashes_of_its_tokens() {
        let whole = Insert::new(3, Matrix::new(3, 2, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap()).unwrap();
        let part = whole.cut(&(4..9), 0).unwrap();
        assert_eq!((part.tokens(), part.values()), (0..2, &[2.0, 3.0, 4.0, 5.0][..]));
        assert_eq!(part.vector_hash(0), whole.vector_hash(4));
        let middle = part.cut(&(0..1), 7).unwrap();
        assert_eq!((middle.tokens(), middle.values()), (7..8, &[2.0, 3.0][..]));
        assert_eq!((middle.vector_hash(7), middle.vector_hash(8), middle.vector_hash(6)), (whole.vector_hash(4), None, None));
        assert!(whole.cut(&(0..3), 0).is_none() && whole.cut(&(6..9), 0).is_none());
        assert_eq!(whole.cut(&(1..4), 10).unwrap().tokens(), 12..13);
    }
}
