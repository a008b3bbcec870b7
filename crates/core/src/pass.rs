use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::encoder::Source;
use crate::token_batch::Rectangle;
use crate::{EncoderOutput, Error, KeyValue, KvCache, Result, TokenBatch, TokenSlice};

/// Added to an attention score that must not count; finite, so that a row in which nothing counts stays free of NaN.
pub const MASKED_SCORE: f32 = -1e30;

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
    /// Whether the token at position `query` may attend to the one at `key`.
    pub fn sees(self, query: usize, key: usize) -> bool {
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
    /// Number of tokens of each row's prompt, counted from the row's beginning.
    prompt_tokens: Vec<usize>,
    past: KvCache,
    slots: Vec<Vec<Option<usize>>>,
    width: usize,
    rectangle: Rectangle,
    masks: Vec<(Visibility, Option<Tensor<4>>)>,
    kept: Option<Kept>,
}

/// Keys and values by layer, remembered for the cache.
#[derive(Clone, Debug, Default)]
struct Kept {
    own: BTreeMap<usize, KeyValue>,
    source: BTreeMap<usize, KeyValue>,
}

impl Pass {
    /// A pass of `batch` from position 0.
    pub fn new(batch: TokenBatch, device: &Device) -> Self {
        let past = KvCache { slots: vec![Vec::new(); batch.rows()], ..KvCache::default() };
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
        let batch = self.batch.select_rows(rows)?;
        let prompts = rows.iter().filter_map(|row| self.prompt_tokens.get(*row).copied()).collect();
        Self::build(batch, self.past.select_rows(rows, &self.device)?, &self.device).with_prompts(prompts)
    }

    /// A pass of the rows of all `passes`, one pass after the other, each after what was cached for it.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there is no pass, or as [`KvCache::join`].
    pub fn join(passes: &[&Self]) -> Result<Self> {
        let rows: Vec<TokenSlice<'_>> = passes.iter().flat_map(|pass| (0..pass.batch.rows()).map(|row| pass.batch.row(row))).collect();
        let batch = TokenBatch::new(&rows)?;
        let Some(device) = passes.first().map(|pass| &pass.device) else {
            return Err(Error::Batch("there is no pass to join".into()));
        };
        let past: Vec<&KvCache> = passes.iter().map(|pass| &pass.past).collect();
        let prompts = passes.iter().flat_map(|pass| pass.prompt_tokens.iter().copied()).collect();
        Self::build(batch, KvCache::join(&past, device)?, device).with_prompts(prompts)
    }

    fn build(batch: TokenBatch, past: KvCache, device: &Device) -> Self {
        let width = batch.width();
        let mut positions = Vec::with_capacity(batch.tokens());
        let mut slots = past.slots.clone();
        for (row, row_slots) in slots.iter_mut().enumerate() {
            let start = past.len(row);
            let real = batch.len(row);
            positions.extend(start..start + real);
            row_slots.extend((0..width).map(|token| (token < real).then_some(start + token)));
        }
        let prompt_tokens = (0..batch.rows())
            .map(|row| match past.len(row) {
                0 => batch.len(row),
                _ => past.prompt_tokens(row),
            })
            .collect();
        let rectangle = Rectangle::of(&batch, device);
        Self { batch, device: device.clone(), positions, prompt_tokens, past, slots, width, rectangle, masks: Vec::new(), kept: None }
    }

    /// Says how many tokens of each row, counted from its beginning, are its prompt: those behind it are a target that the model is made
    /// to read. Without it, all tokens are the prompt's; what continues a cache keeps the prompts of the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if the number of rows differs.
    pub fn with_prompts(mut self, tokens: Vec<usize>) -> Result<Self> {
        if tokens.len() != self.batch.rows() {
            return Err(Error::Batch(format!("{} prompts are not those of a batch of {} rows", tokens.len(), self.batch.rows())));
        }
        self.prompt_tokens = tokens;
        Ok(self)
    }

    /// Index, in row `row` of the batch, of the last token of its prompt; `None` if this pass does not run that token.
    pub fn prompt_end(&self, row: usize) -> Option<usize> {
        let end = self.prompt_tokens.get(row)?.checked_sub(1 + self.past.len(row))?;
        (end < self.batch.len(row)).then_some(end)
    }

    /// Lets the rows read what an encoder made of their sources: row `r` reads row `r` of `output`.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if the numbers of rows differ.
    pub fn reading(mut self, output: EncoderOutput) -> Result<Self> {
        let (rows, sources) = (self.batch.rows(), output.batch().rows());
        if rows != sources {
            return Err(Error::Batch(format!("a batch of {rows} rows cannot read an encoder's output of {sources} rows")));
        }
        self.past.source = Some(Source::new(output));
        Ok(self)
    }

