use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::Norm;
use super::lanes::{dot, sum_of};
use crate::device::is_cpu;

/// Numbers per task: enough to pay for handing it to another core.
const CHUNK: usize = 1 << 15;

/// What a norm is, beside its input.
#[derive(Clone, Debug)]
struct Parameters {
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    epsilon: f32,
    is_centred: bool,
}

#[backend_extension(Flex, Autodiff)]
trait RowNorm: Backend {
    fn row_norm(x: FloatTensor<Self>, parameters: Parameters) -> FloatTensor<Self>;
}

/// The norm on the CPU; `None` elsewhere, and for parameters in training.
pub(super) fn row_norm(x: &Tensor<2>, norm: Norm<'_>) -> Option<Tensor<2>> {
    let [_, width] = x.dims();
    if !is_cpu(&x.device()) || x.dtype() != DType::F32 || width == 0 {
        return None;
    }
    let parameter = |tensor: Option<&Tensor<1>>| match tensor {
        None => Some(None),
        Some(tensor) if tensor.is_autodiff() || tensor.dims() != [width] => None,
        Some(tensor) => tensor.clone().cast(DType::F32).try_into_data().ok()?.try_into_vec::<f32>().ok().map(Some),
    };
    let (weight, bias) = (parameter(norm.weight)?, parameter(norm.bias)?);
    let parameters = Parameters { weight, bias, epsilon: norm.epsilon as f32, is_centred: norm.is_centred };
    Some(Tensor::from_dispatch(<Dispatch as RowNorm>::row_norm(x.clone().into_dispatch(), parameters)))
}

impl RowNorm for Flex {
    fn row_norm(x: FloatTensor<Self>, parameters: Parameters) -> FloatTensor<Self> {
        forward(x, &parameters).0
    }
}

impl<C: CheckpointStrategy> RowNorm for Autodiff<Flex, C> {
    fn row_norm(x: FloatTensor<Self>, parameters: Parameters) -> FloatTensor<Self> {
        let operation = RowNormBackward.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        match operation {
            OpsKind::Tracked(prepared) => {
                let (y, scales) = forward(x.clone(), &parameters);
                prepared.finish((x, scales, parameters), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(forward(x, &parameters).0),
        }
    }
}

/// Mean of a row, 0 where it is not taken off, and what the rest is multiplied with.
type Scale = (f32, f32);

#[derive(Debug)]
struct RowNormBackward;

impl Backward<Flex, 1> for RowNormBackward {
    type State = (FloatTensor<Flex>, Vec<Scale>, Parameters);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let ([node], (x, scales, parameters)) = (ops.parents, ops.state);
        let Some(node) = node else { return };
        let x = x.to_contiguous();
        let width = x.layout().shape()[1];
        let (numbers, by_y) = (slice(&x), slice(&gradient));
        let mut by_x = vec![0f32; numbers.len()];
        let rows = rows_at_once(width);
        let parts = by_x.par_chunks_mut(rows * width).zip(numbers.par_chunks(rows * width)).zip(by_y.par_chunks(rows * width));
        parts.zip(scales.par_chunks(rows)).for_each(|(((by_x, x), by_y), scales)| {
            Arch::new().dispatch(RowsBackward { by_x, x, by_y, scales, width, parameters: &parameters });
        });
        let shape = [scales.len(), width];
        gradients.register::<Flex>(node.id, FloatTensor::<Flex>::from_data(TensorData::new(by_x, shape)));
    }
}

/// The numbers of a contiguous tensor.
fn slice(tensor: &FloatTensor<Flex>) -> &[f32] {
    let count = tensor.layout().shape().num_elements();
    &tensor.storage::<f32>()[tensor.layout().start_offset()..][..count]
}

fn rows_at_once(width: usize) -> usize {
    (CHUNK / width).max(1)
}

fn forward(x: FloatTensor<Flex>, parameters: &Parameters) -> (FloatTensor<Flex>, Vec<Scale>) {
    let x = x.to_contiguous();
    let (rows, width) = (x.layout().shape()[0], x.layout().shape()[1]);
    let mut y = vec![0f32; rows * width];
    let mut scales = vec![(0.0, 0.0); rows];
    let at_once = rows_at_once(width);
    let parts = y.par_chunks_mut(at_once * width).zip(slice(&x).par_chunks(at_once * width)).zip(scales.par_chunks_mut(at_once));
    parts.for_each(|((y, x), scales)| Arch::new().dispatch(Rows { y, x, scales, width, parameters }));
    (FloatTensor::<Flex>::from_data(TensorData::new(y, [rows, width])), scales)
}

struct Rows<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    scales: &'a mut [Scale],
    width: usize,
    parameters: &'a Parameters,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { y, x, scales, width, parameters } = self;
        let Parameters { weight, bias, epsilon, is_centred } = parameters;
        let share = 1.0 / width as f32;
        for ((y, x), scale) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(scales) {
            let mean = if *is_centred { share * sum_of(simd, x, x, |x, _, sum| simd.add_f32s(x, sum), |x, _| x) } else { 0.0 };
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x - mean);
            let factor = 1.0 / (share * dot(simd, y, y) + epsilon).sqrt();
            *scale = (mean, factor);
            match weight {
                Some(weight) => y.iter_mut().zip(weight).for_each(|(y, weight)| *y = *y * factor * weight),
                None => y.iter_mut().for_each(|y| *y *= factor),
            }
            if let Some(bias) = bias {
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
    }
}

