use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::insert::VectorHash;
use crate::{Error, Insert, Result};

/// What a model reads as one sequence: token ids, and [`Insert`]s in the place of the embeddings of some of them.
///
/// Two rows are equal if they have the same ids and, at every token, the same inserted vector or none; how the vectors are divided into
/// inserts does not matter. Order and hash agree with equality, and rows are ordered token by token. A row without inserts is as cheap as its
/// ids.
#[derive(Clone, Debug, Default)]
pub struct TokenRow {
    ids: Vec<u32>,
    /// In rising order, without overlaps.
    inserts: Vec<Insert>,
}

/// Consecutive tokens of a [`TokenRow`], or plain ids; borrowed.
#[derive(Clone, Copy, Debug)]
pub struct TokenSlice<'a> {
    ids: &'a [u32],
    /// Those of the owner that reach into the slice.
    inserts: &'a [Insert],
    /// Index of the first token in the owner, which the inserts count from.
    start: usize,
}

/// Something that can be read as tokens: rows, and plain ids, which are rows without inserts.
pub trait AsTokens {
    /// The tokens.
    fn as_tokens(&self) -> TokenSlice<'_>;
}

impl TokenRow {
    /// A row of `ids` with `inserts`, in any order.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if an insert leaves the row, or two of them overlap.
    pub fn with_inserts(ids: Vec<u32>, mut inserts: Vec<Insert>) -> Result<Self> {
        inserts.sort_by_key(|insert| insert.tokens().start);
        let mut free = 0;
        for insert in &inserts {
            let Range { start, end } = insert.tokens();
            if end > ids.len() {
                return Err(Error::Batch(format!("an insert at tokens {start} to {end} leaves a row of {} tokens", ids.len())));
            }
            if start < free {
                return Err(Error::Batch(format!("an insert begins at token {start}, inside of another that ends at token {free}")));
            }
            free = end;
        }
        Ok(Self { ids, inserts })
    }

    /// The ids; placeholders where vectors are inserted.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The whole row, borrowed.
    pub fn as_slice(&self) -> TokenSlice<'_> {
        TokenSlice { ids: &self.ids, inserts: &self.inserts, start: 0 }
    }

    /// The first `count` tokens, or all if there are fewer.
    pub fn prefix(&self, count: usize) -> TokenSlice<'_> {
        self.as_slice().prefix(count)
    }

    /// The tokens from index `start` on; none if the row ends before it.
    pub fn suffix(&self, start: usize) -> TokenSlice<'_> {
        self.as_slice().suffix(start)
    }

    /// Appends a token without an inserted vector.
    pub fn push(&mut self, id: u32) {
        self.ids.push(id);
    }

    /// Appends tokens with what is inserted in their place.
    pub fn append(&mut self, tokens: impl AsTokens) {
        let tokens = tokens.as_tokens();
        self.inserts.extend(tokens.inserts_from(self.ids.len()));
        self.ids.extend_from_slice(tokens.ids);
    }
}

impl<'a> TokenSlice<'a> {
    /// A slice of the tokens of `ids`, with `inserts` in rising order and inside of them.
    pub(crate) fn of_parts(ids: &'a [u32], inserts: &'a [Insert]) -> Self {
        Self { ids, inserts, start: 0 }
    }

    /// The ids; placeholders where vectors are inserted.
    pub fn ids(self) -> &'a [u32] {
        self.ids
    }

    /// Number of tokens.
    pub fn len(self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(self) -> bool {
        self.ids.is_empty()
    }

    /// The first `count` tokens, or all if there are fewer. An insert that is cut keeps its vectors of these tokens.
    #[must_use]
    pub fn prefix(self, count: usize) -> Self {
        let ids = self.ids.get(..count).unwrap_or(self.ids);
        let end = self.start + ids.len();
        let reaching = self.inserts.partition_point(|insert| insert.tokens().start < end);
        Self { ids, inserts: self.inserts.get(..reaching).unwrap_or_default(), start: self.start }
    }

    /// The tokens from index `start` on; none if the slice ends before it. An insert that is cut keeps its vectors of these tokens.
    #[must_use]
    pub fn suffix(self, start: usize) -> Self {
        let start = start.min(self.ids.len());
        let first = self.start + start;
        let before = self.inserts.partition_point(|insert| insert.tokens().end <= first);
        Self { ids: self.ids.get(start..).unwrap_or_default(), inserts: self.inserts.get(before..).unwrap_or_default(), start: first }
    }

    /// The tokens `tokens`, as far as there are any.
    #[must_use]
    pub fn slice(self, tokens: Range<usize>) -> Self {
        self.suffix(tokens.start).prefix(tokens.len())
    }

    /// Number of tokens that both begin with, inserted vectors included.
    pub fn shared_prefix_len(self, other: Self) -> usize {
        let same_ids = self.ids.iter().zip(other.ids).take_while(|(a, b)| a == b).count();
        if self.inserts.is_empty() && other.inserts.is_empty() {
            return same_ids;
        }
        (0..same_ids).take_while(|token| self.vector_hash(*token) == other.vector_hash(*token)).count()
    }

    /// The tokens as a row of their own; vectors are shared.
    pub fn to_row(self) -> TokenRow {
        TokenRow { ids: self.ids.to_vec(), inserts: self.inserts_from(0).collect() }
    }

    /// The inserts, placed so that the slice's first token has index 0.
    pub fn inserts(self) -> impl Iterator<Item = Insert> + 'a {
        self.inserts_from(0)
    }

    /// The inserts, placed so that the slice's first token has index `start`.
    pub(crate) fn inserts_from(self, start: usize) -> impl Iterator<Item = Insert> + 'a {
        let tokens = self.start..self.start + self.ids.len();
        self.inserts.iter().filter_map(move |insert| insert.cut(&tokens, start))
    }

    /// Hash of the vector inserted at token `token`, if one is.
    fn vector_hash(self, token: usize) -> Option<&'a VectorHash> {
        let token = self.start + token;
        let before = self.inserts.partition_point(|insert| insert.tokens().end <= token);
        self.inserts.get(before)?.vector_hash(token)
    }

    /// The tokens with inserted vectors, and their hashes.
    fn vector_hashes(self) -> impl Iterator<Item = (usize, &'a VectorHash)> {
        let count = if self.inserts.is_empty() { 0 } else { self.ids.len() };
        (0..count).filter_map(move |token| Some((token, self.vector_hash(token)?)))
    }
}

