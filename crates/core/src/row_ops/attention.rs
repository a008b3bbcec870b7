mod backward;

use std::ops::Range;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::{Backward, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use self::backward::AttentionBackward;
use super::lanes::{add_scaled, times_columns};
use crate::device::is_cpu;
use crate::exp::exp;
use crate::{KeyValue, MASKED_SCORE, Pass};

/// Multiplications that pay for handing rows to other cores.
const WORTH_SHARING: usize = 1 << 18;

/// Whose tokens are whose, and what is added to their scores.
#[derive(Clone, Debug)]
struct Plan {
    /// Where each row's tokens begin, and where the last one's end.
    starts: Arc<[usize]>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    slots: usize,
    bias: Option<Bias>,
    /// Groups of heads of a task.
    at_once: usize,
}

/// What is added to scores, each dimension's stride 0 where one value serves all.
#[derive(Clone, Debug)]
struct Bias {
    values: Arc<Vec<f32>>,
    /// Of rows, heads and tokens.
    strides: [usize; 3],
}

#[backend_extension(Flex, Autodiff)]
trait RowAttention: Backend {
    fn row_attention(query: FloatTensor<Self>, keys: FloatTensor<Self>, values: FloatTensor<Self>, plan: Plan) -> FloatTensor<Self>;
}

/// Attention on the CPU; `None` elsewhere, and for a bias in training.
pub(super) fn attention(query: &Tensor<2>, read: &KeyValue, bias: Option<&Tensor<4>>, pass: &Pass) -> Option<Tensor<2>> {
    let KeyValue { keys, values } = read;
    let ([tokens, width], [rows, kv_heads, slots, head_dim]) = (query.dims(), keys.dims());
    let is_f32 = query.dtype() == DType::F32 && keys.dtype() == DType::F32 && values.dtype() == DType::F32;
    if !is_cpu(&query.device()) || !is_f32 || head_dim == 0 || values.dims() != keys.dims() {
        return None;
    }
    let heads = width / head_dim;
    let batch = pass.batch();
    let starts: Arc<[usize]> = (0..batch.rows()).map(|row| batch.range(row).start).chain([batch.tokens()]).collect();
    if batch.rows() != rows || batch.tokens() != tokens || kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        return None;
    }
    let bias = match bias {
        None => None,
        Some(bias) if bias.is_autodiff() => return None,
        Some(bias) => Some(Bias::of(bias, [rows, heads, batch.width(), slots])?),
    };
    // Rows are cut up further where there are fewer of them than cores.
    let at_once = if rows < rayon::current_num_threads() { 1 } else { kv_heads };
    let plan = Plan { starts, heads, kv_heads, head_dim, slots, bias, at_once };
    let [keys, values] = [keys, values].map(|x| x.clone().into_dispatch());
    Some(Tensor::from_dispatch(<Dispatch as RowAttention>::row_attention(query.clone().into_dispatch(), keys, values, plan)))
}

impl Bias {
    /// The bias of scores of this shape; `None` if it has another.
    fn of(bias: &Tensor<4>, [rows, heads, width, slots]: [usize; 4]) -> Option<Self> {
        let [bias_rows, bias_heads, bias_width, bias_slots] = bias.dims();
        let stride = |size: usize, of: usize, stride: usize| match size {
            1 => Some(0),
            size if size == of => Some(stride),
            _ => None,
        };
        if bias_slots != slots {
            return None;
        }
        let strides = [
            stride(bias_rows, rows, bias_heads * bias_width * slots)?,
            stride(bias_heads, heads, bias_width * slots)?,
            stride(bias_width, width, slots)?,
        ];
        let values = bias.clone().cast(DType::F32).try_into_data().ok()?.try_into_vec::<f32>().ok()?;
        Some(Self { values: Arc::new(values), strides })
    }
}

impl RowAttention for Flex {
    fn row_attention(query: FloatTensor<Self>, keys: FloatTensor<Self>, values: FloatTensor<Self>, plan: Plan) -> FloatTensor<Self> {
        forward(&Read::of(&query, &keys, &values), &plan, false).0
    }
}

