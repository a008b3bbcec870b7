//! Products of rows with a weight on the CPU, each way.
//!
//! With few rows a product is bound by reading the weight. The CPU backend's kernels copy every block of it into another order, or wait
//! for memory where they do not; those here read it once for [`AT_ONCE`] rows, as it lies, and ask for the next rows while they multiply.
//! Threads that run the same layers on rows of their own read it once for all of them.
//!
//! # Invariants
//!
//! A number of the result is one chain of fused multiply-adds over the inputs in their order. It depends on its row and its part of the
//! weight alone: not on the rows beside it, their number, the threads that share the product, or the weight's layout.

mod joint;
mod matrix;
mod panel;
mod parts;
mod prefetch;
mod stored;
mod times;
mod times_transposed;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, ops::FloatTensorOps};
use burn::tensor::{Tensor, TensorData};
use pulp::Arch;
use rayon::prelude::*;

pub(super) use self::joint::Meeting;
use self::matrix::{Matrix, Numbers, Weight};
use self::parts::{cut, range};
use self::stored::Stored;
use self::times::Times;
use self::times_transposed::TimesTransposed;
use crate::WeightLayout;
use crate::device::is_cpu;

/// Rows that are multiplied with a part of the weight before the next rows are: so many of them stay in the second cache.
const AT_ONCE: usize = 96;

#[backend_extension(Flex, Autodiff)]
trait WeightProduct: Backend {
    fn weight_product(x: FloatTensor<Self>, weight: FloatTensor<Self>, layout: WeightLayout) -> FloatTensor<Self>;
}

impl WeightProduct for Flex {
    fn weight_product(x: FloatTensor<Self>, weight: FloatTensor<Self>, layout: WeightLayout) -> FloatTensor<Self> {
        let x = if Matrix::<f32>::of(&x).is_some() { x } else { x.to_contiguous() };
        let (weight, layout) = with_rows(weight, layout);
        match (Matrix::<f32>::of(&x), Numbers::of(&weight), layout) {
            (Some(x), Some(numbers), layout) => {
                let weight = Weight { numbers, layout };
                let rows: Vec<&[f32]> = (0..x.rows()).map(|row| x.row(row)).collect();
                let values = joint::joint_product(&rows, weight);
                FloatTensor::<Self>::from_data(TensorData::new(values, [x.rows(), weight.outputs()]))
            }
            // Numbers of other types, or none at all.
            (_, _, layout) => {
                let weight = Self::float_cast(weight, x.dtype().into());
                Self::float_matmul(x, if layout == WeightLayout::OutIn { Self::float_swap_dims(weight, 0, 1) } else { weight })
            }
        }
    }
}

/// The weight with contiguous rows: as it is, seen the other way round, or copied.
fn with_rows(weight: FloatTensor<Flex>, layout: WeightLayout) -> (FloatTensor<Flex>, WeightLayout) {
    if Numbers::of(&weight).is_some() {
        return (weight, layout);
    }
    let turned = Flex::float_swap_dims(weight.clone(), 0, 1);
    if Numbers::of(&turned).is_some() { (turned, layout.turned()) } else { (weight.to_contiguous(), layout) }
}

/// Makes the zeros `y` the product of the rows `x` with a weight, on all cores if there is enough to do.
fn product(x: &[&[f32]], weight: Weight<'_>, mut y: Vec<&mut [f32]>) {
    /// Multiplications that pay for handing a part to another core.
    const WORTH_A_TASK: usize = 1 << 20;
    let tasks = rayon::current_num_threads().min(x.len() * weight.outputs() * weight.inputs() / WORTH_A_TASK);
    if tasks <= 1 {
        return product_on_one_core(x, weight, &mut y);
    }
    let parts: Vec<_> = cut(y, tasks).into_iter().enumerate().collect();
    parts.into_par_iter().for_each(|(part, mut y)| product_on_one_core(x, weight.of_outputs(range(weight.outputs(), part, tasks)), &mut y));
}