impl PartialEq for TokenSlice<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.shared_prefix_len(*other) == self.len()
    }
}

impl Eq for TokenSlice<'_> {}

impl PartialOrd for TokenSlice<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TokenSlice<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.inserts.is_empty() && other.inserts.is_empty() {
            return self.ids.cmp(other.ids);
        }
        let shared = self.shared_prefix_len(*other);
        let next = |tokens: &Self| tokens.ids.get(shared).map(|id| (*id, tokens.vector_hash(shared).copied()));
        next(self).cmp(&next(other))
    }
}

impl Hash for TokenSlice<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ids.hash(state);
        self.vector_hashes().for_each(|vector| vector.hash(state));
    }
}

impl PartialEq for TokenRow {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for TokenRow {}

impl PartialOrd for TokenRow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TokenRow {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(&other.as_slice())
    }
}

impl Hash for TokenRow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl From<Vec<u32>> for TokenRow {
    fn from(ids: Vec<u32>) -> Self {
        Self { ids, inserts: Vec::new() }
    }
}

/// The row's identity: its ids and, only if there are any, the tokens with inserted vectors and the vectors' hashes. The vectors themselves
/// are left out.
impl Serialize for TokenRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_struct("TokenRow", if self.inserts.is_empty() { 1 } else { 2 })?;
        row.serialize_field("ids", &self.ids)?;
        if !self.inserts.is_empty() {
            let hex = |hash: &VectorHash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let vectors: Vec<(usize, String)> = self.as_slice().vector_hashes().map(|(token, hash)| (token, hex(hash))).collect();
            row.serialize_field("inserts", &vectors)?;
        }
        row.end()
    }
}

impl AsTokens for TokenRow {
    fn as_tokens(&self) -> TokenSlice<'_> {
        self.as_slice()
    }
}

impl AsTokens for TokenSlice<'_> {
    fn as_tokens(&self) -> TokenSlice<'_> {
        *self
    }
}

impl AsTokens for [u32] {
    fn as_tokens(&self) -> TokenSlice<'_> {
        TokenSlice::of_parts(self, &[])
    }
}

impl AsTokens for Vec<u32> {
    fn as_tokens(&self) -> TokenSlice<'_> {
        self.as_slice().as_tokens()
    }
}

impl<const N: usize> AsTokens for [u32; N] {
    fn as_tokens(&self) -> TokenSlice<'_> {
        self.as_slice().as_tokens()
    }
}

impl<T: AsTokens + ?Sized> AsTokens for &T {
    fn as_tokens(&self) -> TokenSlice<'_> {
        (**self).as_tokens()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::Matrix;

    fn insert(start: usize, vectors: &[f32]) -> Insert {
        Insert::new(start, Matrix::new(vectors.len() / 2, 2, vectors.to_vec()).unwrap()).unwrap()
    }

    /// Ids 1, 0, 0, 0, 2 with `vectors` in the place of the zeros.
    fn row(vectors: &[f32; 6]) -> TokenRow {
        TokenRow::with_inserts(vec![1, 0, 0, 0, 2], vec![insert(1, vectors)]).unwrap()
    }

    const A: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    /// Differs from `A` in the second vector.
    const B: [f32; 6] = [1.0, 2.0, 3.0, 4.5, 5.0, 6.0];

