use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{Error, Result};

/// Added to an attention score that must not count; finite, so that a row in which nothing counts stays free of NaN.
const MASKED: f32 = -1e30;

/// Token sequences laid end to end, without padding.
///
/// Row `r` owns the positions `range(r)` of every `[tokens, width]` activation. Rows may differ in length; no work is done
/// for, and no mask is read from, pad tokens, because there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<u32>,
    starts: Vec<usize>,
}

impl TokenBatch {
    /// A batch of the given rows.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there is no row, or a row has no token.
    pub fn new<R: AsRef<[u32]>>(rows: &[R]) -> Result<Self> {
        let mut ids = Vec::new();
        let mut starts = vec![0];
        for (index, row) in rows.iter().enumerate() {
            if row.as_ref().is_empty() {
                return Err(Error::Batch(format!("row {index} of the batch has no tokens")));
            }
            ids.extend_from_slice(row.as_ref());
            starts.push(ids.len());
        }
        if rows.is_empty() {
            return Err(Error::Batch("the batch has no rows".into()));
        }
        Ok(Self { ids, starts })
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

    fn width(&self) -> usize {
        (0..self.rows()).map(|row| self.len(row)).max().unwrap_or(0)
    }
}

/// Keys and values of one layer's attention. Shape of each: `[rows, kv_heads, slots, head_dim]`.
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// Keys, with positions already encoded (rotary).
    pub keys: Tensor<4>,
    /// Values.
    pub values: Tensor<4>,
}

/// Keys and values of tokens that have been run, so that later tokens can attend to them without running them again.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    layers: BTreeMap<usize, KeyValue>,
    /// Per row and slot: the position of the token kept there, or `None` where a shorter row has a gap.
    slots: Vec<Vec<Option<usize>>>,
}

impl KvCache {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.slots.len()
    }

    /// Number of tokens of row `row` that are kept.
    pub fn len(&self, row: usize) -> usize {
        self.slots.get(row).map_or(0, |slots| slots.iter().flatten().count())
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(|row| row.iter().all(Option::is_none))
    }

    /// The rows `rows`, in that order; a row may be left out, or taken several times.
    pub fn select_rows(&self, rows: &[usize], device: &Device) -> Self {
        let index = index_tensor(rows, device);
        let layers = self
            .layers
            .iter()
            .map(|(layer, kv)| {
                let keys = kv.keys.clone().select(0, index.clone());
                let values = kv.values.clone().select(0, index.clone());
                (*layer, KeyValue { keys, values })
            })
            .collect();
        Self { layers, slots: rows.iter().map(|row| self.slots[*row].clone()).collect() }
    }

    /// Forgets what is kept for row `row`: the row starts again at position 0.
    pub fn clear_row(&mut self, row: usize) {
        if let Some(slots) = self.slots.get_mut(row) {
            slots.fill(None);
        }
    }

    fn slot_count(&self) -> usize {
        self.slots.first().map_or(0, Vec::len)
    }
}

/// Which tokens of its sequence a token may attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Itself and those before it.
    Causal,
    /// Itself and the nearest before it, as many as the number says in all; at least 1.
    Window(usize),
    /// All of them (encoders).
    Bidirectional,
}

impl Visibility {
    fn sees(self, query: usize, key: usize) -> bool {
        match self {
            Self::Causal => key <= query,
            Self::Window(width) => key <= query && query - key < width,
            Self::Bidirectional => true,
        }
    }
}

/// One pass of a batch through the layers: who attends to whom, at which positions, after which cached tokens.
///
/// A pass without a cache starts every row at position 0. A pass after a cache continues each row where the cache ends; the cache
/// is only read, so the same pass can be run many times (as value optimisation does).
#[derive(Clone, Debug)]
pub struct Pass {
    batch: TokenBatch,
    device: Device,
    positions: Vec<usize>,
    past: KvCache,
    slots: Vec<Vec<Option<usize>>>,
    width: usize,
    spread: Option<(Tensor<1, Int>, Tensor<1, Int>)>,
    masks: Vec<(Visibility, Option<Tensor<4>>)>,
    kept: Option<BTreeMap<usize, KeyValue>>,
}

impl Pass {
    /// A pass of `batch` from position 0.
    pub fn new(batch: TokenBatch, device: &Device) -> Self {
        let past = KvCache { layers: BTreeMap::new(), slots: vec![Vec::new(); batch.rows()] };
        Self::build(batch, past, device)
    }

    /// A pass of `batch` whose rows continue those of `past`.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if the numbers of rows differ.
    pub fn after(batch: TokenBatch, past: KvCache, device: &Device) -> Result<Self> {
        if past.rows() != batch.rows() {
            return Err(Error::Batch(format!("a batch of {} rows cannot continue a cache of {} rows", batch.rows(), past.rows())));
        }
        Ok(Self::build(batch, past, device))
    }

