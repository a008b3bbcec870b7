use burn::tensor::{Tensor, TensorData};
use easyedit_core::{Error, Matrix, ParamName, Result, WeightDelta, WeightLayout};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::LoraType;

/// Standard deviation of AdaLoRA's factors at the start.
const SPREAD: f64 = 0.02;

/// The low-rank change of one weight: a sum over its ranks of an outer product of a vector that is written and one that is read.
///
/// The factors are small and live in host memory in f64; only their tensors of one step are on the model's device.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    pub(crate) name: ParamName,
    layout: WeightLayout,
    /// The weight without the change.
    base: Tensor<2>,
    pub(crate) rank: usize,
    /// A (of AdaLoRA Q): `[rank, in]`.
    pub(crate) reads: Vec<f64>,
    /// Bᵀ (Pᵀ): `[rank, out]`.
    pub(crate) writes: Vec<f64>,
    /// λ of AdaLoRA: `[rank]`.
    pub(crate) gains: Option<Vec<f64>>,
}

/// An adapter's factors of one step, whose gradients are asked for.
pub(crate) struct Tracked {
    pub(crate) reads: Tensor<2>,
    pub(crate) writes: Tensor<2>,
    pub(crate) gains: Option<Tensor<2>>,
}

impl Adapter {
    /// A change of `base` that is 0: A uniform within ±1/√in and B zero, or P and Q normal around 0 and λ zero.
    pub(crate) fn new(name: ParamName, layout: WeightLayout, base: Tensor<2>, rank: usize, kind: LoraType, rng: &mut ChaCha8Rng) -> Self {
        let [d_in, d_out] = widths(layout, &base);
        let (reads, writes, gains) = match kind {
            LoraType::Lora => {
                // Kaiming's uniform distribution with a = √5, as PyTorch initialises a linear map.
                let bound = 1.0 / (d_in as f64).sqrt();
                ((0..rank * d_in).map(|_| rng.random_range(-bound..bound)).collect(), vec![0.0; rank * d_out], None)
            }
            LoraType::AdaLora => {
                let mut normal = |count: usize| (0..count).map(|_| SPREAD * standard_normal(rng)).collect::<Vec<f64>>();
                (normal(rank * d_in), normal(rank * d_out), Some(vec![0.0; rank]))
            }
        };
        Self { name, layout, base, rank, reads, writes, gains }
    }

    /// Width of what is read.
    pub(crate) fn d_in(&self) -> usize {
        widths(self.layout, &self.base)[0]
    }