    #[test]
    fn rows_are_compared_by_ids_and_vectors() {
        let (a, b, text) = (row(&A), row(&B), TokenRow::from(vec![1, 0, 0, 0, 2]));
        assert!(a == row(&A) && a != b && a != text && a != TokenRow::from(vec![1]));
        let in_pieces = TokenRow::with_inserts(a.ids().to_vec(), vec![insert(3, &A[4..]), insert(1, &A[..4])]).unwrap();
        assert_eq!((&a, a.cmp(&in_pieces)), (&in_pieces, Ordering::Equal));
        let mut rows = [&a, &text, &b, &in_pieces, &a];
        rows.sort_unstable();
        assert_eq!(rows.iter().filter(|row| ***row == a).count(), 3);
        let place = rows.iter().position(|row| **row == a).unwrap();
        assert!(rows[place..place + 3].iter().all(|row| **row == a), "equal rows stand together");
        let mut places = HashMap::new();
        for row in rows {
            *places.entry(row.as_slice()).or_insert(0) += 1;
        }
        assert_eq!((places.len(), places[&a.as_slice()], places[&b.as_slice()]), (3, 3, 1));
    }

    #[test]
    fn sorted_neighbours_share_the_longest_beginnings() {
        let mut rows = Vec::new();
        for (first, second, third) in [(1., 1., 1.), (1., 1., 2.), (1., 2., 1.), (2., 1., 1.), (2., 1., 3.), (2., 2., 2.)] {
            rows.push(row(&[first, 0., second, 0., third, 0.]));
        }
        rows.push(TokenRow::from(vec![1, 0, 0]));
        rows.sort();
        for (index, one) in rows.iter().enumerate() {
            let shared = |other: usize| rows.get(other).map_or(0, |other| one.as_slice().shared_prefix_len(other.as_slice()));
            let nearest = shared(index + 1).max(index.checked_sub(1).map_or(0, shared));
            let longest = (0..rows.len()).filter(|other| *other != index).map(shared).max().unwrap();
            assert_eq!(nearest, longest, "row {index}");
        }
    }

    #[test]
    fn a_cut_keeps_the_part_of_an_insert_and_its_identity() {
        let (a, b) = (row(&A), row(&B));
        assert_eq!(a.as_slice().shared_prefix_len(b.as_slice()), 2);
        assert!(a.prefix(2) == b.prefix(2) && a.prefix(3) != b.prefix(3) && a.suffix(2) != b.suffix(2) && a.suffix(3) == b.suffix(3));
        let middle = a.suffix(2).prefix(2);
        assert_eq!(middle, a.as_slice().slice(2..4));
        let inserts: Vec<Insert> = middle.inserts().collect();
        assert_eq!((inserts.len(), inserts[0].tokens(), inserts[0].values()), (1, 0..2, &A[2..]));
        assert_eq!(middle.to_row(), TokenRow::with_inserts(vec![0, 0], vec![insert(0, &A[2..])]).unwrap());
        // Another cut of the same vectors is the same; that of others is not.
        let other = TokenRow::with_inserts(vec![0, 0, 0], vec![insert(0, &A[2..]), insert(2, &A[..2])]).unwrap();
        assert!(other.prefix(2) == middle && other.suffix(1) != middle);
        assert_eq!(a.prefix(1), vec![1].as_tokens());
        assert_eq!(a.suffix(4), vec![2].as_tokens());
        assert!(a.suffix(9).is_empty() && a.prefix(9) == a.as_slice());
        let mut joined = a.prefix(2).to_row();
        joined.append(a.suffix(2));
        assert_eq!(joined, a);
        joined.push(7);
        assert_eq!(joined.ids(), [1, 0, 0, 0, 2, 7]);
    }

    #[test]
    fn inserts_that_leave_the_row_or_overlap_are_refused() {
        let with = |inserts| TokenRow::with_inserts(vec![1, 0, 0, 0, 2], inserts).map(|_| ()).map_err(|error| error.to_string());
        assert!(with(vec![insert(3, &A)]).unwrap_err().contains("leaves a row of 5 tokens"));
        assert!(with(vec![insert(usize::MAX, &A)]).unwrap_err().contains("leaves"));
        assert!(with(vec![insert(2, &A), insert(0, &A)]).unwrap_err().contains("begins at token 2"));
        with(vec![insert(2, &A), insert(0, &A[..4])]).unwrap();
    }

    #[test]
    fn the_identity_of_a_text_is_its_ids() {
        let json = |row: &TokenRow| serde_json::to_string(row).unwrap();
        assert_eq!(json(&TokenRow::from(vec![1, 2])), r#"{"ids":[1,2]}"#);
        let identity = json(&row(&A));
        assert!(identity.starts_with(r#"{"ids":[1,0,0,0,2],"inserts":[[1,""#), "{identity}");
        assert_ne!(identity, json(&row(&B)));
        let in_pieces = TokenRow::with_inserts(vec![1, 0, 0, 0, 2], vec![insert(1, &A[..2]), insert(2, &A[2..])]).unwrap();
        assert_eq!(identity, json(&in_pieces));
    }
}