fn product_on_one_core(x: &[&[f32]], weight: Weight<'_>, y: &mut [&mut [f32]]) {
    match weight.numbers {
        Numbers::F32(matrix) => times(x, matrix, weight.layout, y),
        Numbers::F16(matrix) => times(x, matrix, weight.layout, y),
        Numbers::Bf16(matrix) => times(x, matrix, weight.layout, y),
    }
}

fn times<T: Stored>(x: &[&[f32]], weight: Matrix<'_, T>, layout: WeightLayout, y: &mut [&mut [f32]]) {
    for (x, y) in x.chunks(AT_ONCE).zip(y.chunks_mut(AT_ONCE)) {
        match layout {
            WeightLayout::OutIn => Arch::new().dispatch(TimesTransposed { x, weight, y }),
            WeightLayout::InOut => Arch::new().dispatch(Times { x, weight, y }),
        }
    }
}

impl<C: CheckpointStrategy> WeightProduct for Autodiff<Flex, C> {
    fn weight_product(x: FloatTensor<Self>, weight: FloatTensor<Self>, layout: WeightLayout) -> FloatTensor<Self> {
        // Each side's gradient needs the other side.
        let for_x = x.is_tracked().then(|| weight.primitive().clone());
        let for_weight = weight.is_tracked().then(|| x.primitive().clone());
        let operation = WeightProductBackward.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let y = Flex::weight_product(x.into_primitive(), weight.into_primitive(), layout);
        match operation {
            OpsKind::Tracked(prepared) => prepared.finish((for_x, for_weight, layout), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

#[derive(Debug)]
struct WeightProductBackward;

impl Backward<Flex, 2> for WeightProductBackward {
    type State = (Option<FloatTensor<Flex>>, Option<FloatTensor<Flex>>, WeightLayout);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let ([x_node, weight_node], (weight, x, layout)) = (ops.parents, ops.state);
        if let (Some(node), Some(weight)) = (x_node, weight) {
            gradients.register::<Flex>(node.id, Flex::weight_product(gradient.clone(), weight, layout.turned()));
        }
        if let (Some(node), Some(x)) = (weight_node, x) {
            let [left, right] = match layout {
                WeightLayout::OutIn => [gradient, x],
                WeightLayout::InOut => [x, gradient],
            };
            gradients.register::<Flex>(node.id, Flex::float_matmul(Flex::float_swap_dims(left, 0, 1), right));
        }
    }
}

/// `x W` or `x Wᵀ`, differentiable; `None` on other devices.
pub(super) fn few_rows(x: &Tensor<2>, weight: &Tensor<2>, layout: WeightLayout) -> Option<Tensor<2>> {
    if !is_cpu(&x.device()) {
        return None;
    }
    let y = <Dispatch as WeightProduct>::weight_product(x.clone().into_dispatch(), weight.clone().into_dispatch(), layout);
    Some(Tensor::from_dispatch(y))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Distribution};
    use pulp::Simd;

    use super::*;

    fn random(dims: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::random(dims, Distribution::Normal(0.0, 1.0), device)
    }

    fn difference(a: &Tensor<2>, b: &Tensor<2>) -> f32 {
        assert_eq!(a.dims(), b.dims());
        let values = |t: &Tensor<2>| t.clone().try_into_data().unwrap().try_to_vec::<f32>().unwrap();
        values(a).iter().zip(values(b)).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
    }

    fn usual(x: &Tensor<2>, weight: &Tensor<2>, layout: WeightLayout) -> Tensor<2> {
        match layout {
            WeightLayout::OutIn => x.clone().matmul(weight.clone().transpose()),
            WeightLayout::InOut => x.clone().matmul(weight.clone()),
        }
    }

    const LAYOUTS: [WeightLayout; 2] = [WeightLayout::OutIn, WeightLayout::InOut];

    /// Widths on both sides of every block's, and rows that leave a rest in every block.
    const SHAPES: [(usize, usize, usize); 9] =
        [(1, 90, 70), (2, 5, 600), (3, 16, 48), (8, 33, 20), (15, 100, 17), (17, 150, 97), (40, 64, 200), (81, 65, 49), (213, 7, 130)];

    #[test]
    fn values_and_gradients_are_those_of_the_usual_product() {
        let device = crate::device::select("cpu").unwrap();
        for (rows, d_out, d_in) in SHAPES {
            for layout in LAYOUTS {
                let shape = if layout == WeightLayout::OutIn { [d_out, d_in] } else { [d_in, d_out] };
                let (x, weight, by) = (random([rows, d_in], &device), random(shape, &device), random([rows, d_out], &device));
                let got = few_rows(&x, &weight, layout).unwrap();
                assert!(difference(&got, &usual(&x, &weight, layout)) < 2e-4, "{rows}, {d_out}, {d_in}");
                for track_weight in [false, true] {
                    let tracked = |product: &dyn Fn(&Tensor<2>, &Tensor<2>) -> Tensor<2>| {
                        let x = Tensor::from_inner(x.clone()).require_grad();
                        let weight = Tensor::from_inner(weight.clone());
                        let weight = if track_weight { weight.require_grad() } else { weight };
                        let gradients = (product(&x, &weight) * Tensor::from_inner(by.clone())).sum().backward();
                        (x.grad(&gradients).unwrap(), track_weight.then(|| weight.grad(&gradients).unwrap()))
                    };
                    let (by_x, by_weight) = tracked(&|x, weight| few_rows(x, weight, layout).unwrap());
                    let (want_x, want_weight) = tracked(&|x, weight| usual(x, weight, layout));
                    assert!(difference(&by_x, &want_x) < 2e-4, "{rows}, {d_out}, {d_in}");
                    if let (Some(by_weight), Some(want)) = (by_weight, want_weight) {
                        assert!(difference(&by_weight, &want) < 2e-4, "{rows}, {d_out}, {d_in}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_part_of_a_weight_is_read_where_it_lies() {
        let device = crate::device::select("cpu").unwrap();
        let (x, weight) = (random([9, 30], &device), random([90, 70], &device));
        for (layout, part) in [
            (WeightLayout::InOut, weight.clone().narrow(0, 40, 30).narrow(1, 5, 33)),
            (WeightLayout::OutIn, weight.clone().narrow(0, 11, 47).narrow(1, 40, 30)),
            (WeightLayout::OutIn, weight.clone().narrow(1, 60, 7).narrow(0, 2, 30).transpose()),
        ] {
            assert!(difference(&few_rows(&x, &part, layout).unwrap(), &usual(&x, &part, layout)) < 2e-4);
        }
    }

    #[test]
    fn every_set_of_vector_instructions_computes_the_same() {
        fn check<S: Simd>(simd: S) {
            for (rows, d_out, d_in) in SHAPES {
                let numbers =
                    |count: usize, step: usize| -> Vec<f32> { (0..count).map(|i| (i * step % 101) as f32 / 50.0 - 1.0).collect() };
                let (x, weight) = (numbers(rows * d_in, 37), numbers(d_out * d_in, 29));
                let x: Vec<&[f32]> = x.chunks(d_in).collect();
                for layout in LAYOUTS {
                    let weight = Matrix::contiguous(&weight, if layout == WeightLayout::OutIn { d_in } else { d_out });
                    let [mut got, mut want] = [(); 2].map(|()| vec![0.0; rows * d_out]);
                    product(&x, Weight { numbers: Numbers::F32(weight), layout }, want.chunks_mut(d_out).collect());
                    let y: &mut Vec<&mut [f32]> = &mut got.chunks_mut(d_out).collect();
                    match layout {
                        WeightLayout::OutIn => simd.vectorize(TimesTransposed { x: &x, weight, y }),
                        WeightLayout::InOut => simd.vectorize(Times { x: &x, weight, y }),
                    }
                    let largest = got.iter().zip(&want).fold(0f32, |largest, (got, want)| largest.max((got - want).abs()));
                    assert!(largest < 2e-4, "{layout:?} of {rows}, {d_out}, {d_in}: {largest}");
                }
            }
        }
        check(pulp::Scalar::new());
        #[cfg(target_arch = "x86_64")]
        {
            pulp::x86::V3::try_new().into_iter().for_each(check);
            pulp::x86::V4::try_new().into_iter().for_each(check);
        }
    }

    #[test]
    fn a_weight_of_16_bits_has_the_product_of_the_widened_one() {
        let device = crate::device::select("cpu").unwrap();
        let values = |t: &Tensor<2>| t.clone().try_into_data().unwrap().try_to_vec::<f32>().unwrap();
        for (rows, d_out, d_in) in SHAPES.into_iter().chain([(130, 513, 391)]) {
            for (layout, dtype) in LAYOUTS.into_iter().flat_map(|layout| [(layout, DType::F16), (layout, DType::BF16)]) {
                let shape = if layout == WeightLayout::OutIn { [d_out, d_in] } else { [d_in, d_out] };
                let (x, by) = (random([rows, d_in], &device), random([rows, d_out], &device));
                let stored = random(shape, &device).cast(dtype);
                let with_gradient = |weight: &Tensor<2>| {
                    let x = Tensor::from_inner(x.clone()).require_grad();
                    let y = few_rows(&x, &Tensor::from_inner(weight.clone()), layout).unwrap();
                    let gradients = (y.clone() * Tensor::from_inner(by.clone())).sum().backward();
                    [values(&y.inner()), values(&x.grad(&gradients).unwrap())]
                };
                assert_eq!(with_gradient(&stored), with_gradient(&stored.clone().cast(DType::F32)), "{rows}, {d_out}, {d_in}: {dtype:?}");
                let (part, alike) = (stored.clone().narrow(0, 1, shape[0] - 1), stored.cast(DType::F32).narrow(0, 1, shape[0] - 1));
                let x = if layout == WeightLayout::InOut { x.narrow(1, 1, d_in - 1) } else { x };
                assert_eq!(values(&few_rows(&x, &part, layout).unwrap()), values(&few_rows(&x, &alike, layout).unwrap()));
            }
        }
    }

    #[test]
    fn how_many_threads_share_a_product_does_not_change_it() {
        let device = crate::device::select("cpu").unwrap();
        for layout in LAYOUTS {
            let (x, weight) = (random([30, 700], &device), random([700, 700], &device));
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| few_rows(&x, &weight, layout).unwrap())
            };
            let alone = with(1);
            for threads in [2, 3, 8] {
                assert_eq!(difference(&with(threads), &alone), 0.0);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_product_whatever_stands_beside_it() {
        let device = crate::device::select("cpu").unwrap();
        let values = |t: &Tensor<2>| t.clone().try_into_data().unwrap().try_to_vec::<f32>().unwrap();
        for (d_in, d_out) in [(700, 130), (33, 50), (1, 7)] {
            let (x, weight) = (random([230, d_in], &device), random([d_out, d_in], &device));
            let all = few_rows(&x, &weight, WeightLayout::OutIn).unwrap();
            // The same weight lying in the other way gives the same, too.
            let turned = Tensor::<2>::from_data(weight.clone().transpose().into_data(), &device);
            assert_eq!(values(&few_rows(&x, &turned, WeightLayout::InOut).unwrap()), values(&all));
            for (start, rows) in [(0, 1), (229, 1), (3, 2), (90, 20), (100, 97), (7, 223)] {
                for (weight, layout) in [(&weight, WeightLayout::OutIn), (&turned, WeightLayout::InOut)] {
                    let got = few_rows(&x.clone().narrow(0, start, rows), weight, layout).unwrap();
                    assert_eq!(values(&got), values(&all.clone().narrow(0, start, rows)), "{rows} rows from {start} on, {layout:?}");
                }
            }
        }
    }
}
