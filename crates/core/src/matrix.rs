use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::{Error, MAX_WEIGHT_VALUES, Result};

/// A row-major `f32` matrix in host memory: the form in which edits are kept and written.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// A matrix from its row-major `values`; `None` unless there are exactly `rows * cols` of them, and neither side is longer than
    /// [`MAX_WEIGHT_VALUES`]: a side of an empty matrix is bounded by nothing else, and devices compute addresses with it.
    pub fn new(rows: usize, cols: usize, values: Vec<f32>) -> Option<Self> {
        let is_bounded = [rows, cols].iter().all(|side| *side as u64 <= MAX_WEIGHT_VALUES);
        (is_bounded && rows.checked_mul(cols) == Some(values.len())).then_some(Self { rows, cols, values })
    }

    /// A matrix of one column.
    pub fn column(values: Vec<f32>) -> Self {
        Self { rows: values.len(), cols: 1, values }
    }

    /// A matrix of one row.
    pub fn row(values: Vec<f32>) -> Self {
        Self { rows: 1, cols: values.len(), values }
    }

    /// Copies a tensor from its device.
    ///
    /// # Errors
    ///
    /// [`Error::Other`] if the device fails.
    pub fn from_tensor(tensor: &Tensor<2>) -> Result<Self> {
        let [rows, cols] = tensor.dims();
        Ok(Self { rows, cols, values: tensor_values(tensor)? })
    }

    /// Copies the matrix to `device`.
    pub fn to_tensor(&self, device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.values.clone(), [self.rows, self.cols]), device)
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The rows `rows`, in that order.
    ///
    /// # Panics
    ///
    /// If a row is out of range.
    pub fn select_rows(&self, rows: &[usize]) -> Self {
        let values = rows.iter().flat_map(|row| &self.values[row * self.cols..(row + 1) * self.cols]).copied().collect();
        Self { rows: rows.len(), cols: self.cols, values }
    }

    /// The transposed matrix.
    pub fn transpose(&self) -> Self {
        let values =
            (0..self.cols).flat_map(|col| (0..self.rows).map(move |row| (row, col))).map(|(row, col)| self.values[row * self.cols + col]);
        Self { rows: self.cols, cols: self.rows, values: values.collect() }
    }

    /// Frobenius norm.
    pub fn norm(&self) -> f64 {
        self.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
    }

    /// Puts `other`'s columns after this matrix's own (same number of rows).
    pub fn beside(&self, other: &Self) -> Option<Self> {
        if self.rows != other.rows {
            return None;
        }
        let mut values = Vec::with_capacity(self.values.len() + other.values.len());
        for row in 0..self.rows {
            values.extend_from_slice(&self.values[row * self.cols..(row + 1) * self.cols]);
            values.extend_from_slice(&other.values[row * other.cols..(row + 1) * other.cols]);
        }
        Self::new(self.rows, self.cols + other.cols, values)
    }

    /// Puts `other`'s rows below this matrix's own (same number of columns).
    pub fn above(&self, other: &Self) -> Option<Self> {
        if self.cols != other.cols {
            return None;
        }
        let mut values = self.values.clone();
        values.extend_from_slice(&other.values);
        Self::new(self.rows + other.rows, self.cols, values)
    }
}

/// The tensor's values as `f32`, row by row, in host memory.
///
/// # Errors
///
/// [`Error::Batch`] if the device fails.
pub fn tensor_values<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>> {
    let data = tensor
        .clone()
        .cast(DType::F32)
        .try_into_data()
        .map_err(|e| Error::Batch(format!("the device did not give a tensor back: {e:?}")))?;
    data.try_into_vec::<f32>().map_err(|e| Error::Batch(format!("the device gave back a tensor of another type: {e:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_by_columns_and_rows() {
        let a = Matrix::new(2, 1, vec![1.0, 2.0]).unwrap();
        let b = Matrix::new(2, 2, vec![3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(a.beside(&b).unwrap().values(), [1.0, 3.0, 4.0, 2.0, 5.0, 6.0]);
        assert_eq!(a.above(&Matrix::row(vec![9.0])).unwrap().shape(), [3, 1]);
        assert!(a.above(&b).is_none());
        assert!(Matrix::new(2, 2, vec![0.0; 3]).is_none());
        assert!(Matrix::new(0, 5, Vec::new()).is_some());
        assert!(Matrix::new(1 << 62, 0, Vec::new()).is_none(), "an empty matrix has no absurd side");
    }

    #[test]
    fn goes_to_a_device_and_back() {
        let device = crate::device::select("cpu").unwrap();
        let m = Matrix::new(2, 3, vec![1.0, -2.0, 3.5, 0.0, 5.0, 6.0]).unwrap();
        assert_eq!(Matrix::from_tensor(&m.to_tensor(&device)).unwrap(), m);
    }
}
