use faer::linalg::solvers::Solve;
use faer::{Mat, Side};

use easyedit_core::{Error, Result};

use crate::parallelism::fix_parts;
use crate::{KeyWeight, SecondMoments, SolvedKeys};

/// Eigenvalues of a moment kept in `f32` may be below 0 by this share of the largest.
const ROUNDING: f64 = 1e-4;

/// The directions in which a second moment has next to nothing: a change of a weight that reads only these leaves alone what the weight
/// answers to the keys the moment was collected over.
///
/// # Source
///
/// Fang et al., "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models", section 3.
#[derive(Debug)]
pub struct NullSpace {
    /// Orthonormal columns: of the space itself, or of all that is outside of it, whichever is less.
    basis: Mat<f64>,
    is_complement: bool,
}

impl NullSpace {
    /// The space of the eigenvectors of a moment whose eigenvalues are below `threshold`; `what` names the moment in messages.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] if the eigenvalues cannot be had; [`Error::Batch`] if one is negative beyond rounding; [`Error::Hparams`] if none is
    /// below the threshold.
    pub fn of(moments: &SecondMoments, threshold: f64, what: &str) -> Result<Self> {
        let size = moments.size();
        let matrix = Mat::from_fn(size, size, |r, c| moments.entry(r, c));
        fix_parts();
        let eigen = matrix
            .self_adjoint_eigen(Side::Lower)
            .map_err(|error| Error::NotFinite(format!("the eigenvalues of {what} cannot be computed: {error:?}")))?;
        let values: Vec<f64> = eigen.S().column_vector().iter().copied().collect();
        let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = values.iter().copied().fold(0.0, f64::max);
        if smallest < -ROUNDING * largest || (largest == 0.0 && smallest < 0.0) {
            return Err(Error::Batch(format!(
                "{what} has the eigenvalue {smallest:.3e} and is no mean of products of keys, whose eigenvalues are not negative; \
                 remove the file, or collect the statistics again with `easyedit stats`"
            )));
        }
        let (inside, outside): (Vec<usize>, Vec<usize>) = (0..size).partition(|index| values[*index] < threshold);
        if inside.is_empty() {
            return Err(Error::hparams(format!(
                "nullspace_threshold is {threshold}, but the smallest eigenvalue of {what} is {smallest:.3e}; raise it"
            )));
        }
        let is_complement = outside.len() < inside.len();
        let chosen = if is_complement { outside } else { inside };
        let vectors = eigen.U();
        Ok(Self { basis: Mat::from_fn(size, chosen.len(), |r, c| vectors[(r, chosen[c])]), is_complement })
    }

    /// Number of directions in the space.
    pub fn dimension(&self) -> usize {
        if self.is_complement { self.basis.nrows() - self.basis.ncols() } else { self.basis.ncols() }
    }

