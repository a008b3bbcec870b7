//! The change of one weight.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{Error, Matrix, ParamName, Result};

/// Most values a weight that is edited can have. The largest weights of the supported families are embeddings: 128,256 rows of width 16,384, half
/// of this. A change of more values is not one of a weight, whatever a file says.
pub const MAX_WEIGHT_VALUES: u64 = 1 << 32;

/// The change of one weight, in the checkpoint's orientation.
#[derive(Clone, Debug, PartialEq)]
pub enum WeightDelta {
    /// `left · right`: `[rows, rank]` times `[rank, cols]`.
    LowRank {
        /// `[rows, rank]`
        left: Matrix,
        /// `[rank, cols]`
        right: Matrix,
    },
    /// The full change.
    Dense(Matrix),
    /// Changes at single places.
    Sparse {
        /// Shape of the weight.
        shape: [usize; 2],
        /// Row-major places in the weight, in ascending order, each once.
        indices: Vec<u64>,
        /// The change at each place.
        values: Vec<f32>,
    },
}

impl WeightDelta {
    /// Shape of the weight that is changed.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::LowRank { left, right } => [left.shape()[0], right.shape()[1]],
            Self::Dense(change) => change.shape(),
            Self::Sparse { shape, .. } => *shape,
        }
    }

    /// Rank by construction: the inner dimension of a low-rank change, `None` otherwise.
    pub fn rank(&self) -> Option<usize> {
        match self {
            Self::LowRank { left, .. } => Some(left.shape()[1]),
            _ => None,
        }
    }

    /// Checks that the parts make one change: a weight of 1 to [`MAX_WEIGHT_VALUES`] values, factors that multiply, and places inside of the
    /// weight. Every change from outside is checked before anything is computed with it.
    ///
    /// # Errors
    ///
    /// What is wrong, without the name of the weight.
    pub fn check(&self) -> Result<(), String> {
        let [rows, cols] = self.shape();
        let size = (rows as u64).checked_mul(cols as u64).filter(|size| (1..=MAX_WEIGHT_VALUES).contains(size));
        let Some(size) = size else {
            return Err(format!("is changed in shape [{rows}, {cols}]; a weight has 1 to {MAX_WEIGHT_VALUES} values"));
        };
        match self {
            Self::LowRank { left, right } if left.shape()[1] != right.shape()[0] => {
                Err(format!("factors of shapes {:?} and {:?} do not multiply", left.shape(), right.shape()))
            }
            Self::Sparse { indices, values, .. } => check_places(indices, values.len(), size),
            _ => Ok(()),
        }
    }

    /// The full change on `device`, `[rows, cols]`. It is as large as the weight: compare its [`shape`](Self::shape) with the weight's first.
    ///
    /// # Panics
    ///
    /// If the change does not pass [`check`](Self::check).
    pub fn to_tensor(&self, device: &Device) -> Tensor<2> {
        match self {
            // Matrix products do not take an inner dimension of 0.
            Self::LowRank { left, right } if left.shape()[1] == 0 => Tensor::zeros([left.shape()[0], right.shape()[1]], device),
            Self::LowRank { left, right } => left.to_tensor(device).matmul(right.to_tensor(device)),
            Self::Dense(change) => change.to_tensor(device),
            Self::Sparse { shape, indices, values } => {
                let mut full = vec![0f32; shape[0] * shape[1]];
                for (index, value) in indices.iter().zip(values) {
                    if let Some(place) = usize::try_from(*index).ok().and_then(|i| full.get_mut(i)) {
                        *place += value;
                    }
                }
                Tensor::from_data(TensorData::new(full, *shape), device)
            }
        }
    }

    /// Frobenius norm of the change, computed from its parts: the full change is never made.
    pub fn norm(&self) -> f64 {
        match self {
            Self::LowRank { left, right } => product_norm(left, right),
            Self::Dense(change) => change.norm(),
            Self::Sparse { values, .. } => values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt(),
        }
    }

    /// The same change in fewer numbers: a low-rank change whose factors hold more than the full change becomes that.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn compact(self, device: &Device) -> Result<Self> {
        let [rows, cols] = self.shape();
        match self.rank() {
            Some(rank) if rank * (rows + cols) > rows * cols => Ok(Self::Dense(Matrix::from_tensor(&self.to_tensor(device))?)),
            _ => Ok(self),
        }
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
        match self {
            Self::LowRank { left, right } => finite(left.values()) && finite(right.values()),
            Self::Dense(change) => finite(change.values()),
            Self::Sparse { values, .. } => finite(values),
        }
    }

    /// One change that does what `self` and then `later` do: low-rank changes keep their factors side by side.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the shapes differ, or one does not pass [`check`](Self::check).
    pub fn then(&self, later: &Self, name: &ParamName) -> Result<Self> {
        if self.shape() != later.shape() {
            return Err(Error::tensor(
                name.as_str(),
                format!("changes of shapes {:?} and {:?} cannot be joined", self.shape(), later.shape()),
            ));
        }
        for change in [self, later] {
            change.check().map_err(|message| Error::tensor(name.as_str(), message))?;
        }
        if let (Self::LowRank { left, right }, Self::LowRank { left: more_left, right: more_right }) = (self, later)
            && let (Some(left), Some(right)) = (left.beside(more_left), right.above(more_right))
        {
            return Ok(Self::LowRank { left, right });
        }
        let host = crate::device::select("cpu")?;
        let sum = self.to_tensor(&host) + later.to_tensor(&host);
        Ok(Self::Dense(Matrix::from_tensor(&sum)?))
    }

    /// Puts kind, shapes and values into `hash`.
    pub(crate) fn hash_into(&self, hash: &mut Sha256) {
        let mut matrix = |kind: &str, matrix: &Matrix| {
            hash.update(kind);
            matrix.shape().iter().for_each(|side| hash.update((*side as u64).to_le_bytes()));
            matrix.values().iter().for_each(|value| hash.update(value.to_le_bytes()));
        };
        match self {
            Self::LowRank { left, right } => {
                matrix("left", left);
                matrix("right", right);
            }
            Self::Dense(change) => matrix("dense", change),
            Self::Sparse { shape, indices, values } => {
                hash.update("sparse");
                shape.iter().for_each(|side| hash.update((*side as u64).to_le_bytes()));
                indices.iter().for_each(|index| hash.update(index.to_le_bytes()));
                values.iter().for_each(|value| hash.update(value.to_le_bytes()));
            }
        }
    }
}

