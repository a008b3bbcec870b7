//! The gradients of attention by its queries, keys and values.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use burn::tensor::TensorData;
use pulp::{Arch, Simd, WithSimd};

use super::super::lanes::{add_scaled, times_columns};
use super::{Plan, Read, Shares, Task, numbers, turn, widen};

#[derive(Debug)]
pub(super) struct AttentionBackward;

impl Backward<Flex, 3> for AttentionBackward {
    type State = (Read, Shares, Plan);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let ([for_query, for_keys, for_values], (read, shares, plan)) = (ops.parents, ops.state);
        let (query, keys, values, by_mixed) = (numbers(&read.query), numbers(&read.keys), numbers(&read.values), numbers(&gradient));
        let mut by_query = vec![0f32; query.len()];
        let [mut by_keys, mut by_values] = [(); 2].map(|()| vec![0f32; keys.len()]);
        let tasks = plan.tasks();
        // The slots of a task lie side by side, one task's behind another's.
        let (mut keys_left, mut values_left) = (by_keys.as_mut_slice(), by_values.as_mut_slice());
        let mut with_places = Vec::with_capacity(tasks.len());
        for (task, shares) in tasks.iter().zip(&shares) {
            let size = task.kv_heads.len() * plan.slots * plan.head_dim;
            let [of_keys, of_values] = [&mut keys_left, &mut values_left].map(|left| left.split_off_mut(..size).unwrap_or_default());
            with_places.push((task.clone(), (shares, of_keys, of_values)));
        }
        let done = plan.each(with_places, |task, (shares, by_keys, by_values)| {
            Arch::new().dispatch(TaskBackward { task, query, keys, values, shares, by_mixed, by_keys, by_values })
        });
        for (task, own) in tasks.iter().zip(done) {
            task.put(&own, &mut by_query);
        }
        for (node, values, like) in
            [(for_query, by_query, &read.query), (for_keys, by_keys, &read.keys), (for_values, by_values, &read.values)]
        {
            if let Some(node) = node {
                let gradient = TensorData::new(values, like.layout().shape().clone());
                gradients.register::<Flex>(node.id, FloatTensor::<Flex>::from_data(gradient));
            }
        }
    }
}

/// The way back of a task: adds to the gradients of its keys and values, zeros before, and gives that by its queries.
struct TaskBackward<'a> {
    task: &'a Task<'a>,
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    shares: &'a [f32],
    by_mixed: &'a [f32],
    /// `[heads of the task's keys, slots, head_dim]`, as the next one.
    by_keys: &'a mut [f32],
    by_values: &'a mut [f32],
}

impl WithSimd for TaskBackward<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { task, query, keys, values, shares, by_mixed, by_keys, by_values } = self;
        let Plan { head_dim, slots, .. } = *task.plan;
        let (slot_stride, dim_stride) = (slots.next_multiple_of(S::F32_LANES), head_dim.next_multiple_of(S::F32_LANES));
        let (mut wide, mut turned) = (vec![0f32; slots * dim_stride], vec![0f32; head_dim * slot_stride]);
        let [mut by_wide_keys, mut by_wide_values] = [(); 2].map(|()| vec![0f32; slots * dim_stride]);
        let mut by_query = vec![0f32; task.tokens().len() * task.heads().len() * head_dim];
        let mut by_shares = vec![0f32; slot_stride];
        let [mut own, mut by_own, mut by_one] = [(); 3].map(|()| vec![0f32; dim_stride]);
        let mut seen = Vec::with_capacity(slots);
        let mut shares = shares.chunks_exact(slots);
        let size = slots * head_dim;
        for ((kv_head, by_keys), by_values) in
            task.kv_heads.clone().zip(by_keys.chunks_exact_mut(size)).zip(by_values.chunks_exact_mut(size))
        {
            widen(task.slots(keys, kv_head), head_dim, dim_stride, &mut wide);
            turn(task.slots(values, kv_head), head_dim, slot_stride, &mut turned);
            by_wide_keys.fill(0.0);
            by_wide_values.fill(0.0);
            for (number, token) in task.tokens().enumerate() {
                for (head, share) in task.group(kv_head).zip(&mut shares) {
                    task.see(head, number, &mut seen);
                    own[..head_dim].copy_from_slice(task.of_head(query, token, head));
                    by_own[..head_dim].copy_from_slice(task.of_head(by_mixed, token, head));
                    times_columns(simd, &by_own[..head_dim], &turned, &mut by_shares);
                    let level = seen.iter().fold(0f32, |sum, slot| sum + share[*slot] * by_shares[*slot]);
                    by_one.fill(0.0);
                    for slot in &seen {
                        let place = slot * dim_stride..(slot + 1) * dim_stride;
                        let by_score = share[*slot] * (by_shares[*slot] - level);
                        add_scaled(simd, &mut by_one, by_score, &wide[place.clone()]);
                        add_scaled(simd, &mut by_wide_keys[place.clone()], by_score, &own);
                        add_scaled(simd, &mut by_wide_values[place], share[*slot], &by_own);
                    }
                    by_query[task.own_place(number, head)].copy_from_slice(&by_one[..head_dim]);
                }
            }
            for (wide, narrow) in [(&by_wide_keys, by_keys), (&by_wide_values, by_values)] {
                narrow
                    .chunks_exact_mut(head_dim)
                    .zip(wide.chunks_exact(dim_stride))
                    .for_each(|(to, from)| to.copy_from_slice(&from[..head_dim]));
            }
        }
        by_query
    }
}