    /// What the rows read of an encoder, if they read one: given by [`Pass::reading`], or by the cache that is continued.
    pub fn encoder_output(&self) -> Option<&EncoderOutput> {
        self.past.source.as_ref().map(Source::output)
    }

    /// Keys and values of layer `layer` for the tokens of the encoder's output, `[rows, heads, source width, head_dim]`, made by
    /// `project` from `[source tokens, d_model]` unless the cache holds them; remembered if the pass is [keeping](Pass::keeping).
    /// `None` if the rows read no encoder.
    pub fn source_key_value(&mut self, layer: usize, project: impl FnOnce(&EncoderOutput) -> KeyValue) -> Option<KeyValue> {
        let source = self.past.source.as_ref()?;
        let kv = source.known(layer).unwrap_or_else(|| project(source.output()));
        if let Some(kept) = &mut self.kept {
            kept.source.insert(layer, kv.clone());
        }
        Some(kv)
    }

    /// What is added to the scores of attention to the encoder's output: a large negative number where a shorter source has ended.
    /// `None` if nothing is masked.
    ///
    /// # Shapes
    ///
    /// `[rows, 1, 1, source width]`: the same for all heads and tokens of a row.
    pub fn source_mask(&self) -> Option<Tensor<4>> {
        self.past.source.as_ref().and_then(Source::mask)
    }

    /// Makes the pass remember its keys and values for [`Pass::into_cache`].
    pub fn keeping(mut self) -> Self {
        self.kept = Some(Kept::default());
        self
    }