/// Checks the places of a sparse change of a weight of `size` values.
fn check_places(indices: &[u64], values: usize, size: u64) -> Result<(), String> {
    if indices.len() != values {
        return Err(format!("{} places have {values} values", indices.len()));
    }
    if let Some(index) = indices.iter().find(|index| **index >= size) {
        return Err(format!("place {index} is outside of the weight, which has {size} values"));
    }
    match indices.windows(2).find(|pair| matches!(pair, [a, b] if a >= b)) {
        Some([_, index]) => Err(format!("place {index} comes twice or out of order")),
        _ => Ok(()),
    }
}

/// Frobenius norm of `left · right`.
fn product_norm(left: &Matrix, right: &Matrix) -> f64 {
    let ([rows, rank], [_, cols]) = (left.shape(), right.shape());
    if rank == 0 || rows == 0 || cols == 0 {
        return 0.0;
    }
    let squared: f64 = if rank <= rows.min(cols) {
        // ‖L R‖² is the sum of the products of the entries of LᵀL and R Rᵀ, both of which are symmetric.
        let columns = left.transpose();
        let (columns, right) = (columns.values(), right.values());
        (0..rank)
            .into_par_iter()
            .map(|i| {
                let (column, line) = (line(columns, rows, i), line(right, cols, i));
                let others = columns.chunks_exact(rows).zip(right.chunks_exact(cols)).take(i + 1).enumerate();
                others.map(|(j, (a, b))| if i == j { 1.0 } else { 2.0 } * dot(column, a) * dot(line, b)).sum::<f64>()
            })
            .sum()
    } else {
        // More factors than the change has rows or columns: row by row of the product.
        left.values()
            .chunks_exact(rank)
            .map(|factors| {
                let mut line = vec![0f64; cols];
                for (factor, values) in factors.iter().zip(right.values().chunks_exact(cols)) {
                    line.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*factor) * f64::from(*value));
                }
                line.iter().map(|value| value * value).sum::<f64>()
            })
            .sum()
    };
    // Rounding can leave less than nothing where everything cancels.
    squared.max(0.0).sqrt()
}

/// Row `number` of a row-major matrix.
fn line(values: &[f32], width: usize, number: usize) -> &[f32] {
    values.get(number * width..(number + 1) * width).unwrap_or_default()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let (a, b) = (a.chunks(8), b.chunks(8));
    let mut sums = [0f64; 8];
    for (a, b) in a.zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += f64::from(*a) * f64::from(*b));
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matrix(rows: usize, cols: usize, seed: usize) -> Matrix {
        let values = (0..rows * cols).map(|i| ((i * i * 7919 + i * 31 + seed * 104_729 + 13) % 1009) as f32 / 504.5 - 1.0).collect();
        Matrix::new(rows, cols, values).unwrap()
    }

    proptest! {
        #[test]
        fn norms_are_those_of_the_full_change(rows in 1usize..20, rank in 0usize..30, cols in 1usize..20, seed in 0usize..100) {
            let delta = WeightDelta::LowRank { left: matrix(rows, rank, seed), right: matrix(rank, cols, seed + 1) };
            let device = crate::device::select("cpu").unwrap();
            let full = Matrix::from_tensor(&delta.to_tensor(&device)).unwrap().norm();
            prop_assert!((delta.norm() - full).abs() <= 1e-5 * full.max(1e-3), "{} {}", delta.norm(), full);
        }
    }

    #[test]
    fn a_change_of_rank_0_is_a_change_by_nothing() {
        let device = crate::device::select("cpu").unwrap();
        let none = WeightDelta::LowRank { left: matrix(3, 0, 1), right: matrix(0, 4, 1) };
        none.check().unwrap();
        assert_eq!(Matrix::from_tensor(&none.to_tensor(&device)).unwrap(), Matrix::new(3, 4, vec![0.0; 12]).unwrap());
        let other = WeightDelta::Dense(matrix(3, 4, 1));
        assert_eq!(none.then(&other, &"a".into()).unwrap(), other);
    }

    #[test]
    fn parts_that_do_not_fit_are_refused_before_they_are_joined() {
        let name = ParamName::from("a.weight");
        let odd = WeightDelta::LowRank { left: matrix(3, 2, 1), right: matrix(1, 4, 1) };
        assert!(odd.check().unwrap_err().contains("multiply"));
        assert!(odd.then(&WeightDelta::Dense(matrix(3, 4, 1)), &name).unwrap_err().to_string().contains("a.weight"));
        let twice = WeightDelta::Sparse { shape: [3, 4], indices: vec![1, 1], values: vec![1.0, 2.0] };
        assert!(twice.check().unwrap_err().contains("place 1"));
    }
}
