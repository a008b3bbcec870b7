use burn::tensor::{Tensor, activation};
use easyedit_core::{KeyValue, Pass};

use crate::Shape;

/// Shape of a multi-head attention in which groups of query heads share their keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attention {
    /// Number of query heads; a multiple of `kv_heads`.
    pub(crate) heads: usize,
    /// Number of key and value heads.
    pub(crate) kv_heads: usize,
    /// Width of one head.
    pub(crate) head_dim: usize,
}

impl Attention {
    /// The attention of a model of this shape.
    pub(crate) fn of(shape: &Shape) -> Self {
        Self { heads: shape.heads, kv_heads: shape.kv_heads, head_dim: shape.head_dim }
    }

    /// Factor of the scores.
    pub(crate) fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Widths of queries, keys and values.
    pub(crate) fn widths(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.head_dim)
    }

    /// Attends in layer `layer`: to the pass's own tokens and to those cached before them. `bias` is added to the scores: what
    /// [`Pass::mask`] gives, with or without a bias by position.
    ///
    /// # Shapes
    ///
    /// `query: [tokens, heads * head_dim]`, already scaled; `key`, `value`: `[tokens, kv_heads * head_dim]`, positions already
    /// encoded; `bias: [rows, 1 or heads, width, slots]`. The result is shaped as the query.
    pub(crate) fn attend(
        &self,
        layer: usize,
        query: Tensor<2>,
        key: Tensor<2>,
        value: Tensor<2>,
        bias: Option<Tensor<4>>,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let key = self.split(pass, key, self.kv_heads);
        let value = self.split(pass, value, self.kv_heads);
        let read = pass.extend(layer, key, value);
        self.mix(query, read, bias, pass)
    }

    /// Attends in layer `layer` to the encoder's output that the pass [reads](Pass::reading), whose keys and values (`[source tokens,
    /// heads * head_dim]`) `project` makes of it unless they are known; `None` if the pass reads none.
    ///
    /// # Shapes
    ///
    /// `query: [tokens, heads * head_dim]`, already scaled, and so is the result.
    pub(crate) fn attend_to_source(
        &self,
        layer: usize,
        query: Tensor<2>,
        project: impl FnOnce(Tensor<2>) -> (Tensor<2>, Tensor<2>),
        pass: &mut Pass,
    ) -> Option<Tensor<2>> {
        let read = pass.source_key_value(layer, |source| {
            let (keys, values) = project(source.hidden());
            let [keys, values] = [keys, values].map(|x| self.heads_of(source.spread(x), self.kv_heads));
            KeyValue { keys, values }
        })?;
        let mask = pass.source_mask();
        Some(self.mix(query, read, mask, pass))
    }

    /// The values, weighted by the softmax of the scores: `query: [tokens, heads * head_dim]`, and so is the result.
    fn mix(&self, query: Tensor<2>, read: KeyValue, bias: Option<Tensor<4>>, pass: &Pass) -> Tensor<2> {
        match easyedit_core::attention(&query, &read, bias.as_ref(), pass) {
            Some(mixed) => mixed,
            None => self.mix_rectangle(self.split(pass, query, self.heads), read, bias, pass),
        }
    }

    /// As [`mix`](Self::mix), of `query: [rows, heads, width, head_dim]`, by the backend's operations.
    fn mix_rectangle(&self, query: Tensor<4>, KeyValue { keys, values }: KeyValue, bias: Option<Tensor<4>>, pass: &Pass) -> Tensor<2> {
        let [rows, heads, width, head_dim] = query.dims();
        let [_, kv_heads, slots, _] = keys.dims();
        // The query heads of a group are stacked as further queries, so that keys and values need not be repeated.
        let stacked = heads / kv_heads * width;
        let mut scores = query.reshape([rows, kv_heads, stacked, head_dim]).matmul(keys.swap_dims(2, 3));
        if let Some(bias) = bias {
            scores = (scores.reshape([rows, heads, width, slots]) + bias).reshape([rows, kv_heads, stacked, slots]);
        }
        let mixed = activation::softmax(scores, 3).matmul(values);
        let mixed = mixed.reshape([rows, heads, width, head_dim]).swap_dims(1, 2).reshape([rows, width, heads * head_dim]);
        pass.collect(mixed)
    }

    /// `[tokens, heads * head_dim]` -> `[rows, heads, width, head_dim]`
    fn split(&self, pass: &Pass, x: Tensor<2>, heads: usize) -> Tensor<4> {
        self.heads_of(pass.spread(x), heads)
    }

    /// `[rows, width, heads * head_dim]` -> `[rows, heads, width, head_dim]`
    fn heads_of(&self, x: Tensor<3>, heads: usize) -> Tensor<4> {
        let [rows, width, _] = x.dims();
        x.reshape([rows, width, heads, self.head_dim]).swap_dims(1, 2)
    }
}