impl<C: CheckpointStrategy> RowAttention for Autodiff<Flex, C> {
    fn row_attention(query: FloatTensor<Self>, keys: FloatTensor<Self>, values: FloatTensor<Self>, plan: Plan) -> FloatTensor<Self> {
        let nodes = [query.node(), keys.node(), values.node()];
        let operation = AttentionBackward.prepare::<C>(nodes).compute_bound().stateful();
        let read = Read::of(&query.into_primitive(), &keys.into_primitive(), &values.into_primitive());
        match operation {
            OpsKind::Tracked(prepared) => {
                let (mixed, shares) = forward(&read, &plan, true);
                prepared.finish((read, shares, plan), mixed)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(forward(&read, &plan, false).0),
        }
    }
}

/// What attention reads, contiguous.
#[derive(Clone, Debug)]
struct Read {
    query: FloatTensor<Flex>,
    keys: FloatTensor<Flex>,
    values: FloatTensor<Flex>,
}

impl Read {
    fn of(query: &FloatTensor<Flex>, keys: &FloatTensor<Flex>, values: &FloatTensor<Flex>) -> Self {
        Self { query: query.to_contiguous(), keys: keys.to_contiguous(), values: values.to_contiguous() }
    }
}

/// The numbers of a contiguous tensor.
fn numbers(tensor: &FloatTensor<Flex>) -> &[f32] {
    let count = tensor.layout().shape().num_elements();
    &tensor.storage::<f32>()[tensor.layout().start_offset()..][..count]
}

/// A row's tokens and some groups of heads; those of a group read the same keys and values.
#[derive(Clone)]
struct Task<'a> {
    plan: &'a Plan,
    row: usize,
    kv_heads: Range<usize>,
}

impl Plan {
    /// All there is to do.
    fn tasks(&self) -> Vec<Task<'_>> {
        let rows = self.starts.len() - 1;
        let of_row = |row| {
            let heads = (0..self.kv_heads).step_by(self.at_once);
            heads.map(move |first| Task { plan: self, row, kv_heads: first..(first + self.at_once).min(self.kv_heads) })
        };
        (0..rows).flat_map(of_row).collect()
    }

    /// The result of `work` for each of the tasks with what belongs to it, on all cores if there is enough to do.
    fn each<X: Send, T: Send>(&self, tasks: Vec<(Task<'_>, X)>, work: impl Fn(&Task<'_>, X) -> T + Send + Sync) -> Vec<T> {
        let tokens = self.starts.last().copied().unwrap_or(0);
        if tokens * self.slots * self.heads * self.head_dim < WORTH_SHARING {
            return tasks.into_iter().map(|(task, own)| work(&task, own)).collect();
        }
        tasks.into_par_iter().map(|(task, own)| work(&task, own)).collect()
    }
}

impl<'a> Task<'a> {
    fn tokens(&self) -> Range<usize> {
        self.plan.starts[self.row]..self.plan.starts[self.row + 1]
    }

    /// The heads that read the keys and values `kv_head`.
    fn group(&self, kv_head: usize) -> Range<usize> {
        let shared = self.plan.heads / self.plan.kv_heads;
        kv_head * shared..(kv_head + 1) * shared
    }

    /// All heads of the task.
    fn heads(&self) -> Range<usize> {
        self.group(self.kv_heads.start).start..self.group(self.kv_heads.end).start
    }

    /// The numbers of head `head` of token `token`, of tokens with all heads side by side.
    fn of_head<'x>(&self, all: &'x [f32], token: usize, head: usize) -> &'x [f32] {
        &all[(token * self.plan.heads + head) * self.plan.head_dim..][..self.plan.head_dim]
    }

    /// The place of head `head` of the row's token number `token`, among the task's own tokens with its heads side by side.
    fn own_place(&self, token: usize, head: usize) -> Range<usize> {
        let heads = self.heads();
        let first = (token * heads.len() + head - heads.start) * self.plan.head_dim;
        first..first + self.plan.head_dim
    }

    /// The slots of keys or values: `[slots, head_dim]`.
    fn slots<'x>(&self, all: &'x [f32], kv_head: usize) -> &'x [f32] {
        let size = self.plan.slots * self.plan.head_dim;
        &all[(self.row * self.plan.kv_heads + kv_head) * size..][..size]
    }

    /// What is added to the scores of the row's token number `token`.
    fn bias(&self, head: usize, token: usize) -> Option<&'a [f32]> {
        let Bias { values, strides } = self.plan.bias.as_ref()?;
        values.get(self.row * strides[0] + head * strides[1] + token * strides[2]..)?.get(..self.plan.slots)
    }

    /// The slots that the row's token number `token` sees, in their order, into `seen`.
    fn see(&self, head: usize, token: usize, seen: &mut Vec<usize>) {
        seen.clear();
        match self.bias(head, token) {
            Some(bias) => seen.extend((0..self.plan.slots).filter(|slot| bias[*slot] > MASKED_SCORE * 0.5)),
            None => seen.extend(0..self.plan.slots),
        }
        // A token that sees nothing sees everything alike, as a softmax over masked scores has it.
        if seen.is_empty() {
            seen.extend(0..self.plan.slots);
        }
    }

    /// Puts the task's own numbers, `[tokens, heads of the task, head_dim]`, among those of all tokens and heads.
    fn put(&self, own: &[f32], all: &mut [f32]) {
        let (heads, head_dim) = (self.heads(), self.plan.head_dim);
        let width = heads.len() * head_dim;
        for (token, own) in self.tokens().zip(own.chunks_exact(width)) {
            all[(token * self.plan.heads + heads.start) * head_dim..][..width].copy_from_slice(own);
        }
    }
}

