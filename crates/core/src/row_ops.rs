//! Norms and attention on the CPU, row by row.
//!
//! The backend's own operations sum in an order that depends on the shape of the whole batch: a token would get other last bits in other
//! company. Here a token's result depends on that token and on those it may attend to, and on nothing else: not on the other rows, on gaps
//! in a cache, on what was run earlier and what is run now, or on the number of threads. So do its gradients.
//!
//! Each function returns `None` where there is no such operation (other devices, other types than `f32`, parameters that are in training);
//! the caller then composes the result from the backend's operations.

#[cfg(all(feature = "flex", feature = "extension"))]
mod attention;
#[cfg(all(feature = "flex", feature = "extension"))]
mod lanes;
#[cfg(all(feature = "flex", feature = "extension"))]
mod norm;

use burn::tensor::Tensor;

use crate::{KeyValue, Pass};

/// A norm over the width of each row.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Factors: `[width]`; 1 if absent.
    pub weight: Option<&'a Tensor<1>>,
    /// Summands: `[width]`; 0 if absent.
    pub bias: Option<&'a Tensor<1>>,
    /// Added to the mean of the squares.
    pub epsilon: f64,
    /// Whether the mean is taken off first (layer norm) or not (RMS norm).
    pub is_centred: bool,
}

/// The norm of each row of `x: [rows, width]`; `None` if it has to be composed.
pub fn row_norm(x: &Tensor<2>, norm: Norm<'_>) -> Option<Tensor<2>> {
    #[cfg(all(feature = "flex", feature = "extension"))]
    return norm::row_norm(x, norm);
    #[cfg(not(all(feature = "flex", feature = "extension")))]
    {
        let _ = (x, norm);
        None
    }
}

/// Softmax attention of the pass's tokens to the slots of their rows, with grouped heads; `None` if it has to be composed.
///
/// A slot whose bias is that of a [masked score](crate::MASKED_SCORE) is passed over.
///
/// # Shapes
///
/// `query: [tokens, heads * head_dim]`, already scaled; keys and values `[rows, kv_heads, slots, head_dim]`; `bias: [rows or 1, heads or 1,
/// width or 1, slots]`. The result is shaped as the query.
pub fn attention(query: &Tensor<2>, read: &KeyValue, bias: Option<&Tensor<4>>, pass: &Pass) -> Option<Tensor<2>> {
    #[cfg(all(feature = "flex", feature = "extension"))]
    return attention::attention(query, read, bias, pass);
    #[cfg(not(all(feature = "flex", feature = "extension")))]
    {
        let _ = (query, read, bias, pass);
        None
    }
}
