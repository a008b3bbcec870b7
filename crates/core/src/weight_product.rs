#[cfg(all(feature = "flex", feature = "extension"))]
mod few_rows;

#[cfg(all(feature = "flex", feature = "extension"))]
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::WeightLayout;

/// The product of activations with a weight, `x W` or `x Wᵀ` as `layout` has it; differentiable by both.
///
/// The weight may hold 16-bit numbers: each is widened before it is multiplied, and sums are of `f32`. On the CPU the result is that of the
/// widened weight, bit for bit.
///
/// On the CPU a row has the same product, bit for bit, whatever rows stand beside it and however many threads there are; so has its gradient.
///
/// # Shapes
///
/// `x: [rows, in]`, `weight: [in, out]` or `[out, in]` -> `[rows, out]`
pub fn weight_product(x: Tensor<2>, weight: &Tensor<2>, layout: WeightLayout) -> Tensor<2> {
    #[cfg(all(feature = "flex", feature = "extension"))]
    if let Some(y) = few_rows::few_rows(&x, weight, layout) {
        return y;
    }
    let weight = if weight.dtype() == x.dtype() { weight.clone() } else { weight.clone().cast(x.dtype()) };
    match layout {
        WeightLayout::OutIn => x.matmul(weight.transpose()),
        WeightLayout::InOut => x.matmul(weight),
    }
}

/// Threads that run the same layers, each on rows of its own, and read each weight together: on a CPU, products of few rows are bound by
/// reading the weight, and so each thread reads a part of it for the rows of all. The products are the same as those of a thread alone, bit
/// for bit.
#[derive(Debug)]
pub struct JointProducts {
    #[cfg(all(feature = "flex", feature = "extension"))]
    meeting: Arc<few_rows::Meeting>,
}

impl JointProducts {
    /// Of as many threads.
    #[cfg_attr(not(all(feature = "flex", feature = "extension")), expect(unused_variables, reason = "nothing is shared"))]
    pub fn among(threads: usize) -> Self {
        Self {
            #[cfg(all(feature = "flex", feature = "extension"))]
            meeting: few_rows::Meeting::new(threads),
        }
    }

    /// Runs `work` on this thread as one of them; to be called once on each.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        #[cfg(all(feature = "flex", feature = "extension"))]
        return self.meeting.run(work);
        #[cfg(not(all(feature = "flex", feature = "extension")))]
        work()
    }
}
