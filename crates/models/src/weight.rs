use burn::tensor::{DType, Device, Int, Tensor};
use easyedit_core::{WeightLayout, weight_product};

use crate::StoredValues;

/// A matrix of a model in the type it is stored in. Whatever is computed with it is computed in `f32`.
///
/// A weight that is replaced stays in the type of the new one, which is `f32`: numbers are rounded once, when the model is saved.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    /// `f32`, or 16-bit numbers.
    stored: Tensor<2>,
}

impl From<Tensor<2>> for Weight {
    fn from(stored: Tensor<2>) -> Self {
        Self { stored }
    }
}

impl Weight {
    /// A weight of this shape on `device`, in the type of the values.
    pub(crate) fn new(values: StoredValues, shape: [usize; 2], device: &Device) -> Self {
        let kind = values.kind().of_tensor();
        Self { stored: Tensor::from_data(values.into_data(shape), (device, kind)) }
    }

    /// Rows and columns.
    pub(crate) fn dims(&self) -> [usize; 2] {
        self.stored.dims()
    }

    /// The numbers as `f32`: a copy where they are stored otherwise.
    pub(crate) fn to_f32(&self) -> Tensor<2> {
        widened(self.stored.clone())
    }

    /// The rows of these indices: `[indices, columns]`.
    pub(crate) fn rows(&self, indices: Tensor<1, Int>) -> Tensor<2> {
        widened(self.stored.clone().select(0, indices))
    }

    /// The part `start..start + length` of dimension `dim`, without a copy.
    pub(crate) fn narrow(&self, dim: usize, start: usize, length: usize) -> Self {
        Self { stored: self.stored.clone().narrow(dim, start, length) }
    }

    /// Activations times the weight: `[rows, in]` -> `[rows, out]`.
    pub(crate) fn product(&self, x: Tensor<2>, layout: WeightLayout) -> Tensor<2> {
        weight_product(x, &self.stored, layout)
    }
}

fn widened(stored: Tensor<2>) -> Tensor<2> {
    match stored.dtype() {
        DType::F32 => stored,
        _ => stored.cast(DType::F32),
    }
}
