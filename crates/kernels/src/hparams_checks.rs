//! Ranges of hyperparameters. Every check gives a message that names the key and what it may be.

use std::fmt::Display;

type Checked = Result<(), String>;

/// The largest value of a hyperparameter, and why no larger one is taken.
#[derive(Clone, Copy, Debug)]
pub struct Ceiling<T> {
    /// The largest value.
    pub most: T,
    /// Why, for the message.
    pub reason: &'static str,
}

/// Ceilings of the hyperparameters that several methods have. None is near what is useful; they are there so that a slip of the finger is an
/// error instead of a run without end or a machine without memory.
pub mod ceilings {
    use super::Ceiling;

    /// Steps of an optimisation.
    pub const STEPS: Ceiling<usize> = Ceiling { most: 100_000, reason: "every step runs the model there and back" };
    /// Numbers of layers, and how many of them a list names.
    pub const LAYERS: Ceiling<usize> = Ceiling { most: 4096, reason: "no model is that deep" };
    /// Requests of one step.
    pub const BATCH: Ceiling<usize> = Ceiling { most: 1 << 20, reason: "a step holds the activations of all its requests" };
    /// Lengths in tokens.
    pub const LENGTH: Ceiling<usize> = Ceiling { most: 1 << 24, reason: "no model reads that many tokens" };
    /// Texts that statistics are collected over.
    pub const SAMPLES: Ceiling<usize> = Ceiling { most: 10_000_000, reason: "the model runs, or writes, every one of them" };
    /// Tokens that statistics are collected over.
    pub const TOKENS: Ceiling<usize> = Ceiling { most: 10_000_000_000, reason: "the model runs, or writes, every one of them" };
    /// Pairs of `context_template_length_params`.
    pub const TEMPLATE_PAIRS: Ceiling<usize> = Ceiling { most: 100, reason: "every fact is run in every template" };
    /// Context templates in all.
    pub const TEMPLATES: Ceiling<usize> = Ceiling { most: 1000, reason: "every fact is run in every template" };
    /// Tokens of a context template.
    pub const TEMPLATE_LENGTH: Ceiling<usize> = Ceiling { most: 512, reason: "every fact is run behind every template" };
    /// Learning rates.
    pub const RATE: Ceiling<f64> = Ceiling { most: 1e3, reason: "longer steps than that leave every useful value behind" };
    /// Weights of a term, factors and bounds.
    pub const WEIGHT: Ceiling<f64> =
        Ceiling { most: 1e15, reason: "beyond it nothing is left of what it is weighed against, not even in f64" };
    /// Thresholds of losses.
    pub const LOSS: Ceiling<f64> = Ceiling { most: 1e6, reason: "no loss of a model comes near it" };
}

/// Checks that none of the named values is above a ceiling.
///
/// # Errors
///
/// A message naming the key, the ceiling and its reason.
pub fn at_most<T: Copy + PartialOrd + Display>(values: &[(&str, T)], ceiling: Ceiling<T>) -> Checked {
    // NaN is not at most anything.
    match values
        .iter()
        .find(|(_, value)| !matches!(value.partial_cmp(&ceiling.most), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)))
    {
        Some((key, value)) => Err(format!("{key} is {value}; it must be at most {} ({})", ceiling.most, ceiling.reason)),
        None => Ok(()),
    }
}

/// Checks a list of layers, which may be empty: how many it names, and their numbers.
///
/// # Errors
///
/// A message naming the key.
pub fn layers_within(key: &str, layers: &[usize]) -> Checked {
    at_most(&[(&format!("the length of {key}"), layers.len())], ceilings::LAYERS)?;
    layers.iter().try_for_each(|layer| at_most(&[(key, *layer)], ceilings::LAYERS))
}

/// Checks pairs of (tokens, number) of context templates.
///
/// # Errors
///
/// A message naming the key.
pub fn templates_within(key: &str, templates: &[(usize, usize)]) -> Checked {
    at_most(&[(&format!("the length of {key}"), templates.len())], ceilings::TEMPLATE_PAIRS)?;
    for (length, count) in templates {
        at_most(&[(&format!("the number of tokens in {key}"), *length)], ceilings::TEMPLATE_LENGTH)?;
        at_most(&[(&format!("the number of templates in {key}"), *count)], ceilings::TEMPLATES)?;
    }
    at_most(&[(&format!("the number of all templates in {key}"), templates.iter().map(|(_, count)| count).sum())], ceilings::TEMPLATES)
}

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

/// Checks that each of the named values is a share: 0 to 1, both included.
///
/// # Errors
///
/// A message naming the key.
pub fn zero_to_one(values: &[(&str, f64)]) -> Checked {
    each(values, "0 to 1", |value| (0.0..=1.0).contains(&value))
}

/// Checks that each of the named values is a share: at least 0 and below 1.
///
/// # Errors
///
/// A message naming the key.
pub fn below_one(values: &[(&str, f64)]) -> Checked {
    each(values, "at least 0 and below 1", |value| (0.0..1.0).contains(&value))
}

/// Checks that each of the named values is a share above 0 and below 1.
///
/// # Errors
///
/// A message naming the key.
pub fn inside_one(values: &[(&str, f64)]) -> Checked {
    each(values, "above 0 and below 1", |value| value > 0.0 && value < 1.0)
}

/// Checks that each of the named counts is at least 1.
///
/// # Errors
///
/// A message naming the key.
pub fn at_least_one(counts: &[(&str, usize)]) -> Checked {
    each(counts, "at least 1", |count| count > 0)
}

fn each<T: Copy + Display>(values: &[(&str, T)], range: &str, fits: impl Fn(T) -> bool) -> Checked {
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
        assert_eq!(zero_to_one(&[("p", 0.0), ("q", 1.5)]).unwrap_err(), "q is 1.5; it must be 0 to 1");
        assert!(zero_to_one(&[("p", 1.0)]).is_ok() && zero_to_one(&[("p", -0.1)]).is_err() && zero_to_one(&[("p", f64::NAN)]).is_err());
        assert_eq!(at_least_one(&[("steps", 1), ("rank", 0)]).unwrap_err(), "rank is 0; it must be at least 1");
        assert!(inside_one(&[("share", 0.9)]).is_ok() && inside_one(&[("share", 0.0)]).is_err() && inside_one(&[("share", 1.0)]).is_err());
    }

    #[test]
    fn what_is_above_a_ceiling_is_named_with_the_reason() {
        let ceiling = Ceiling { most: 8, reason: "there is no more room" };
        assert!(at_most(&[("rank", 8)], ceiling).is_ok());
        assert_eq!(at_most(&[("rank", 9)], ceiling).unwrap_err(), "rank is 9; it must be at most 8 (there is no more room)");
        assert!(at_most(&[("lr", f64::NAN)], ceilings::RATE).is_err() && at_most(&[("lr", f64::INFINITY)], ceilings::RATE).is_err());
        assert!(layers_within("layers", &[0, usize::MAX]).unwrap_err().contains("layers is 18446744073709551615"));
        assert!(layers_within("layers", &[0; 5000]).unwrap_err().contains("the length of layers is 5000"));
        for wrong in [&[(1 << 40, 1)][..], &[(1, 1 << 40)], &[(10, 600); 2], &[(1, 1); 200]] {
            assert!(templates_within("templates", wrong).unwrap_err().contains("templates"));
        }
        assert!(templates_within("templates", &[(5, 10), (10, 10)]).is_ok() && layers_within("layers", &[]).is_ok());
    }
}
