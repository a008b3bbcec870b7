use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, Side};

use easyedit_core::{Error, Result};

use crate::KeyWeight;
use crate::parallelism::fix_parts;

/// Ridge of the first retry, as a share of the mean of the diagonal; each further retry takes ten times as much.
const FIRST_RIDGE: f64 = 1e-10;
/// Retries before giving up.
const RETRIES: usize = 8;

/// What answers the keys of new facts in a layer.
#[derive(Clone, Debug)]
pub struct SolvedKeys {
    /// One vector per key, of the key's width: a change `Σ r xᵀ` of a weight answers key k with `Σ r (xᵀ k)`.
    pub vectors: Vec<Vec<f64>>,
    /// The weight of what is kept against the keys.
    pub weight: f64,
}

/// A Cholesky factor of a symmetric positive definite matrix, in f64: factored once, solved with many times.
#[derive(Debug)]
pub struct Cholesky {
    factor: Llt<f64>,
    ridge: f64,
}

impl Cholesky {
    /// Factors the matrix `entry(row, column)` of `size` rows. When it is not positive definite, a growing multiple of the identity
    /// is added, with a warning that names `what`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] naming `what` if an entry is not finite, or no reasonable ridge makes it positive definite.
    pub fn new(size: usize, entry: impl Fn(usize, usize) -> f64, what: &str) -> Result<Self> {
        fix_parts();
        let mut matrix = Mat::from_fn(size, size, &entry);
        let mean_diagonal = (0..size).map(|i| matrix[(i, i)]).sum::<f64>() / size.max(1) as f64;
        if (0..size).any(|c| (0..size).any(|r| !matrix[(r, c)].is_finite())) {
            return Err(Error::NotFinite(format!("{what} holds NaN or infinity")));
        }
        let mut ridge = 0.0;
        for attempt in 0..=RETRIES {
            if attempt > 0 {
                let next = FIRST_RIDGE * 10f64.powi(attempt as i32 - 1) * mean_diagonal;
                tracing::warn!("{what} is not positive definite; adding {next:.1e} to its diagonal");
                (0..size).for_each(|i| matrix[(i, i)] += next - ridge);
                ridge = next;
            }
            if let Ok(factor) = matrix.llt(Side::Lower) {
                return Ok(Self { factor, ridge });
            }
        }
        Err(Error::NotFinite(format!("{what} is singular; collect its statistics over more text")))
    }

    /// Solves `A x = b`.
    pub fn solve(&self, b: &[f64]) -> Vec<f64> {
        let column = Mat::from_fn(b.len(), 1, |row, _| b[row]);
        let x = self.factor.solve(&column);
        (0..b.len()).map(|row| x[(row, 0)]).collect()
    }

    /// Solves `(w A + K Kᵀ) X = K` for keys `K`, one column each, by the Woodbury identity: `X = Y (w I + Kᵀ Y)⁻¹` with `Y = A⁻¹ K`. The
    /// factor of `A` serves every set of keys, and the matrix that is factored here is as small as the keys are few. With `w = 0`, `Xᵀ K`
    /// is the identity: each x answers its own key alone.
    ///
    /// # Shapes
    ///
    /// `keys` and the vectors of the result: as many as keys, each of the matrix's size.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] naming `what` if the keys are not finite.
    ///
    /// # Source
    ///
    /// Meng et al., "Mass-Editing Memory in a Transformer", equation 14, with `w` the weight of the second moment.
    pub fn solve_with_keys(&self, weight: KeyWeight, keys: &[Vec<f64>], what: &str) -> Result<SolvedKeys> {
        let (size, count) = (keys.first().map_or(0, Vec::len), keys.len());
        let k = Mat::from_fn(size, count, |row, column| keys[column][row]);
        let y = self.factor.solve(&k);
        let gram = k.transpose() * &y;
        let weight = weight.resolve(&gram, what)?;
        let ridge = |r: usize, c: usize| if r == c { weight } else { 0.0 };
        let small = Self::new(count, |r, c| 0.5 * (gram[(r, c)] + gram[(c, r)]) + ridge(r, c), what)?;
        let x = small.factor.solve(y.transpose());
        Ok(SolvedKeys { vectors: (0..count).map(|key| (0..size).map(|row| x[(key, row)]).collect()).collect(), weight })
    }

