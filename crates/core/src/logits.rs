//! The logits of one position: which token is the most probable, and how probable one is.

use crate::exp::exp;
use crate::{Error, Result};

/// Numbers of a row that are worked on side by side; the order of a sum follows from the row's length alone.
const LANES: usize = 8;

/// The largest logit and its id; of equal ones the smallest id.
///
/// # Errors
///
/// [`Error::NotFinite`] if a logit is NaN, [`Error::Batch`] if there is none.
pub(crate) fn most_probable(logits: &[f32]) -> Result<(u32, f32)> {
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut is_number = [true; LANES];
    for chunk in chunks {
        for ((largest, is_number), logit) in largest.iter_mut().zip(&mut is_number).zip(chunk) {
            *largest = if *logit > *largest { *logit } else { *largest };
            *is_number &= !logit.is_nan();
        }
    }
    if is_number.contains(&false) || rest.iter().any(|logit| logit.is_nan()) {
        return Err(Error::NotFinite("the model's logits are not finite; its weights are damaged".into()));
    }
    let largest = largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let id = logits.iter().position(|logit| *logit == largest);
    id.map(|id| (id as u32, largest)).ok_or_else(|| Error::Batch("the model has no vocabulary".into()))
}

/// Logarithm of the sum of `exp` over the logits, none of which is above `largest`.
pub(crate) fn log_sum_exp(logits: &[f32], largest: f32) -> f32 {
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for chunk in chunks {
        for (sum, logit) in sums.iter_mut().zip(chunk) {
            *sum += exp(*logit - largest);
        }
    }
    let sum = sums.iter().copied().chain(rest.iter().map(|logit| exp(*logit - largest))).map(f64::from).sum::<f64>();
    (f64::from(largest) + sum.ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_of_equal_ids_wins_and_nan_is_an_error() {
        assert_eq!(most_probable(&[0.0, 2.0, 2.0]).unwrap(), (1, 2.0));
        let mut long = vec![-1.0; 3 * LANES + 2];
        long[2 * LANES + 1] = 0.5;
        long[3 * LANES + 1] = 0.5;
        assert_eq!(most_probable(&long).unwrap(), (2 * LANES as u32 + 1, 0.5));
        for place in 0..long.len() {
            let mut damaged = long.clone();
            damaged[place] = f32::NAN;
            assert!(most_probable(&damaged).unwrap_err().to_string().contains("not finite"), "{place}");
        }
        assert!(most_probable(&[]).is_err());
    }

    #[test]
    fn sums_of_exponentials_are_exact_and_do_not_overflow() {
        let logits: Vec<f32> = (0..1003).map(|i| 300.0 + (i % 37) as f32 * 0.3).collect();
        let largest = most_probable(&logits).unwrap().1;
        let want = f64::from(largest) + logits.iter().map(|l| (f64::from(*l) - f64::from(largest)).exp()).sum::<f64>().ln();
        assert!((f64::from(log_sum_exp(&logits, largest)) - want).abs() < 1e-4);
        assert_eq!(log_sum_exp(&[3.0], 3.0), 3.0);
    }
}