    /// The factors as tracked tensors, and the weight with the change, times `scale`, that they make. Inputs outside of `inputs`
    /// (`[1, in]`, a factor each) are not read.
    pub(crate) fn place(&self, scale: f64, inputs: Option<Tensor<2>>) -> (Tracked, Tensor<2>) {
        let tensor = |values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
            let width = values.len() / self.rank;
            Tensor::from_inner(Tensor::<2>::from_data(TensorData::new(values, [self.rank, width]), &self.base.device())).require_grad()
        };
        let tracked = Tracked { reads: tensor(&self.reads), writes: tensor(&self.writes), gains: self.gains.as_deref().map(tensor) };
        let mut writes = tracked.writes.clone() * scale;
        if let Some(gains) = &tracked.gains {
            writes = writes * gains.clone();
        }
        let mut reads = tracked.reads.clone();
        if let Some(inputs) = inputs {
            reads = reads * Tensor::from_inner(inputs);
        }
        let change = match self.layout {
            WeightLayout::OutIn => writes.transpose().matmul(reads),
            WeightLayout::InOut => reads.transpose().matmul(writes),
        };
        let weight = Tensor::from_inner(self.base.clone()) + change;
        (tracked, weight)
    }

    /// Leaves out the ranks that are not `kept`.
    pub(crate) fn keep(&mut self, kept: &[bool]) {
        let select = |values: &[f64]| -> Vec<f64> {
            let width = (values.len() / kept.len().max(1)).max(1);
            values.chunks(width).zip(kept).filter(|(_, kept)| **kept).flat_map(|(vector, _)| vector.iter().copied()).collect()
        };
        (self.reads, self.writes) = (select(&self.reads), select(&self.writes));
        self.gains = self.gains.as_deref().map(select);
        self.rank = kept.iter().filter(|kept| **kept).count();
    }

    /// The change times `scale`, in the checkpoint's orientation; `None` if no rank is left.
    pub(crate) fn delta(&self, scale: f64) -> Result<Option<WeightDelta>> {
        if self.rank == 0 {
            return Ok(None);
        }
        let factor = |values: &mut dyn Iterator<Item = f64>, count: usize| -> Result<Matrix> {
            let values: Vec<f32> = values.map(|v| v as f32).collect();
            if values.iter().any(|v| !v.is_finite()) {
                return Err(Error::NotFinite(format!("tensor {}: training left the finite numbers; choose a smaller lr", self.name)));
            }
            Matrix::new(self.rank, count / self.rank, values)
                .ok_or_else(|| Error::tensor(self.name.as_str(), "the factors of its change lost their shape"))
        };
        let gain = |rank: usize| scale * self.gains.as_ref().and_then(|gains| gains.get(rank)).copied().unwrap_or(1.0);
        let width = self.writes.len() / self.rank;
        let reads = factor(&mut self.reads.iter().copied(), self.reads.len())?;
        let writes = factor(&mut self.writes.iter().enumerate().map(|(place, v)| v * gain(place / width)), self.writes.len())?;
        Ok(Some(match self.layout {
            WeightLayout::OutIn => WeightDelta::LowRank { left: writes.transpose(), right: reads },
            WeightLayout::InOut => WeightDelta::LowRank { left: reads.transpose(), right: writes },
        }))
    }
}

/// Width of input and output.
fn widths(layout: WeightLayout, weight: &Tensor<2>) -> [usize; 2] {
    let [rows, cols] = weight.dims();
    match layout {
        WeightLayout::OutIn => [cols, rows],
        WeightLayout::InOut => [rows, cols],
    }
}

/// A draw from the normal distribution around 0 with variance 1 (Box and Muller's transform).
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn adapter(layout: WeightLayout, shape: [usize; 2], kind: LoraType) -> Adapter {
        let device = easyedit_core::device::select("cpu").unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        Adapter::new("w".into(), layout, Tensor::zeros(shape, &device), 3, kind, &mut rng)
    }

    #[test]
    fn the_weight_in_training_is_the_one_the_change_makes() {
        for (layout, shape) in [(WeightLayout::OutIn, [4, 6]), (WeightLayout::InOut, [6, 4])] {
            let mut adapter = adapter(layout, shape, LoraType::AdaLora);
            assert!(easyedit_core::tensor_values(&adapter.place(2.0, None).1.inner()).unwrap().iter().all(|v| *v == 0.0));
            adapter.gains = Some(vec![1.0, 0.0, -3.0]);
            let placed = easyedit_core::tensor_values(&adapter.place(2.0, None).1.inner()).unwrap();
            adapter.keep(&[true, false, true]);
            assert_eq!((adapter.rank, adapter.d_in(), adapter.reads.len(), adapter.writes.len()), (2, 6, 12, 8));
            let delta = adapter.delta(2.0).unwrap().unwrap();
            assert_eq!((delta.shape(), delta.rank()), (shape, Some(2)));
            let made = easyedit_core::tensor_values(&delta.to_tensor(&adapter.base.device())).unwrap();
            assert!(placed.iter().zip(&made).all(|(a, b)| (a - b).abs() < 1e-7) && placed.iter().any(|v| *v != 0.0));
            adapter.keep(&[false, false]);
            assert!(adapter.delta(2.0).unwrap().is_none());
        }
    }

    #[test]
    fn a_plain_adapter_starts_within_its_bound_and_changes_nothing() {
        let adapter = adapter(WeightLayout::OutIn, [4, 6], LoraType::Lora);
        let bound = 1.0 / 6f64.sqrt();
        assert!(adapter.reads.iter().all(|v| v.abs() <= bound) && adapter.reads.iter().any(|v| v.abs() > bound / 2.0));
        assert!(adapter.writes.iter().all(|v| *v == 0.0));
    }
}
