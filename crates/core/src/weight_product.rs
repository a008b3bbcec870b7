#[cfg(all(feature = "flex", feature = "extension"))]
mod few_rows;

use burn::tensor::Tensor;

/// `x Wᵀ` of a weight stored `[out, in]`, in the order of operands that is the faster one for the number of rows and the device;
/// differentiable by both.
///
/// # Shapes
///
/// `x: [rows, in]`, `weight: [out, in]` -> `[rows, out]`
pub fn weight_product(x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    #[cfg(all(feature = "flex", feature = "extension"))]
    if let Some(y) = few_rows::few_rows(&x, weight) {
        return y;
    }
    x.matmul(weight.clone().transpose())
}
