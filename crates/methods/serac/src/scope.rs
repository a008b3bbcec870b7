//! How near a query is to an edit: the score that decides scope.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Pooling, SeracHparams};

/// Below it, the length of an embedding is taken for this much: no division by zero.
const SHORTEST: f64 = 1e-8;
/// Added to a squared distance before its root is taken, so that the gradient at 0 is finite.
const ROOT_EPSILON: f64 = 1e-12;

/// How two embeddings are compared.
///
/// The score is s = exp(−scale · dist), with the least distance over the parts of the embeddings: 1 for equal embeddings, near 0 for far ones.
///
/// # Source
///
/// Mitchell et al. 2022, "Memory-Based Model Editing at Scale", section 3.2; the modes are those of its code.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScopeRules {
    /// Encoder and head read memory and query together; there are no embeddings.
    pub cross_attend: bool,
    /// Distances are 1 − cosine.
    pub cos: bool,
    /// Euclidean distances are squared.
    pub square: bool,
    /// Parts that an embedding is cut into.
    pub dist_heads: usize,
    /// Embeddings pass through tanh.
    pub bound_embeds: bool,
    /// What of the hidden states is the embedding.
    pub pooling: Pooling,
}

impl ScopeRules {
    /// The rules that hyperparameters ask for.
    pub fn of(hparams: &SeracHparams) -> Self {
        let SeracHparams { cross_attend, cos, square, dist_heads, bound_embeds, pooling, .. } = *hparams;
        Self { cross_attend, cos, square, dist_heads, bound_embeds, pooling }
    }

    /// Distance of two embeddings of one width, in f64; 0 for equal ones, exactly.
    pub fn distance(&self, a: &[f32], b: &[f32]) -> f64 {
        let part = a.len().div_ceil(self.dist_heads.max(1)).max(1);
        let distances = a.chunks(part).zip(b.chunks(part)).map(|(a, b)| self.part_distance(a, b));
        distances.fold(f64::INFINITY, f64::min)
    }

    fn part_distance(&self, a: &[f32], b: &[f32]) -> f64 {
        let sum = |of: fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| of(f64::from(*a), f64::from(*b))).sum::<f64>();
        if self.cos {
            let lengths = (sum(|a, _| a * a) * sum(|_, b| b * b)).sqrt().max(SHORTEST);
            // Equal embeddings have a cosine of 1 up to rounding.
            return if a == b { 0.0 } else { (1.0 - sum(|a, b| a * b) / lengths).max(0.0) };
        }
        let squared = sum(|a, b| (a - b) * (a - b));
        if self.square { squared } else { squared.sqrt() }
    }

    /// ln s of pairs, row by row, with gradients.
    ///
    /// # Shapes
    ///
    /// `queries: [pairs, width]`, `memory: [pairs, width]` -> `[pairs, 1]`
    pub fn log_scores(&self, queries: Tensor<2>, memory: Tensor<2>, scale: f64) -> Tensor<2> {
        let [_, width] = queries.dims();
        let part = width / self.dist_heads.max(1);
        let distances: Vec<Tensor<2>> = (0..self.dist_heads.max(1))
            .map(|head| {
                let cut = |whole: &Tensor<2>| whole.clone().narrow(1, head * part, part);
                self.part_distances(cut(&queries), cut(&memory))
            })
            .collect();
        let least = if distances.len() == 1 { Tensor::cat(distances, 1) } else { Tensor::cat(distances, 1).min_dim(1) };
        least * -scale
    }

    fn part_distances(&self, a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
        let sum = |of: Tensor<2>| of.sum_dim(1);
        if self.cos {
            let lengths = (sum(a.clone() * a.clone()) * sum(b.clone() * b.clone()) + ROOT_EPSILON).sqrt().clamp_min(SHORTEST);
            return sum(a * b) / lengths * -1.0 + 1.0;
        }
        let difference = a - b;
        let squared = sum(difference.clone() * difference);
        if self.square { squared } else { (squared + ROOT_EPSILON).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use easyedit_core::tensor_values;

    use super::*;

    fn rules() -> ScopeRules {
        ScopeRules::of(&SeracHparams::default())
    }

    #[test]
    fn every_mode_has_the_distance_of_its_formula() {
        let (a, b) = ([1.0, 2.0, -1.0, 0.5], [0.0, 2.0, 1.0, 0.5]);
        let cosine = (4.0 - 1.0 + 0.25) / (6.25f64 * 5.25).sqrt();
        for (rules, want) in [
            (rules(), 5.0),
            (ScopeRules { square: false, ..rules() }, 5f64.sqrt()),
            (ScopeRules { cos: true, ..rules() }, 1.0 - cosine),
            // The first half differs by 1, the second by 2.
            (ScopeRules { dist_heads: 2, ..rules() }, 1.0),
            (ScopeRules { dist_heads: 4, ..rules() }, 0.0),
        ] {
            assert!((rules.distance(&a, &b) - want).abs() < 1e-9, "{rules:?}");
            assert_eq!(rules.distance(&a, &a), 0.0, "{rules:?}");
        }
    }

    #[test]
    fn tensors_and_numbers_agree_and_gradients_are_those_of_differences() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let (a, b) = ([0.3f32, -0.7, 0.2, 0.9], [0.1f32, 0.4, -0.5, 0.8]);
        for rules in
            [rules(), ScopeRules { square: false, ..rules() }, ScopeRules { cos: true, ..rules() }, ScopeRules { dist_heads: 2, ..rules() }]
        {
            let tensor = |values: [f32; 4]| Tensor::<2>::from_floats([values], &device);
            let tracked = Tensor::from_inner(tensor(a)).require_grad();
            let log = rules.log_scores(tracked.clone(), Tensor::from_inner(tensor(b)), 2.0);
            let value = tensor_values(&log.clone().inner()).unwrap()[0];
            assert!((f64::from(value) + 2.0 * rules.distance(&a, &b)).abs() < 1e-5, "{rules:?}");
            let gradient = tensor_values(&tracked.grad(&log.sum().backward()).unwrap()).unwrap();
            for place in 0..4 {
                let (mut up, mut down) = (a, a);
                up[place] += 1e-3;
                down[place] -= 1e-3;
                let numeric = -2.0 * (rules.distance(&up, &b) - rules.distance(&down, &b)) / 2e-3;
                assert!((numeric - f64::from(gradient[place])).abs() < 2e-3, "{rules:?} {place}: {numeric} {}", gradient[place]);
            }
        }
    }

    #[test]
    fn equal_embeddings_have_a_finite_gradient() {
        let device = easyedit_core::device::select("cpu").unwrap();
        for rules in [ScopeRules { square: false, ..rules() }, ScopeRules { cos: true, ..rules() }] {
            let tracked = Tensor::from_inner(Tensor::<2>::zeros([1, 4], &device)).require_grad();
            let log = rules.log_scores(tracked.clone(), tracked.clone(), 1.0);
            let gradient = tensor_values(&tracked.grad(&log.sum().backward()).unwrap()).unwrap();
            assert!(gradient.iter().all(|value| value.is_finite()), "{rules:?}");
        }
    }
}
