use burn::tensor::{Device, Tensor, TensorData};

use crate::{Error, Result, tensor_values};

/// An array of `f32` of any shape in host memory, row-major: what files of learned parameters hold.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl HostTensor {
    /// An array; `None` unless the shape holds exactly these values.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Option<Self> {
        let size = shape.iter().try_fold(1usize, |size, side| size.checked_mul(*side));
        (size == Some(values.len())).then_some(Self { shape, values })
    }

    /// A vector.
    pub fn vector(values: Vec<f32>) -> Self {
        Self { shape: vec![values.len()], values }
    }

    /// Copies a matrix from its device.
    ///
    /// # Errors
    ///
    /// [`Error::Other`] if the device fails.
    pub fn from_matrix(tensor: &Tensor<2>) -> Result<Self> {
        Ok(Self { shape: tensor.dims().to_vec(), values: tensor_values(tensor)? })
    }

    /// Copies a matrix of one row from its device, as a vector.
    ///
    /// # Errors
    ///
    /// [`Error::Other`] if the device fails.
    pub fn from_row(tensor: &Tensor<2>) -> Result<Self> {
        Ok(Self::vector(tensor_values(tensor)?))
    }

    /// The array on `device`; a vector is one row.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] naming it `name` if it has other than one or two dimensions.
    pub fn to_matrix(&self, name: &str, device: &Device) -> Result<Tensor<2>> {
        let shape = match self.shape.as_slice() {
            [width] => [1, *width],
            [rows, cols] => [*rows, *cols],
            other => return Err(Error::tensor(name, format!("has shape {other:?}; it must be a vector or a matrix"))),
        };
        Ok(Tensor::from_data(TensorData::new(self.values.clone(), shape), device))
    }

    /// Length of each side.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}
