//! Ranges of hyperparameters. Every check gives a message that names the key and what it may be.

type Checked = Result<(), String>;

/// Checks that each of the named values is above 0.
///
/// # Errors
///
/// A message naming the key.
pub fn above_zero(values: &[(&str, f64)]) -> Checked {
    each(values, "above 0", |value| value.is_finite() && value > 0.0)
}

/// Checks that each of the named values is 0 or more.
///
/// # Errors
///
/// A message naming the key.
pub fn zero_or_more(values: &[(&str, f64)]) -> Checked {
    each(values, "0 or more", |value| value.is_finite() && value >= 0.0)
}

/// Checks that each of the named values is a share: at least 0 and below 1.
///
/// # Errors
///
/// A message naming the key.
pub fn below_one(values: &[(&str, f64)]) -> Checked {
    each(values, "at least 0 and below 1", |value| (0.0..1.0).contains(&value))
}

/// Checks that each of the named counts is at least 1.
///
/// # Errors
///
/// A message naming the key.
pub fn at_least_one(counts: &[(&str, usize)]) -> Checked {
    each(counts, "at least 1", |count| count > 0)
}

fn each<T: Copy + std::fmt::Display>(values: &[(&str, T)], range: &str, fits: impl Fn(T) -> bool) -> Checked {
    match values.iter().find(|(_, value)| !fits(*value)) {
        Some((key, value)) => Err(format!("{key} is {value}; it must be {range}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_named() {
        assert_eq!(above_zero(&[("lr", 1e-9), ("rate", 0.0)]).unwrap_err(), "rate is 0; it must be above 0");
        assert!(above_zero(&[("lr", f64::NAN)]).is_err() && above_zero(&[("lr", f64::INFINITY)]).is_err());
        assert!(zero_or_more(&[("decay", 0.0)]).is_ok() && zero_or_more(&[("decay", -0.1)]).is_err());
        assert!(below_one(&[("p", 0.0)]).is_ok() && below_one(&[("p", 1.0)]).is_err() && below_one(&[("p", f64::NAN)]).is_err());
        assert_eq!(at_least_one(&[("steps", 1), ("rank", 0)]).unwrap_err(), "rank is 0; it must be at least 1");
    }
}
