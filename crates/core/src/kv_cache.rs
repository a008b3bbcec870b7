use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor};

use crate::encoder::Source;
use crate::token_batch::index_tensor;
use crate::{Error, Result};

/// Keys and values of one layer's attention. Shape of each: `[rows, kv_heads, slots, head_dim]`.
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// Keys, with positions already encoded (rotary).
    pub keys: Tensor<4>,
    /// Values.
    pub values: Tensor<4>,
}

impl KeyValue {
    /// The rows `rows` of both.
    pub(crate) fn select_rows(&self, rows: &Tensor<1, Int>) -> Self {
        Self { keys: self.keys.clone().select(0, rows.clone()), values: self.values.clone().select(0, rows.clone()) }
    }
}

/// Keys and values of tokens that have been run, so that later tokens can attend to them without running them again; with what the
/// tokens read of an encoder, which later tokens read, too.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    pub(crate) layers: BTreeMap<usize, KeyValue>,
    /// Per row and slot: the position of the token kept there, or `None` where a shorter row has a gap.
    pub(crate) slots: Vec<Vec<Option<usize>>>,
    pub(crate) source: Option<Source>,
    /// Number of tokens of each row's prompt, kept or not.
    pub(crate) prompt_tokens: Vec<usize>,
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
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if a row is out of range.
    pub fn select_rows(&self, rows: &[usize], device: &Device) -> Result<Self> {
        let slots: Option<Vec<_>> = rows.iter().map(|row| self.slots.get(*row).cloned()).collect();
        let slots = slots.ok_or_else(|| Error::Batch(format!("rows {rows:?} are not all in the cache, which has {}", self.rows())))?;
        let index = index_tensor(rows, device);
        Ok(Self {
            layers: self.layers.iter().map(|(layer, kv)| (*layer, kv.select_rows(&index))).collect(),
            slots,
            source: self.source.as_ref().map(|source| source.select_rows(rows, &index)).transpose()?,
            prompt_tokens: rows.iter().map(|row| self.prompt_tokens(*row)).collect(),
        })
    }

    /// The rows of all `caches`, one cache after the other; a cache that ends earlier than another gets gaps.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there is no cache, the caches are not of the same layers (an empty cache is of any), or one of them reads an
    /// encoder.
    pub fn join(caches: &[&Self], device: &Device) -> Result<Self> {
        if caches.iter().any(|cache| cache.source.is_some()) {
            return Err(Error::Batch("caches that read an encoder cannot be joined".into()));
        }
        let width = caches.iter().map(|cache| cache.slot_count()).max().unwrap_or(0);
        let slots = caches.iter().flat_map(|cache| &cache.slots);
        let slots = slots.map(|row| row.iter().copied().chain(std::iter::repeat(None)).take(width).collect()).collect();
        let prompt_tokens = caches.iter().flat_map(|cache| (0..cache.rows()).map(|row| cache.prompt_tokens(row))).collect();
        let Some(model) = caches.iter().find(|cache| !cache.layers.is_empty()) else {
            return Ok(Self { slots, prompt_tokens, ..Self::default() });
        };
        if caches.iter().any(|cache| cache.slot_count() > 0 && !cache.layers.keys().eq(model.layers.keys())) {
            return Err(Error::Batch("caches of different layers cannot be joined".into()));
        }
        let widened = |cache: &Self, known: Option<&Tensor<4>>, like: &Tensor<4>| {
            let [_, heads, _, head_dim] = like.dims();
            let gap = |slots| Tensor::<4>::zeros([cache.rows(), heads, slots, head_dim], device);
            match known {
                Some(known) if known.dims()[2] == width => known.clone(),
                Some(known) => Tensor::cat(vec![known.clone(), gap(width - known.dims()[2])], 2),
                None => gap(width),
            }
        };
        let joined = |layer: &usize, like: &KeyValue, part: fn(&KeyValue) -> &Tensor<4>| {
            Tensor::cat(caches.iter().map(|cache| widened(cache, cache.layers.get(layer).map(part), part(like))).collect(), 0)
        };
        let layers = model.layers.iter().map(|(layer, like)| {
            (*layer, KeyValue { keys: joined(layer, like, |kv| &kv.keys), values: joined(layer, like, |kv| &kv.values) })
        });
        Ok(Self { layers: layers.collect(), slots, source: None, prompt_tokens })
    }

    /// Forgets what is kept for row `row`: the row starts again at position 0.
    pub fn clear_row(&mut self, row: usize) {
        if let Some(slots) = self.slots.get_mut(row) {
            slots.fill(None);
        }
    }

    /// What is kept of the tokens at positions below `tokens`, in layer `layer` alone: all that a pass of this one layer reads.
    pub fn before(&self, tokens: usize, layer: usize) -> Self {
        let mut slots: Vec<Vec<Option<usize>>> =
            self.slots.iter().map(|row| row.iter().map(|slot| slot.filter(|position| *position < tokens)).collect()).collect();
        let width = slots.iter().filter_map(|row| row.iter().rposition(Option::is_some)).max().map_or(0, |last| last + 1);
        slots.iter_mut().for_each(|row| row.truncate(width));
        let narrow = |x: &Tensor<4>| x.clone().narrow(2, 0, width);
        let kept = self.layers.get(&layer).filter(|_| width > 0);
        let kept = kept.map(|kv| (layer, KeyValue { keys: narrow(&kv.keys), values: narrow(&kv.values) }));
        Self { layers: kept.into_iter().collect(), slots, source: self.source.clone(), prompt_tokens: self.prompt_tokens.clone() }
    }

    /// Number of tokens of the prompt of row `row`; those that are kept, if nobody has told it.
    pub(crate) fn prompt_tokens(&self, row: usize) -> usize {
        self.prompt_tokens.get(row).copied().unwrap_or_else(|| self.len(row))
    }

    pub(crate) fn slot_count(&self) -> usize {
        self.slots.first().map_or(0, Vec::len)
    }
}