    /// A pass of the rows `rows` alone, in that order, after what was cached for them.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there are no rows, or one is out of range.
    pub fn select_rows(&self, rows: &[usize]) -> Result<Self> {
        if let Some(row) = rows.iter().find(|row| **row >= self.batch.rows()) {
            return Err(Error::Batch(format!("row {row} is out of range: the batch has {} rows", self.batch.rows())));
        }
        let ids: Vec<&[u32]> = rows.iter().map(|row| &self.batch.ids[self.batch.range(*row)]).collect();
        Ok(Self::build(TokenBatch::new(&ids)?, self.past.select_rows(rows, &self.device), &self.device))
    }

    fn build(batch: TokenBatch, past: KvCache, device: &Device) -> Self {
        let width = batch.width();
        let mut positions = Vec::with_capacity(batch.tokens());
        let mut slots = past.slots.clone();
        let mut from_tokens = Vec::with_capacity(batch.rows() * width);
        let mut to_tokens = Vec::with_capacity(batch.tokens());
        for (row, row_slots) in slots.iter_mut().enumerate() {
            let start = past.len(row);
            for token in 0..width {
                let real = token < batch.len(row);
                if real {
                    positions.push(start + token);
                    to_tokens.push(from_tokens.len());
                }
                row_slots.push(real.then_some(start + token));
                from_tokens.push(if real { batch.index(row, token) } else { 0 });
            }
        }
        let ragged = batch.rows() * width != batch.tokens();
        let spread = ragged.then(|| (index_tensor(&from_tokens, device), index_tensor(&to_tokens, device)));
        Self { batch, device: device.clone(), positions, past, slots, width, spread, masks: Vec::new(), kept: None }
    }

    /// Makes the pass remember its keys and values for [`Pass::into_cache`].
    pub fn keeping(mut self) -> Self {
        self.kept = Some(BTreeMap::new());
        self
    }

    /// The cache so far and this pass's keys and values (of the layers that were run) after it.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] unless the pass was [keeping](Pass::keeping).
    pub fn into_cache(self) -> Result<KvCache> {
        match self.kept {
            Some(layers) => Ok(KvCache { layers, slots: self.slots }),
            None => Err(Error::Batch("the pass did not keep its keys and values".into())),
        }
    }

    /// The batch.
    pub fn batch(&self) -> &TokenBatch {
        &self.batch
    }

    /// The device of indices and masks.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Position of every token in its sequence, row after row.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// The batch's ids as a tensor `[tokens]`.
    pub fn ids_tensor(&self) -> Tensor<1, Int> {
        let ids: Vec<i64> = self.batch.ids.iter().map(|id| i64::from(*id)).collect();
        let count = ids.len();
        Tensor::from_data(TensorData::new(ids, [count]), &self.device)
    }

    /// `[tokens, d]` -> `[rows, width, d]`, where `width` is the longest row; what stands behind a shorter row is arbitrary and
    /// masked in attention.
    pub fn spread(&self, x: Tensor<2>) -> Tensor<3> {
        let [_, d] = x.dims();
        let x = match &self.spread {
            Some((from_tokens, _)) => x.select(0, from_tokens.clone()),
            None => x,
        };
        x.reshape([self.batch.rows(), self.width, d])
    }

    /// `[rows, width, d]` -> `[tokens, d]`: the inverse of [`Pass::spread`].
    pub fn collect(&self, x: Tensor<3>) -> Tensor<2> {
        let [rows, width, d] = x.dims();
        let x = x.reshape([rows * width, d]);
        match &self.spread {
            Some((_, to_tokens)) => x.select(0, to_tokens.clone()),
            None => x,
        }
    }

    /// Puts this pass's keys and values of `layer` (`[rows, kv_heads, width, head_dim]`) behind the cached ones, and remembers the
    /// result if the pass is [keeping](Pass::keeping).
    pub fn extend(&mut self, layer: usize, keys: Tensor<4>, values: Tensor<4>) -> KeyValue {
        let kv = match self.past.layers.get(&layer) {
            Some(past) => {
                KeyValue { keys: Tensor::cat(vec![past.keys.clone(), keys], 2), values: Tensor::cat(vec![past.values.clone(), values], 2) }
            }
            None => KeyValue { keys, values },
        };
        if let Some(kept) = &mut self.kept {
            kept.insert(layer, kv.clone());
        }
        kv
    }

