//! Changes as two factors, of no more rank than need be.

use easyedit_core::{Matrix, ParamName, WeightDelta, device};
use faer::{Mat, MatRef};

use crate::{Error, Result};

/// Singular values below this share of the largest are what rounding to `f32` leaves.
const NEGLIGIBLE: f64 = f32::EPSILON as f64;

/// A change as factors: `left` is `[rows, rank]`, `right` is `[rank, cols]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Factors {
    pub(crate) left: Matrix,
    pub(crate) right: Matrix,
    /// Frobenius norm of what was left out over that of the change.
    pub(crate) relative_error: f64,
}

/// The change `delta` of the weight `name` as factors. `limit` is the highest rank allowed; without it, low-rank changes stay exactly as they are,
/// and any other is an error.
pub(crate) fn factors(name: &ParamName, delta: &WeightDelta, limit: Option<usize>) -> Result<Factors> {
    let [rows, cols] = delta.shape();
    match (delta, limit) {
        (WeightDelta::LowRank { left, right }, limit) if limit.is_none_or(|limit| left.shape()[1] <= limit) => {
            if left.shape()[1] <= rows.min(cols) {
                return Ok(Factors { left: left.clone(), right: right.clone(), relative_error: 0.0 });
            }
            full_rank(name, left, right)
        }
        (_, Some(limit)) => truncated(name, delta, limit),
        (_, None) => {
            let kind = if matches!(delta, WeightDelta::Sparse { .. }) { "sparse" } else { "dense" };
            Err(Error::weight(
                name,
                format!(
                    "its change is {kind}, and adapters are of low rank; --rank N exports the best one of rank N (at most {}), or write the \
                     edited model itself (`easyedit apply`)",
                    rows.min(cols)
                ),
            ))
        }
    }
}

/// The product of factors that have more columns than the weight has: the product itself, and an identity.
fn full_rank(name: &ParamName, left: &Matrix, right: &Matrix) -> Result<Factors> {
    let product = &wide(left) * &wide(right);
    let (rows, cols) = (product.nrows(), product.ncols());
    let (left, right) = if rows <= cols { (Mat::identity(rows, rows), product) } else { (product, Mat::identity(cols, cols)) };
    Ok(Factors { left: narrow(name, left.as_ref())?, right: narrow(name, right.as_ref())?, relative_error: 0.0 })
}

/// The nearest change of at most rank `limit`, by the singular value decomposition; its two factors share the singular values evenly.
fn truncated(name: &ParamName, delta: &WeightDelta, limit: usize) -> Result<Factors> {
    let [rows, cols] = delta.shape();
    // The decomposition of a product of thin factors is that of the small matrix between their orthonormal bases.
    let (bases, core) = match delta {
        WeightDelta::LowRank { left, right } if left.shape()[1] < rows.min(cols) => {
            let (left, right) = (wide(left).qr(), wide(right).transpose().qr());
            let core = left.thin_R() * right.thin_R().transpose();
            (Some((left.compute_thin_Q(), right.compute_thin_Q())), core)
        }
        WeightDelta::LowRank { left, right } => (None, &wide(left) * &wide(right)),
        other => (None, wide(&Matrix::from_tensor(&other.to_tensor(&device::select("cpu")?))?)),
    };
    if !(0..core.ncols()).all(|c| core.col(c).iter().all(|value| value.is_finite())) {
        return Err(Error::weight(name, "its change holds NaN or infinity; make the edit anew"));
    }
    let svd = core.thin_svd().map_err(|_| Error::weight(name, "the singular values of its change cannot be computed"))?;
    let values: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let largest = values.first().copied().unwrap_or_default();
    let rank = values.iter().filter(|value| **value > NEGLIGIBLE * largest).count().clamp(1, limit.max(1)).min(values.len());
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let (all, lost) = (norm(&values), norm(values.get(rank..).unwrap_or_default()));
    let root = |part: usize| values.get(part).copied().unwrap_or_default().sqrt();
    let (u, v) = (svd.U(), svd.V());
    let mut left = Mat::from_fn(core.nrows(), rank, |r, part| u[(r, part)] * root(part));
    let mut right = Mat::from_fn(rank, core.ncols(), |part, c| v[(c, part)] * root(part));
    if let Some((of_rows, of_cols)) = bases {
        left = of_rows * left;
        right = right * of_cols.transpose();
    }
    let relative_error = if all > 0.0 { lost / all } else { 0.0 };
    Ok(Factors { left: narrow(name, left.as_ref())?, right: narrow(name, right.as_ref())?, relative_error })
}

fn wide(matrix: &Matrix) -> Mat<f64> {
    let [rows, cols] = matrix.shape();
    Mat::from_fn(rows, cols, |row, col| f64::from(matrix.values()[row * cols + col]))
}