    /// What was added to the diagonal; 0 unless the matrix was not positive definite.
    pub fn ridge(&self) -> f64 {
        self.ridge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_a_system_with_a_known_answer() {
        let a = [[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]];
        let solver = Cholesky::new(3, |r, c| a[r][c], "a").unwrap();
        let x = solver.solve(&[9.0, 10.0, 8.0]);
        // Checked by hand: A · (2, 1, 3.5) = (9, 8.5, 8); the exact answer solves the system itself.
        for (row, want) in a.iter().zip([9.0, 10.0, 8.0]) {
            let got: f64 = row.iter().zip(&x).map(|(a, x)| a * x).sum();
            assert!((got - want).abs() < 1e-12);
        }
        assert_eq!(solver.ridge(), 0.0);
    }

    #[test]
    fn keys_are_solved_for_as_by_the_whole_matrix() {
        let (size, weight) = (7, 3.5);
        let noise = |i: usize| ((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0;
        let a = |r: usize, c: usize| {
            (0..20).map(|t| noise(r * 31 + t * 17) * noise(c * 31 + t * 17)).sum::<f64>() + f64::from(u8::from(r == c))
        };
        for count in [1, 3, 12] {
            let keys: Vec<Vec<f64>> = (0..count).map(|key| (0..size).map(|row| noise(1000 + key * 53 + row * 29)).collect()).collect();
            let x = Cholesky::new(size, a, "a").unwrap().solve_with_keys(KeyWeight::Fixed(weight), &keys, "keys").unwrap().vectors;
            let entry = |r: usize, c: usize| weight * a(r, c) + keys.iter().map(|key| key[r] * key[c]).sum::<f64>();
            let whole = Cholesky::new(size, entry, "the whole").unwrap();
            for (key, x) in keys.iter().zip(&x) {
                let want = whole.solve(key);
                let scale = want.iter().fold(0f64, |max, v| max.max(v.abs()));
                assert!(want.iter().zip(x).all(|(w, x)| (w - x).abs() <= 1e-8 * scale), "{count} keys");
            }
        }
    }

    #[test]
    fn without_weight_each_solution_answers_its_own_key_alone() {
        let noise = |i: usize| ((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0;
        let keys: Vec<Vec<f64>> = (0..3).map(|key| (0..6).map(|row| noise(key * 53 + row * 29)).collect()).collect();
        let a = |r: usize, c: usize| if r == c { 1.0 + r as f64 } else { 0.1 };
        let x = Cholesky::new(6, a, "a").unwrap().solve_with_keys(KeyWeight::Fixed(0.0), &keys, "keys").unwrap().vectors;
        for (i, x) in x.iter().enumerate() {
            for (j, key) in keys.iter().enumerate() {
                let answer: f64 = x.iter().zip(key).map(|(x, k)| x * k).sum();
                assert!((answer - f64::from(u8::from(i == j))).abs() < 1e-9, "{i}, {j}: {answer}");
            }
        }
    }

    #[test]
    fn the_weight_by_rule_writes_the_wanted_share() {
        let noise = |i: usize| ((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0;
        let a = |r: usize, c: usize| if r == c { 1.0 + r as f64 } else { 0.1 };
        let solver = Cholesky::new(6, a, "a").unwrap();
        for count in [1, 4] {
            let keys: Vec<Vec<f64>> = (0..count).map(|key| (0..6).map(|row| noise(key * 53 + row * 29)).collect()).collect();
            for share in [0.3, 0.9] {
                let solved = solver.solve_with_keys(KeyWeight::ForShare(share), &keys, "keys").unwrap();
                let written = |(x, k): (&Vec<f64>, &Vec<f64>)| x.iter().zip(k).map(|(x, k)| x * k).sum::<f64>();
                let mean = solved.vectors.iter().zip(&keys).map(written).sum::<f64>() / count as f64;
                assert!((mean - share).abs() < 1e-6, "{count} keys: {mean} instead of {share}");
                let again = solver.solve_with_keys(KeyWeight::Fixed(solved.weight), &keys, "keys").unwrap();
                assert_eq!(again.vectors, solved.vectors);
            }
        }
    }

    #[test]
    fn a_singular_matrix_gets_a_ridge_and_a_damaged_one_an_error() {
        let solver = Cholesky::new(2, |_, _| 1.0, "rank one").unwrap();
        assert!(solver.ridge() > 0.0);
        assert!(Cholesky::new(2, |_, _| f64::NAN, "layer 3").unwrap_err().to_string().contains("layer 3"));
        assert!(Cholesky::new(2, |r, c| if r == c { -1.0 } else { 0.0 }, "layer 3").is_err());
    }
}