    /// The cache so far and this pass's keys and values (of the layers that were run) after it.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] unless the pass was [keeping](Pass::keeping).
    pub fn into_cache(self) -> Result<KvCache> {
        match self.kept {
            Some(Kept { own, source }) => Ok(KvCache {
                layers: own,
                slots: self.slots,
                source: self.past.source.map(|read| read.with_known(source)),
                prompt_tokens: self.prompt_tokens,
            }),
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
        let ids: Vec<i64> = self.batch.ids().iter().map(|id| i64::from(*id)).collect();
        let count = ids.len();
        Tensor::from_data(TensorData::new(ids, [count]), &self.device)
    }

    /// Puts the vectors of the batch's inserts in the place of the embeddings of their tokens. Models do this in
    /// [`embed`](crate::LanguageModel::embed), before anything is added for positions.
    ///
    /// # Shapes
    ///
    /// `embeddings: [tokens, d_model]`; the result has the same.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if an insert has another width, or there are not as many embeddings as tokens.
    pub fn put_inserts(&self, embeddings: Tensor<2>) -> Result<Tensor<2>> {
        let [tokens, d_model] = embeddings.dims();
        if tokens != self.batch.tokens() {
            return Err(Error::Batch(format!("{tokens} embeddings do not fit a batch of {} tokens", self.batch.tokens())));
        }
        let mut embeddings = embeddings;
        for insert in self.batch.inserts() {
            let (at, width) = (insert.tokens(), insert.width());
            if width != d_model {
                return Err(Error::Batch(format!("an insert of width {width} does not fit embeddings of width {d_model}")));
            }
            let vectors = Tensor::<2>::from_data(TensorData::new(insert.values().to_vec(), [at.len(), width]), &self.device);
            let vectors = vectors.cast(embeddings.dtype());
            let vectors = if embeddings.is_autodiff() { Tensor::from_inner(vectors) } else { vectors };
            embeddings = embeddings.slice_assign([at, 0..width], vectors);
        }
        Ok(embeddings)
    }

    /// `[tokens, d]` -> `[rows, width, d]`, where `width` is the longest row; what stands behind a shorter row is arbitrary and
    /// masked in attention.
    pub fn spread(&self, x: Tensor<2>) -> Tensor<3> {
        self.rectangle.spread(x)
    }

    /// `[rows, width, d]` -> `[tokens, d]`: the inverse of [`Pass::spread`].
    pub fn collect(&self, x: Tensor<3>) -> Tensor<2> {
        self.rectangle.collect(x)
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
            kept.own.insert(layer, kv.clone());
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
            .map(|(query, key)| if key.is_some_and(|key| visibility.sees(query, key)) { 0.0 } else { MASKED_SCORE })
            .collect();
        let masked = values.contains(&MASKED_SCORE);
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
    fn a_cache_is_cut_by_position() {
        let device = device();
        let ones = || Tensor::<4>::ones([2, 1, 3, 2], &device);
        let mut pass = Pass::new(batch(), &device).keeping();
        pass.extend(4, ones(), ones());
        let cache = pass.into_cache().unwrap();
        let cut = cache.before(2, 4);
        assert_eq!((cut.len(0), cut.len(1), cut.slot_count()), (2, 1, 2));
        assert_eq!(cut.layers[&4].keys.dims(), [2, 1, 2, 2]);
        assert!(cache.before(2, 3).layers.is_empty() && cache.before(0, 4).is_empty());
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
        assert_eq!(cache.select_rows(&[1, 1, 0], &device()).unwrap().len(0), 1);
        assert!(cache.select_rows(&[2], &device()).unwrap_err().to_string().contains("rows [2]"));
    }

    #[test]
    fn joined_passes_continue_each_its_own_cache() {
        let after = |rows: &[Vec<u32>], ones: f32| {
            let mut first = Pass::new(TokenBatch::new(rows).unwrap(), &device()).keeping();
            let kv = Tensor::<4>::ones([rows.len(), 1, rows[0].len(), 1], &device()) * ones;
            first.extend(0, kv.clone(), kv);
            let next = TokenBatch::new(&vec![vec![9]; rows.len()]).unwrap();
            Pass::after(next, first.into_cache().unwrap(), &device()).unwrap()
        };
        let fresh = Pass::new(TokenBatch::new(&[[5, 6]]).unwrap(), &device());
        let mut joined = Pass::join(&[&after(&[vec![1, 2, 3]], 1.0), &fresh, &after(&[vec![4], vec![5]], 2.0)]).unwrap();
        assert_eq!(joined.positions(), [3, 0, 1, 1, 1]);
        assert_eq!(joined.score_shape(), [4, 2, 5]);
        let keys = joined.extend(0, Tensor::zeros([4, 1, 2, 1], &device()), Tensor::zeros([4, 1, 2, 1], &device())).keys;
        let keys = keys.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(keys, [1., 1., 1., 0., 0., 0., 0., 0., 0., 0., 2., 0., 0., 0., 0., 2., 0., 0., 0., 0.]);
        let mask = joined.mask(Visibility::Causal).unwrap().into_data().try_to_vec::<f32>().unwrap();
        let seen: Vec<usize> = mask.chunks(5).map(|token| token.iter().filter(|v| **v == 0.0).count()).collect();
        // Behind a row of one token stands one that counts for nothing.
        assert_eq!(seen[..5], [4, 4, 1, 2, 2]);
        assert!(Pass::join(&[]).is_err());
    }

    #[test]
    fn a_cache_goes_on_reading_what_its_rows_read() {
        let source = |rows: &[Vec<u32>]| {
            let batch = TokenBatch::new(rows).unwrap();
            let hidden = Tensor::<2>::ones([batch.tokens(), 1], &device());
            EncoderOutput::new(hidden, batch, &device()).unwrap()
        };
        let kv = |width: usize| {
            let ones = Tensor::<4>::ones([2, 1, width, 1], &device());
            KeyValue { keys: ones.clone(), values: ones }
        };
        let rows = [vec![7], vec![8, 9, 9]];
        let mut first = Pass::new(batch(), &device()).reading(source(&rows)).unwrap().keeping();
        assert_eq!(first.source_key_value(0, |read| kv(read.batch().width())).unwrap().keys.dims(), [2, 1, 3, 1]);
        let mask = first.source_mask().unwrap();
        assert_eq!(mask.dims(), [2, 1, 1, 3]);
        let values = mask.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(values.iter().map(|v| *v == 0.0).collect::<Vec<_>>(), [true, false, false, true, true, true]);
        let own = kv(3);
        first.extend(0, own.keys, own.values);
        let cache = first.into_cache().unwrap().select_rows(&[1, 0, 1], &device()).unwrap();
        let mut next = Pass::after(TokenBatch::new(&[[1], [1], [1]]).unwrap(), cache, &device()).unwrap();
        let read = next.encoder_output().unwrap();
        assert_eq!(read.batch().ids(), [8, 9, 9, 7, 8, 9, 9]);
        assert_eq!(read.hidden().dims(), [7, 1]);
        let known = next.source_key_value(0, |_| panic!("layer 0 is in the cache")).unwrap();
        assert_eq!(known.keys.dims(), [3, 1, 3, 1]);
        let mut shorter = next.select_rows(&[1]).unwrap();
        assert_eq!(shorter.encoder_output().unwrap().batch().ids(), [7]);
        assert!(shorter.source_mask().is_none());
        assert_eq!(shorter.source_key_value(0, |_| panic!("layer 0 is in the cache")).unwrap().keys.dims(), [1, 1, 1, 1]);
        let message = Pass::new(batch(), &device()).reading(source(&rows[..1])).unwrap_err().to_string();
        assert!(message.contains("2 rows") && message.contains("1 rows"), "{message}");
        assert!(Pass::new(batch(), &device()).source_key_value(0, |_| kv(1)).is_none());
    }
}
