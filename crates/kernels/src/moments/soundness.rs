use easyedit_core::{Error, Result};

use super::{FoundMoments, SecondMoments};

/// The two triangles of sums of products in `f32` differ by rounding, by this share of their diagonal at most.
const ROUNDING: f64 = 1e-3;

impl FoundMoments {
    /// What the moments are, for messages: `the second moment of layer 3 (FILE)`.
    pub fn describe(&self, layer: usize) -> String {
        let file = self.file.as_ref().map(|file| format!(" ({})", file.display())).unwrap_or_default();
        format!("the second moment of layer {layer}{file}")
    }

    /// Checks that the matrix is symmetric up to rounding, and that no entry is larger than its diagonal allows.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] naming layer and file.
    pub fn check(&self, layer: usize) -> Result<()> {
        let Some(fault) = fault(&self.moments) else { return Ok(()) };
        Err(Error::Batch(format!(
            "{} is no mean of products of keys: {fault}; remove the file, or collect the statistics again with `easyedit stats`",
            self.describe(layer)
        )))
    }
}

/// What forbids that a matrix is a mean of products k kᵀ; `None` if nothing is found.
fn fault(moments: &SecondMoments) -> Option<String> {
    let size = moments.size;
    let entry = |row: usize, column: usize| moments.mean.get(row * size + column).map_or(f64::NAN, |v| f64::from(*v));
    if let Some(row) = (0..size).find(|row| entry(*row, *row).is_nan() || entry(*row, *row) < 0.0) {
        return Some(format!("entry {row} of its diagonal is {:.3e}", entry(row, row)));
    }
    let roots: Vec<f64> = (0..size).map(|row| entry(row, row).sqrt()).collect();
    for (row, root) in roots.iter().enumerate() {
        for (column, other) in roots.iter().enumerate().take(row) {
            // |E[x y]| ≤ √(E[x²] E[y²])
            let ([below, above], limit) = ([entry(row, column), entry(column, row)], root * other);
            let rounding = ROUNDING * limit + f64::from(f32::MIN_POSITIVE);
            if (below - above).is_nan() || (below - above).abs() > rounding {
                return Some(format!(
                    "it is not symmetric: entries ({row}, {column}) and ({column}, {row}) are {below:.3e} and {above:.3e}"
                ));
            }
            if below.abs().max(above.abs()) > limit + rounding {
                return Some(format!("entry ({row}, {column}) is {below:.3e}, beyond the {limit:.3e} that its diagonal allows"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn found(mean: [f32; 4]) -> FoundMoments {
        let moments = SecondMoments::from_parts(2, 9, mean.to_vec()).unwrap();
        FoundMoments { moments, file: Some(PathBuf::from("stats/x.npz")) }
    }

    #[test]
    fn moments_that_are_not_symmetric_are_refused_with_layer_and_file() {
        assert!(found([1.0, 0.5, 0.5001, 2.0]).check(3).is_ok(), "rounding");
        let message = found([1.0, 0.5, 0.6, 2.0]).check(3).unwrap_err().to_string();
        assert!(message.contains("not symmetric") && message.contains("layer 3") && message.contains("stats/x.npz"), "{message}");
        assert!(message.contains("easyedit stats"), "{message}");
    }

    #[test]
    fn moments_that_no_keys_have_are_refused() {
        assert!(found([-1.0, 0.0, 0.0, 1.0]).check(0).unwrap_err().to_string().contains("diagonal is -1"));
        assert!(found([1.0, 3.0, 3.0, 1.0]).check(0).unwrap_err().to_string().contains("beyond"));
        assert!(found([0.0, 0.0, 0.0, 1.0]).check(0).is_ok(), "a neuron that never fires");
    }
}