    /// What is added to attention scores: 0 where a token may attend, a large negative number elsewhere. `None` if nothing is
    /// masked.
    ///
    /// # Shapes
    ///
    /// `[rows, 1, width, slots]`, where the slots are those of the cache and then the pass's own.
    pub fn mask(&mut self, visibility: Visibility) -> Option<Tensor<4>> {
        if let Some((_, mask)) = self.masks.iter().find(|(known, _)| *known == visibility) {
            return mask.clone();
        }
        let values: Vec<f32> = self
            .position_pairs()
            .map(|(query, key)| if key.is_some_and(|key| visibility.sees(query, key)) { 0.0 } else { MASKED })
            .collect();
        let masked = values.contains(&MASKED);
        let [rows, width, slots] = self.score_shape();
        let mask = masked.then(|| Tensor::from_data(TensorData::new(values, [rows, 1, width, slots]), &self.device));
        self.masks.push((visibility, mask.clone()));
        mask
    }

    /// The positions of the two tokens behind every attention score, row-major over [`score_shape`](Self::score_shape): that of the
    /// query, and that of the key, or `None` where a slot holds no token. What biases by distance (ALiBi, relative positions) are
    /// computed from.
    pub fn position_pairs(&self) -> impl Iterator<Item = (usize, Option<usize>)> {
        self.slots.iter().enumerate().flat_map(move |(row, slots)| {
            let start = self.past.len(row);
            (0..self.width).flat_map(move |token| slots.iter().map(move |key| (start + token, *key)))
        })
    }

    /// `[rows, width, slots]`: the shape of one head's attention scores.
    pub fn score_shape(&self) -> [usize; 3] {
        [self.batch.rows(), self.width, self.past.slot_count() + self.width]
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

    fn device() -> Device {
        crate::device::select("cpu").unwrap()
    }

    fn batch() -> TokenBatch {
        TokenBatch::new(&[vec![1, 2, 3], vec![4]]).unwrap()
    }

    #[test]
    fn rows_are_laid_end_to_end() {
        let b = batch();
        assert_eq!((b.rows(), b.tokens(), b.range(1), b.index(1, 0)), (2, 4, 3..4, 3));
        assert_eq!(b.last_indices(), [2, 3]);
        assert!(TokenBatch::new::<Vec<u32>>(&[]).is_err());
        assert!(TokenBatch::new(&[vec![1], vec![]]).is_err());
    }

    #[test]
    fn spread_and_collect_are_inverse() {
        let pass = Pass::new(batch(), &device());
        let x = Tensor::<2>::from_floats([[1.0], [2.0], [3.0], [4.0]], &device());
        let spread = pass.spread(x.clone());
        assert_eq!(spread.dims(), [2, 3, 1]);
        assert_eq!(pass.collect(spread).into_data(), x.into_data());
    }

    #[test]
    fn masks_are_causal_and_windowed_and_hide_gaps() {
        let mut pass = Pass::new(batch(), &device());
        let seen = |mask: Tensor<4>| -> Vec<bool> { mask.into_data().try_to_vec::<f32>().unwrap().iter().map(|v| *v == 0.0).collect() };
        let t = true;
        let f = false;
        assert_eq!(
            seen(pass.mask(Visibility::Causal).unwrap()),
            [t, f, f, t, t, f, t, t, t, /* row 1 has one token */ t, f, f, t, f, f, t, f, f]
        );
        assert_eq!(seen(pass.mask(Visibility::Window(1)).unwrap())[..9], [t, f, f, f, t, f, f, f, t]);
        let both = seen(pass.mask(Visibility::Bidirectional).unwrap());
        assert_eq!((&both[..9], &both[9..12]), (&[t; 9][..], &[t, f, f][..]));
    }

    #[test]
    fn a_pass_after_a_cache_continues_positions() {
        let mut first = Pass::new(batch(), &device()).keeping();
        let kv = Tensor::<4>::ones([2, 1, 3, 1], &device());
        first.extend(0, kv.clone(), kv);
        let cache = first.into_cache().unwrap();
        assert_eq!((cache.len(0), cache.len(1)), (3, 1));
        let mut next = Pass::after(TokenBatch::new(&[[9], [9]]).unwrap(), cache.clone(), &device()).unwrap();
        assert_eq!(next.positions(), [3, 1]);
        let new = Tensor::<4>::ones([2, 1, 1, 1], &device());
        assert_eq!(next.extend(0, new.clone(), new).keys.dims(), [2, 1, 4, 1]);
        let mask = next.mask(Visibility::Causal).unwrap().into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(mask.iter().map(|v| *v == 0.0).collect::<Vec<_>>(), [true, true, true, true, true, false, false, true]);
        assert_eq!(cache.select_rows(&[1, 1, 0], &device()).len(0), 1);
    }
}