/// How tokens share out their attention: per task and group of heads, `[tokens, heads of the group, slots]`.
type Shares = Vec<Vec<f32>>;

fn forward(read: &Read, plan: &Plan, keep: bool) -> (FloatTensor<Flex>, Shares) {
    let (query, keys, values) = (numbers(&read.query), numbers(&read.keys), numbers(&read.values));
    let tasks = plan.tasks();
    let done = plan.each(tasks.iter().map(|task| (task.clone(), ())).collect(), |task, ()| {
        Arch::new().dispatch(Forward { task, query, keys, values, keep })
    });
    let mut mixed = vec![0f32; query.len()];
    let mut shares = Vec::with_capacity(if keep { done.len() } else { 0 });
    for (task, (own, share)) in tasks.iter().zip(done) {
        task.put(&own, &mut mixed);
        if keep {
            shares.push(share);
        }
    }
    let tokens = plan.starts.last().copied().unwrap_or(0);
    (FloatTensor::<Flex>::from_data(TensorData::new(mixed, [tokens, plan.heads * plan.head_dim])), shares)
}

/// Turns `[slots, head_dim]` into `[head_dim, stride]`; what stands behind the slots stays as it is.
#[inline(always)]
fn turn(slots: &[f32], head_dim: usize, stride: usize, turned: &mut [f32]) {
    for (slot, numbers) in slots.chunks_exact(head_dim).enumerate() {
        for (dim, number) in numbers.iter().enumerate() {
            turned[dim * stride + slot] = *number;
        }
    }
}

/// Copies rows of `head_dim` numbers into rows of `stride`; what stands behind them stays as it is.
#[inline(always)]
fn widen(slots: &[f32], head_dim: usize, stride: usize, wide: &mut [f32]) {
    wide.chunks_exact_mut(stride).zip(slots.chunks_exact(head_dim)).for_each(|(to, from)| to[..head_dim].copy_from_slice(from));
}

struct Forward<'a> {
    task: &'a Task<'a>,
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    /// Whether the shares are wanted.
    keep: bool,
}

