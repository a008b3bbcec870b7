#[cfg(all(feature = "flex", feature = "extension"))]
mod few_rows;

use burn::tensor::Tensor;

use crate::WeightLayout;

/// The product of activations with a weight, `x W` or `x Wᵀ` as `layout` has it, in the way that is the fastest one for the number of
/// rows and the device; differentiable by both.
///
/// # Shapes
///
/// `x: [rows, in]`, `weight: [in, out]` or `[out, in]` -> `[rows, out]`
pub fn weight_product(x: Tensor<2>, weight: &Tensor<2>, layout: WeightLayout) -> Tensor<2> {
    #[cfg(all(feature = "flex", feature = "extension"))]
    if let Some(y) = few_rows::few_rows(&x, weight, layout) {
        return y;
    }
    match layout {
        WeightLayout::OutIn => x.matmul(weight.clone().transpose()),
        WeightLayout::InOut => x.matmul(weight.clone()),
    }
}
