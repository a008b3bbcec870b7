//! `x Wᵀ` of few rows on the CPU.
//!
//! Of a weight stored `[out, in]` the CPU's matrix kernels copy every block into another order before they multiply, which for few
//! rows takes about as long as the product. `W xᵀ` reads the weight as it lies, and its gradient `dy W` never needed the copy; with
//! the backend's own operations one of the two would be had only at the price of the other.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, ops::FloatTensorOps};
use burn::tensor::Tensor;

use crate::device::is_cpu;

/// Rows for which reading the weight as it lies pays for turning the result round.
const ROWS: std::ops::RangeInclusive<usize> = 8..=96;

#[backend_extension(Flex, Autodiff)]
trait WeightProduct: Backend {
    fn weight_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl WeightProduct for Flex {
    fn weight_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let columns = Self::float_matmul(weight, Self::float_swap_dims(x, 0, 1));
        Self::float_swap_dims(columns, 0, 1).to_contiguous()
    }
}

impl<C: CheckpointStrategy> WeightProduct for Autodiff<Flex, C> {
    fn weight_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        // Each side's gradient needs the other side.
        let for_x = x.is_tracked().then(|| weight.primitive().clone());
        let for_weight = weight.is_tracked().then(|| x.primitive().clone());
        let operation = WeightProductBackward.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let y = Flex::weight_product(x.into_primitive(), weight.into_primitive());
        match operation {
            OpsKind::Tracked(prepared) => prepared.finish((for_x, for_weight), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

#[derive(Debug)]
struct WeightProductBackward;

impl Backward<Flex, 2> for WeightProductBackward {
    type State = (Option<FloatTensor<Flex>>, Option<FloatTensor<Flex>>);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let ([x_node, weight_node], (weight, x)) = (ops.parents, ops.state);
        if let (Some(node), Some(weight)) = (x_node, weight) {
            gradients.register::<Flex>(node.id, Flex::float_matmul(gradient.clone(), weight));
        }
        if let (Some(node), Some(x)) = (weight_node, x) {
            gradients.register::<Flex>(node.id, Flex::float_matmul(Flex::float_swap_dims(gradient, 0, 1), x));
        }
    }
}

/// `x Wᵀ`, differentiable; `None` where the usual product is as fast: on other devices, and for fewer or more rows.
pub(super) fn few_rows(x: &Tensor<2>, weight: &Tensor<2>) -> Option<Tensor<2>> {
    if !ROWS.contains(&x.dims()[0]) || !is_cpu(&x.device()) {
        return None;
    }
    let y = <Dispatch as WeightProduct>::weight_product(x.clone().into_dispatch(), weight.clone().into_dispatch());
    Some(Tensor::from_dispatch(y))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData};

    use super::*;

    fn random(dims: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::random(dims, Distribution::Normal(0.0, 1.0), device)
    }

    fn difference(a: &Tensor<2>, b: &Tensor<2>) -> f32 {
        let values = |t: &Tensor<2>| t.clone().try_into_data().unwrap().try_to_vec::<f32>().unwrap();
        values(a).iter().zip(values(b)).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
    }

    #[test]
    fn values_and_gradients_are_those_of_the_usual_product() {
        let device = crate::device::select("cpu").unwrap();
        for (rows, out, d_in) in [(8, 33, 20), (40, 64, 48), (96, 7, 130)] {
            let (x, weight, by) = (random([rows, d_in], &device), random([out, d_in], &device), random([rows, out], &device));
            assert!(difference(&few_rows(&x, &weight).unwrap(), &x.clone().matmul(weight.clone().transpose())) < 1e-4);
            for track_weight in [false, true] {
                let tracked = |product: &dyn Fn(&Tensor<2>, &Tensor<2>) -> Tensor<2>| {
                    let x = Tensor::from_inner(x.clone()).require_grad();
                    let weight = if track_weight { Tensor::from_inner(weight.clone()).require_grad() } else { weight.clone() };
                    let gradients = (product(&x, &weight) * Tensor::from_inner(by.clone())).sum().backward();
                    (x.grad(&gradients).unwrap(), track_weight.then(|| weight.grad(&gradients).unwrap()))
                };
                let (by_x, by_weight) = tracked(&|x, weight| few_rows(x, weight).unwrap());
                let weight_of = |weight: &Tensor<2>| if weight.is_autodiff() { weight.clone() } else { Tensor::from_inner(weight.clone()) };
                let (want_x, want_weight) = tracked(&|x, weight| x.clone().matmul(weight_of(weight).transpose()));
                assert!(difference(&by_x, &want_x) < 1e-4);
                if let (Some(by_weight), Some(want)) = (by_weight, want_weight) {
                    assert!(difference(&by_weight, &want) < 1e-4);
                }
            }
        }
    }

    #[test]
    fn other_numbers_of_rows_are_left_to_the_usual_product() {
        let device = crate::device::select("cpu").unwrap();
        let weight = Tensor::<2>::from_data(TensorData::from([[1.0f32, 2.0]]), &device);
        for (rows, taken) in [(7, false), (8, true), (96, true), (97, false)] {
            assert_eq!(few_rows(&Tensor::ones([rows, 2], &device), &weight).is_some(), taken, "{rows}");
        }
    }
}
