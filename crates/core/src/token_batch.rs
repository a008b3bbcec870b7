use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{AsTokens, Error, Insert, Result, TokenSlice};

/// Token sequences laid end to end, without padding.
///
/// Row `r` owns the positions `range(r)` of every `[tokens, width]` activation. Rows may differ in length; no work is done
/// for, and no mask is read from, pad tokens, because there are none.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    ids: Vec<u32>,
    /// Those of all rows, in rising order.
    inserts: Vec<Insert>,
    starts: Vec<usize>,
}

impl PartialEq for TokenBatch {
    fn eq(&self, other: &Self) -> bool {
        self.starts == other.starts && self.as_slice() == other.as_slice()
    }
}

impl Eq for TokenBatch {}

impl TokenBatch {
    /// A batch of the given rows.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there is no row, or a row has no token.
    pub fn new<R: AsTokens>(rows: &[R]) -> Result<Self> {
        let (mut ids, mut inserts) = (Vec::new(), Vec::new());
        let mut starts = vec![0];
        for (index, row) in rows.iter().enumerate() {
            let row = row.as_tokens();
            if row.is_empty() {
                return Err(Error::Batch(format!("row {index} of the batch has no tokens")));
            }
            inserts.extend(row.inserts_from(ids.len()));
            ids.extend_from_slice(row.ids());
            starts.push(ids.len());
        }
        if rows.is_empty() {
            return Err(Error::Batch("the batch has no rows".into()));
        }
        Ok(Self { ids, inserts, starts })
    }

    /// All rows end to end.
    fn as_slice(&self) -> TokenSlice<'_> {
        TokenSlice::of_parts(&self.ids, &self.inserts)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of tokens of all rows together.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// All token ids, row after row.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// What is inserted in the place of embeddings, by positions in a `[tokens, width]` activation.
    pub fn inserts(&self) -> &[Insert] {
        &self.inserts
    }

    /// The tokens of row `row`.
    pub fn row(&self, row: usize) -> TokenSlice<'_> {
        self.as_slice().slice(self.range(row))
    }

    /// The positions of row `row` in a `[tokens, width]` activation.
    pub fn range(&self, row: usize) -> Range<usize> {
        self.starts[row]..self.starts[row + 1]
    }

    /// Number of tokens of row `row`.
    pub fn len(&self, row: usize) -> usize {
        self.range(row).len()
    }

    /// Whether there are no tokens; never, by construction.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Position of token `token` of row `row` in a `[tokens, width]` activation.
    pub fn index(&self, row: usize, token: usize) -> usize {
        self.starts[row] + token
    }

    /// Position of the last token of every row.
    pub fn last_indices(&self) -> Vec<usize> {
        self.starts[1..].iter().map(|end| end - 1).collect()
    }

    /// A batch of the rows `rows`, in that order; a row may be left out, or taken several times.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there are no rows, or one is out of range.
    pub fn select_rows(&self, rows: &[usize]) -> Result<Self> {
        if let Some(row) = rows.iter().find(|row| **row >= self.rows()) {
            return Err(Error::Batch(format!("row {row} is out of range: the batch has {} rows", self.rows())));
        }
        Self::new(&rows.iter().map(|row| self.row(*row)).collect::<Vec<TokenSlice<'_>>>())
    }

    /// Number of tokens of the longest row.
    pub fn width(&self) -> usize {
        (0..self.rows()).map(|row| self.len(row)).max().unwrap_or(0)
    }
}

/// A batch's rows side by side in a rectangle as wide as the longest: the one layout in which attention needs them.
#[derive(Clone, Debug)]
pub(crate) struct Rectangle {
    rows: usize,
    width: usize,
    /// Which token stands at each place of the rectangle (any, behind a shorter row), and at which place each token; `None` if no
    /// row is shorter than another.
    places: Option<(Tensor<1, Int>, Tensor<1, Int>)>,
}

impl Rectangle {
    pub(crate) fn of(batch: &TokenBatch, device: &Device) -> Self {
        let (rows, width) = (batch.rows(), batch.width());
        let ragged = rows * width != batch.tokens();
        let places = ragged.then(|| {
            let mut from_tokens = Vec::with_capacity(rows * width);
            let mut to_tokens = Vec::with_capacity(batch.tokens());
            for row in 0..rows {
                for token in 0..width {
                    let real = token < batch.len(row);
                    if real {
                        to_tokens.push(from_tokens.len());
                    }
                    from_tokens.push(if real { batch.index(row, token) } else { 0 });
                }
            }
            (index_tensor(&from_tokens, device), index_tensor(&to_tokens, device))
        });
        Self { rows, width, places }
    }

    /// `[tokens, d]` -> `[rows, width, d]`
    pub(crate) fn spread(&self, x: Tensor<2>) -> Tensor<3> {
        let [_, d] = x.dims();
        let x = match &self.places {
            Some((from_tokens, _)) => x.select(0, from_tokens.clone()),
            None => x,
        };
        x.reshape([self.rows, self.width, d])
    }

    /// `[rows, width, d]` -> `[tokens, d]`
    pub(crate) fn collect(&self, x: Tensor<3>) -> Tensor<2> {
        let [rows, width, d] = x.dims();
        let x = x.reshape([rows * width, d]);
        match &self.places {
            Some((_, to_tokens)) => x.select(0, to_tokens.clone()),
            None => x,
        }
    }
}

/// Indices as a tensor for `select`.
pub(crate) fn index_tensor(indices: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = indices.iter().map(|i| *i as i64).collect();
    Tensor::from_data(TensorData::new(values, [indices.len()]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Matrix, TokenRow};

    #[test]
    fn rows_keep_their_inserts() {
        let with = |value: f32, start: usize| {
            let insert = Insert::new(start, Matrix::new(2, 1, vec![value, value]).unwrap()).unwrap();
            TokenRow::with_inserts(vec![1, 0, 0], vec![insert]).unwrap()
        };
        let (a, b, text) = (with(1.0, 1), with(2.0, 0), TokenRow::from(vec![1, 0, 0]));
        let batch = TokenBatch::new(&[&a, &text, &b]).unwrap();
        assert_eq!(batch.inserts().iter().map(Insert::tokens).collect::<Vec<_>>(), [1..3, 6..8]);
        assert!(batch.row(0) == a.as_slice() && batch.row(1) == text.as_slice() && batch.row(2) == b.as_slice());
        let selected = batch.select_rows(&[2, 0, 0, 1]).unwrap();
        assert_eq!(selected, TokenBatch::new(&[&b, &a, &a, &text]).unwrap());
        assert_ne!(selected, TokenBatch::new(&[&b, &a, &a, &b]).unwrap());
    }

    #[test]
    fn rows_are_laid_end_to_end() {
        let b = TokenBatch::new(&[vec![1, 2, 3], vec![4]]).unwrap();
        assert_eq!((b.rows(), b.tokens(), b.width(), b.range(1), b.index(1, 0)), (2, 4, 3, 3..4, 3));
        assert_eq!(b.last_indices(), [2, 3]);
        assert_eq!(b.select_rows(&[1, 0, 1]).unwrap(), TokenBatch::new(&[vec![4], vec![1, 2, 3], vec![4]]).unwrap());
        assert!(TokenBatch::new::<Vec<u32>>(&[]).is_err() && b.select_rows(&[]).is_err());
        assert!(TokenBatch::new(&[vec![1], vec![]]).is_err());
        assert!(b.select_rows(&[2]).unwrap_err().to_string().contains("row 2"));
    }
}