fn narrow(name: &ParamName, matrix: MatRef<'_, f64>) -> Result<Matrix> {
    let (rows, cols) = (matrix.nrows(), matrix.ncols());
    let values = (0..rows).flat_map(|row| (0..cols).map(move |col| matrix[(row, col)] as f32)).collect();
    Matrix::new(rows, cols, values).ok_or_else(|| Error::weight(name, "its factors are misshapen"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(rows: usize, cols: usize, seed: usize) -> Matrix {
        let values = (0..rows * cols).map(|i| ((i * i * 7919 + i * 31 + seed * 104_729 + 13) % 1009) as f32 / 504.5 - 1.0).collect();
        Matrix::new(rows, cols, values).unwrap()
    }

    fn product(delta: &WeightDelta) -> Matrix {
        Matrix::from_tensor(&delta.to_tensor(&device::select("cpu").unwrap())).unwrap()
    }

    fn distance(factors: &Factors, delta: &WeightDelta) -> f64 {
        let ours = product(&WeightDelta::LowRank { left: factors.left.clone(), right: factors.right.clone() });
        let want = product(delta);
        let difference = ours.values().iter().zip(want.values()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        difference / want.norm()
    }

    fn name() -> ParamName {
        "a.weight".into()
    }

    #[test]
    fn low_ranks_stay_and_too_high_ones_are_reduced_without_loss() {
        for (rows, cols) in [(6, 9), (9, 6)] {
            let few = WeightDelta::LowRank { left: noise(rows, 3, 1), right: noise(3, cols, 2) };
            let kept = factors(&name(), &few, None).unwrap();
            assert_eq!(WeightDelta::LowRank { left: kept.left, right: kept.right }, few);
            let many = WeightDelta::LowRank { left: noise(rows, 20, 1), right: noise(20, cols, 2) };
            let reduced = factors(&name(), &many, None).unwrap();
            assert_eq!(reduced.left.shape()[1], 6);
            assert!(distance(&reduced, &many) < 1e-6);
        }
    }

    #[test]
    fn truncation_tells_its_error_and_is_the_best_there_is() {
        // Singular values 3, 2 and 1 by construction: a diagonal matrix.
        let mut values = vec![0f32; 15];
        (values[0], values[6], values[12]) = (3.0, 2.0, 1.0);
        let delta = WeightDelta::Dense(Matrix::new(3, 5, values).unwrap());
        for (rank, error) in [(1, (5f64 / 14.0).sqrt()), (2, (1f64 / 14.0).sqrt()), (3, 0.0), (9, 0.0)] {
            let found = factors(&name(), &delta, Some(rank)).unwrap();
            assert!((found.relative_error - error).abs() < 1e-9, "{rank}: {}", found.relative_error);
            assert_eq!(found.left.shape()[1], rank.min(3));
            assert!((distance(&found, &delta) - error).abs() < 1e-6);
        }
    }

    #[test]
    fn thin_factors_and_their_product_are_truncated_alike() {
        let thin = WeightDelta::LowRank { left: noise(12, 5, 3), right: noise(5, 10, 4) };
        let dense = WeightDelta::Dense(product(&thin));
        for rank in [2, 5] {
            let (a, b) = (factors(&name(), &thin, Some(rank)).unwrap(), factors(&name(), &dense, Some(rank)).unwrap());
            assert!((a.relative_error - b.relative_error).abs() < 1e-6);
            assert!((distance(&a, &dense) - a.relative_error).abs() < 1e-5);
        }
        let whole = factors(&name(), &dense, Some(10)).unwrap();
        assert_eq!(whole.left.shape()[1], 5, "the rank it has is found");
    }

    #[test]
    fn changes_that_are_not_of_low_rank_need_a_rank() {
        let dense = WeightDelta::Dense(noise(3, 4, 1));
        let sparse = WeightDelta::Sparse { shape: [3, 4], indices: vec![5], values: vec![2.0] };
        for (delta, kind) in [(dense, "dense"), (sparse.clone(), "sparse")] {
            let message = factors(&name(), &delta, None).unwrap_err().to_string();
            for part in ["a.weight", kind, "--rank", "at most 3"] {
                assert!(message.contains(part), "{message}");
            }
        }
        let found = factors(&name(), &sparse, Some(3)).unwrap();
        assert_eq!(found.left.shape()[1], 1);
        assert!(distance(&found, &sparse) < 1e-6);
        let broken = WeightDelta::Dense(Matrix::new(1, 2, vec![f32::NAN, 1.0]).unwrap());
        assert!(factors(&name(), &broken, Some(1)).unwrap_err().to_string().contains("NaN"));
    }
}