struct RowsBackward<'a> {
    by_x: &'a mut [f32],
    x: &'a [f32],
    by_y: &'a [f32],
    scales: &'a [Scale],
    width: usize,
    parameters: &'a Parameters,
}

impl WithSimd for RowsBackward<'_> {
    type Output = ();

    /// With x̂ the normed row and g the gradient by it: `(g - mean(g) - x̂ mean(g x̂)) · factor`, without `mean(g)` where no mean is taken off.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { by_x, x, by_y, scales, width, parameters } = self;
        let share = 1.0 / width as f32;
        let mut normed = vec![0f32; width];
        let rows = by_x.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(by_y.chunks_exact(width));
        for (((by_x, x), by_y), (mean, factor)) in rows.zip(scales) {
            normed.iter_mut().zip(x).for_each(|(normed, x)| *normed = (x - mean) * factor);
            match &parameters.weight {
                Some(weight) => by_x.iter_mut().zip(by_y).zip(weight).for_each(|((by_x, by_y), weight)| *by_x = by_y * weight),
                None => by_x.copy_from_slice(by_y),
            }
            let along = share * dot(simd, by_x, &normed);
            let level = match parameters.is_centred {
                true => share * sum_of(simd, by_x, by_x, |x, _, sum| simd.add_f32s(x, sum), |x, _| x),
                false => 0.0,
            };
            by_x.iter_mut().zip(&normed).for_each(|(by_x, normed)| *by_x = (*by_x - level - normed * along) * factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    fn values(tensor: &Tensor<2>) -> Vec<f32> {
        tensor.clone().try_into_data().unwrap().try_to_vec::<f32>().unwrap()
    }

    fn composed(x: Tensor<2>, norm: Norm<'_>) -> Tensor<2> {
        let centred = if norm.is_centred { x.clone() - x.mean_dim(1) } else { x };
        let scale = (centred.clone() * centred.clone()).mean_dim(1).add_scalar(norm.epsilon).sqrt().recip();
        let normed = centred * scale;
        let weighted = if let Some(weight) = norm.weight { normed * weight.clone().unsqueeze() } else { normed };
        if let Some(bias) = norm.bias { weighted + bias.clone().unsqueeze() } else { weighted }
    }

    fn check(width: usize, with: impl Fn(&Tensor<1>, &Tensor<1>, &dyn Fn(Norm<'_>)), device: &Device) {
        let random = |dims: [usize; 2]| Tensor::<2>::random(dims, Distribution::Normal(0.3, 1.0), device);
        let (x, by) = (random([37, width]), random([37, width]));
        let vector = || Tensor::<1>::random([width], Distribution::Normal(0.0, 1.0), device);
        with(&vector(), &vector(), &|norm| {
            let tracked = |f: &dyn Fn(&Tensor<2>) -> Tensor<2>, x: &Tensor<2>, by: &Tensor<2>| {
                let x = Tensor::from_inner(x.clone()).require_grad();
                let y = f(&x);
                let gradients = (y.clone() * Tensor::from_inner(by.clone())).sum().backward();
                (values(&y.inner()), values(&x.grad(&gradients).unwrap()))
            };
            let ours = |x: &Tensor<2>| row_norm(x, norm).unwrap();
            let (got, want) = (tracked(&ours, &x, &by), tracked(&|x| composed(x.clone(), norm), &x, &by));
            for (got, want) in got.0.iter().chain(&got.1).zip(want.0.iter().chain(&want.1)) {
                assert!((got - want).abs() < 2e-5 * want.abs().max(1.0), "width {width}: {got} and {want}");
            }
            assert_eq!(values(&ours(&x)), got.0);
            let row = |x: &Tensor<2>| x.clone().narrow(0, 20, 1);
            let alone = tracked(&ours, &row(&x), &row(&by));
            assert_eq!(alone.0, got.0[20 * width..21 * width], "a row alone has other values");
            assert_eq!(alone.1, got.1[20 * width..21 * width], "a row alone has other gradients");
        });
    }

    #[test]
    fn values_and_gradients_are_those_of_the_formula_and_of_each_row_alone() {
        let device = crate::device::select("cpu").unwrap();
        for width in [1usize, 5, 32, 130, 577] {
            for (is_centred, parameters) in [(false, true), (true, true), (true, false)] {
                // A centred row of one number is 0 whatever it is: nothing to compare.
                if width == 1 && is_centred {
                    continue;
                }
                let with = |weight: &Tensor<1>, bias: &Tensor<1>, check: &dyn Fn(Norm<'_>)| {
                    let bias = Some(bias).filter(|_| parameters && is_centred);
                    check(Norm { weight: Some(weight).filter(|_| parameters), bias, epsilon: 1e-5, is_centred });
                };
                check(width, with, &device);
            }
        }
    }

    #[test]
    fn parameters_in_training_are_left_to_the_backend() {
        let device = crate::device::select("cpu").unwrap();
        let weight = Tensor::<1>::from_inner(Tensor::ones([4], &device)).require_grad();
        let norm = Norm { weight: Some(&weight), bias: None, epsilon: 1e-5, is_centred: false };
        assert!(row_norm(&Tensor::ones([2, 4], &device), norm).is_none());
    }
}