impl WithSimd for Forward<'_> {
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self { task, query, keys, values, keep } = self;
        let Plan { head_dim, slots, .. } = *task.plan;
        let (slot_stride, dim_stride) = (slots.next_multiple_of(S::F32_LANES), head_dim.next_multiple_of(S::F32_LANES));
        let (mut turned, mut wide) = (vec![0f32; head_dim * slot_stride], vec![0f32; slots * dim_stride]);
        let count = task.tokens().len() * task.heads().len();
        let mut mixed = vec![0f32; count * head_dim];
        let mut kept = vec![0f32; if keep { count * slots } else { 0 }];
        let mut kept_rows = kept.chunks_exact_mut(slots);
        let (mut scores, mut sum) = (vec![0f32; slot_stride], vec![0f32; dim_stride]);
        let (mut weights, mut seen) = (Vec::with_capacity(slots), Vec::with_capacity(slots));
        for kv_head in task.kv_heads.clone() {
            turn(task.slots(keys, kv_head), head_dim, slot_stride, &mut turned);
            widen(task.slots(values, kv_head), head_dim, dim_stride, &mut wide);
            for (number, token) in task.tokens().enumerate() {
                for head in task.group(kv_head) {
                    task.see(head, number, &mut seen);
                    times_columns(simd, task.of_head(query, token, head), &turned, &mut scores);
                    weights.clear();
                    match task.bias(head, number) {
                        Some(bias) => weights.extend(seen.iter().map(|slot| scores[*slot] + bias[*slot])),
                        None => weights.extend(seen.iter().map(|slot| scores[*slot])),
                    }
                    let largest = weights.iter().fold(f32::NEG_INFINITY, |largest, score| if *score > largest { *score } else { largest });
                    weights.iter_mut().for_each(|weight| *weight = exp(*weight - largest));
                    let factor = 1.0 / weights.iter().sum::<f32>();
                    weights.iter_mut().for_each(|weight| *weight *= factor);
                    sum.fill(0.0);
                    for (slot, weight) in seen.iter().zip(&weights) {
                        add_scaled(simd, &mut sum, *weight, &wide[slot * dim_stride..][..dim_stride]);
                    }
                    mixed[task.own_place(number, head)].copy_from_slice(&sum[..head_dim]);
                    if let Some(kept) = kept_rows.next() {
                        seen.iter().zip(&weights).for_each(|(slot, weight)| kept[*slot] = *weight);
                    }
                }
            }
        }
        (mixed, kept)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, activation};

    use super::*;
    use crate::{KvCache, TokenBatch, Visibility};

    const HEADS: usize = 6;
    const KV_HEADS: usize = 2;
    const HEAD_DIM: usize = 10;

    fn device() -> Device {
        crate::device::select("cpu").unwrap()
    }

    fn random<const D: usize>(dims: [usize; D]) -> Tensor<D> {
        Tensor::random(dims, Distribution::Normal(0.0, 1.0), &device())
    }

    fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
        tensor.clone().try_into_data().unwrap().try_to_vec::<f32>().unwrap()
    }

    /// By the backend's operations, over the whole rectangle.
    fn composed(query: Tensor<2>, read: &KeyValue, bias: Option<&Tensor<4>>, pass: &Pass) -> Tensor<2> {
        let [rows, kv_heads, slots, head_dim] = read.keys.dims();
        let query = pass.spread(query);
        let [_, width, _] = query.dims();
        let query = query.reshape([rows, width, HEADS, head_dim]).swap_dims(1, 2);
        let stacked = HEADS / kv_heads * width;
        let mut scores = query.reshape([rows, kv_heads, stacked, head_dim]).matmul(read.keys.clone().swap_dims(2, 3));
        if let Some(bias) = bias {
            scores = (scores.reshape([rows, HEADS, width, slots]) + bias.clone()).reshape([rows, kv_heads, stacked, slots]);
        }
        let mixed = activation::softmax(scores, 3).matmul(read.values.clone());
        let mixed = mixed.reshape([rows, HEADS, width, head_dim]).swap_dims(1, 2).reshape([rows, width, HEADS * head_dim]);
        pass.collect(mixed)
    }

    /// Result and gradients by query, keys and values.
    fn tracked(attend: impl Fn(&Tensor<2>, &KeyValue) -> Tensor<2>, query: &Tensor<2>, read: &KeyValue, by: &Tensor<2>) -> [Vec<f32>; 4] {
        let query = Tensor::from_inner(query.clone()).require_grad();
        let [keys, values_in] = [&read.keys, &read.values].map(|x| Tensor::from_inner(x.clone()).require_grad());
        let mixed = attend(&query, &KeyValue { keys: keys.clone(), values: values_in.clone() });
        let gradients = (mixed.clone() * Tensor::from_inner(by.clone())).sum().backward();
        let of = |x: &Tensor<4>| values(&x.grad(&gradients).unwrap());
        [values(&mixed.inner()), values(&query.grad(&gradients).unwrap()), of(&keys), of(&values_in)]
    }

    /// A pass of rows of 3, 1 and 5 tokens, behind 4, 0 and 2 that are cached (with gaps).
    fn ragged() -> Pass {
        let past = |tokens: usize| {
            let batch = TokenBatch::new(&[vec![1; tokens]]).unwrap();
            let mut pass = Pass::new(batch, &device()).keeping();
            pass.extend(0, random([1, KV_HEADS, tokens, HEAD_DIM]), random([1, KV_HEADS, tokens, HEAD_DIM]));
            pass.into_cache().unwrap()
        };
        let caches = [past(4), past(4), past(2)];
        let mut cache = KvCache::join(&caches.iter().collect::<Vec<_>>(), &device()).unwrap();
        cache.clear_row(1);
        Pass::after(TokenBatch::new(&[vec![1; 3], vec![1], vec![1; 5]]).unwrap(), cache, &device()).unwrap()
    }

    #[test]
    fn values_and_gradients_are_those_of_the_formula() {
        let mut pass = ragged();
        let [rows, _, slots] = pass.score_shape();
        let (query, by) = (random([9, HEADS * HEAD_DIM]), random([9, HEADS * HEAD_DIM]));
        let read = KeyValue { keys: random([rows, KV_HEADS, slots, HEAD_DIM]), values: random([rows, KV_HEADS, slots, HEAD_DIM]) };
        for visibility in [Visibility::Causal, Visibility::Window(2)] {
            let mask = pass.mask(visibility).unwrap();
            for bias in [mask.clone(), mask.clone() + random([1, HEADS, 1, slots])] {
                let ours = |query: &Tensor<2>, read: &KeyValue| attention(query, read, Some(&bias), &pass).unwrap();
                let got = tracked(ours, &query, &read, &by);
                let want = tracked(|query, read| composed(query.clone(), read, Some(&bias), &pass), &query, &read, &by);
                for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
                    assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{visibility:?}: {got} and {want}");
                }
                assert_eq!(values(&ours(&query, &read)), got[0], "tracked or not");
            }
        }
    }

    #[test]
    fn a_row_alone_without_gaps_has_the_same_bits() {
        let mut pass = ragged();
        let [rows, _, slots] = pass.score_shape();
        let (query, by) = (random([9, HEADS * HEAD_DIM]), random([9, HEADS * HEAD_DIM]));
        let read = KeyValue { keys: random([rows, KV_HEADS, slots, HEAD_DIM]), values: random([rows, KV_HEADS, slots, HEAD_DIM]) };
        let mask = pass.mask(Visibility::Causal).unwrap();
        let all = tracked(|query, read| attention(query, read, Some(&mask), &pass).unwrap(), &query, &read, &by);
        // Row 1 has a token of its own in slot 4, and nothing before it; row 2 has tokens in slots 0, 1 and, of its own, from 4 on.
        for (row, tokens, real) in [(1, 3..4, vec![4]), (2, 4..9, vec![0, 1, 4, 5, 6, 7, 8])] {
            let own = |x: &Tensor<4>| {
                let slots: Vec<i64> = real.iter().map(|slot: &usize| *slot as i64).collect();
                let slots = Tensor::<1, burn::tensor::Int>::from_data(TensorData::new(slots, [real.len()]), &device());
                x.clone().narrow(0, row, 1).select(2, slots)
            };
            let of_tokens = |x: &Tensor<2>| x.clone().narrow(0, tokens.start, tokens.len());
            let ids = vec![1; tokens.len()];
            let past = KvCache { slots: vec![(0..real.len() - ids.len()).map(Some).collect()], ..KvCache::default() };
            let mut alone = Pass::after(TokenBatch::new(&[ids]).unwrap(), past, &device()).unwrap();
            let mask = alone.mask(Visibility::Causal);
            let own_read = KeyValue { keys: own(&read.keys), values: own(&read.values) };
            let attend = |query: &Tensor<2>, read: &KeyValue| attention(query, read, mask.as_ref(), &alone).unwrap();
            let got = tracked(attend, &of_tokens(&query), &own_read, &of_tokens(&by));
            let width = HEADS * HEAD_DIM;
            assert_eq!(got[0], all[0][tokens.start * width..tokens.end * width]);
            assert_eq!(got[1], all[1][tokens.start * width..tokens.end * width]);
            for part in [2, 3] {
                let gradient = Tensor::<4>::from_data(TensorData::new(all[part].clone(), read.keys.dims()), &device());
                assert_eq!(got[part], values(&own(&gradient)));
            }
        }
    }

    #[test]
    fn a_bias_in_training_is_left_to_the_backend() {
        let pass = Pass::new(TokenBatch::new(&[vec![1, 2]]).unwrap(), &device());
        let bias = Tensor::<4>::from_inner(random([1, HEADS, 2, 2])).require_grad();
        let read = KeyValue { keys: random([1, KV_HEADS, 2, HEAD_DIM]), values: random([1, KV_HEADS, 2, HEAD_DIM]) };
        assert!(attention(&random([2, HEADS * HEAD_DIM]), &read, Some(&bias), &pass).is_none());
    }
}