    /// Solves `(ρ I + P (K Kᵀ + E Eᵀ)) X = P K`, where P projects onto the space, for the columns `keys` of K and `earlier` of E: the
    /// change `Σ r xᵀ` answers the keys, and what answers the earlier ones stays as it is. The matrix that is factored is as small as the
    /// keys are few: `X` is the part of `P B (ρ I + Bᵀ P B)⁻¹` that belongs to K, with B = \[E K\]. A ρ for a wanted share is chosen for the keys
    /// alone; what they have in common with earlier ones is written less.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] if the keys are not finite, or not independent and `ridge` is 0.
    ///
    /// # Source
    ///
    /// Fang et al., equation 14, with ρ in the place of 1.
    pub fn solve_with_keys(&self, earlier: &[&[f64]], keys: &[Vec<f64>], ridge: KeyWeight, what: &str) -> Result<SolvedKeys> {
        let size = self.basis.nrows();
        let all: Vec<&[f64]> = earlier.iter().copied().chain(keys.iter().map(Vec::as_slice)).collect();
        let b = Mat::from_fn(size, all.len(), |row, column| all[column][row]);
        let along = &self.basis * (self.basis.transpose() * &b);
        let projected = if self.is_complement { &b - &along } else { along };
        let gram = b.transpose() * &projected;
        if (0..all.len()).any(|i| !gram[(i, i)].is_finite()) {
            return Err(Error::NotFinite(format!("{what} are not finite")));
        }
        let own = |r: usize, c: usize| 0.5 * (gram[(earlier.len() + r, earlier.len() + c)] + gram[(earlier.len() + c, earlier.len() + r)]);
        let ridge = ridge.resolve(&Mat::from_fn(keys.len(), keys.len(), own), what)?;
        let damped = Mat::from_fn(all.len(), all.len(), |r, c| 0.5 * (gram[(r, c)] + gram[(c, r)]) + if r == c { ridge } else { 0.0 });
        let factor = damped.llt(Side::Lower).map_err(|_| Error::NotFinite(format!("{what} depend on each other; raise L2")))?;
        let wanted = Mat::from_fn(all.len(), keys.len(), |r, c| if r == earlier.len() + c { 1.0 } else { 0.0 });
        let x = &projected * factor.solve(&wanted);
        let vectors = (0..keys.len()).map(|column| (0..size).map(|row| x[(row, column)]).collect()).collect();
        Ok(SolvedKeys { vectors, weight: ridge })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 7;

    fn noise(i: usize) -> f64 {
        ((i as f64 * 12.9898).sin() * 43_758.545).fract()
    }

    fn vectors(count: usize, seed: usize) -> Vec<Vec<f64>> {
        (0..count).map(|v| (0..SIZE).map(|row| noise(seed + v * 53 + row * 29)).collect()).collect()
    }

    /// The moment of these keys.
    fn moments(keys: &[Vec<f64>]) -> SecondMoments {
        let mean = (0..SIZE * SIZE).map(|i| keys.iter().map(|k| k[i / SIZE] * k[i % SIZE]).sum::<f64>() as f32).collect();
        SecondMoments::from_parts(SIZE, 1, mean).unwrap()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn solutions_see_nothing_of_preserved_and_little_of_earlier_keys() {
        for known in [2, 5] {
            let preserved = vectors(known, 0);
            let space = NullSpace::of(&moments(&preserved), 1e-3, "layer 3").unwrap();
            assert_eq!(space.dimension(), SIZE - known);
            let (earlier, keys) = (vectors(1, 500), vectors(1, 900));
            let earlier: Vec<&[f64]> = earlier.iter().map(Vec::as_slice).collect();
            let x = space.solve_with_keys(&earlier, &keys, KeyWeight::Fixed(1e-9), "the keys").unwrap().vectors;
            for key in &preserved {
                assert!(dot(&x[0], key).abs() < 1e-4, "{known} preserved: {}", dot(&x[0], key));
            }
            assert!((dot(&x[0], &keys[0]) - 1.0).abs() < 1e-5 && dot(&x[0], earlier[0]).abs() < 1e-5);
        }
    }

    #[test]
    fn the_small_system_gives_what_the_whole_one_gives() {
        let space = NullSpace::of(&moments(&vectors(3, 0)), 1e-3, "layer 3").unwrap();
        let (earlier, keys, ridge) = (vectors(2, 500), vectors(2, 900), 0.7);
        let earlier_columns: Vec<&[f64]> = earlier.iter().map(Vec::as_slice).collect();
        let x = space.solve_with_keys(&earlier_columns, &keys, KeyWeight::Fixed(ridge), "the keys").unwrap().vectors;
        // P from the space's own basis, and then the equation as it stands.
        let outer = &space.basis * space.basis.transpose();
        let p = |r: usize, c: usize| if space.is_complement { f64::from(u8::from(r == c)) - outer[(r, c)] } else { outer[(r, c)] };
        let gram = |r: usize, c: usize| earlier.iter().chain(&keys).map(|k| k[r] * k[c]).sum::<f64>();
        for (key, x) in keys.iter().zip(&x) {
            for r in 0..SIZE {
                let projected_key: f64 = (0..SIZE).map(|c| p(r, c) * key[c]).sum();
                let left: f64 = ridge * x[r] + (0..SIZE).map(|m| p(r, m) * (0..SIZE).map(|c| gram(m, c) * x[c]).sum::<f64>()).sum::<f64>();
                assert!((left - projected_key).abs() < 1e-9, "row {r}: {left} and {projected_key}");
            }
        }
    }

    #[test]
    fn a_threshold_below_all_eigenvalues_is_an_error() {
        let error = NullSpace::of(&moments(&vectors(20, 0)), 1e-12, "layer 3").unwrap_err().to_string();
        assert!(error.contains("nullspace_threshold") && error.contains("layer 3"), "{error}");
    }

    #[test]
    fn a_moment_with_a_negative_eigenvalue_is_refused() {
        // Rounded to `f32`, moments of fewer keys than dimensions have eigenvalues a little below 0.
        assert!(NullSpace::of(&moments(&vectors(2, 0)), 1e-3, "layer 3").is_ok());
        let mut mean = moments(&vectors(20, 0)).mean().to_vec();
        mean.iter_mut().for_each(|v| *v = -*v);
        let negative = SecondMoments::from_parts(SIZE, 1, mean).unwrap();
        let error = NullSpace::of(&negative, 1e-3, "the second moment of layer 3 (x.npz)").unwrap_err().to_string();
        assert!(error.contains("layer 3 (x.npz)") && error.contains("eigenvalue -") && error.contains("easyedit stats"), "{error}");
        let mut mean = moments(&vectors(20, 0)).mean().to_vec();
        // Still symmetric, with a diagonal that allows every entry.
        (0..SIZE).for_each(|i| mean[i * SIZE + i] *= 0.2);
        let indefinite = SecondMoments::from_parts(SIZE, 1, mean).unwrap();
        assert!(NullSpace::of(&indefinite, 1e3, "layer 3").is_err());
    }
}
