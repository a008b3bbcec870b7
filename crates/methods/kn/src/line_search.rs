//! The smallest factor of λ₁ and λ₂ with which a request's new answer is said.

use burn::tensor::activation;
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{LanguageModel, Result, TokenBatch, TokenRow, TokenSlice, tensor_values};
use serde::Serialize;

/// The factors that are tried at first are the powers of two from 2^-8 to 2^3, the smallest first.
const GRID: std::ops::RangeInclusive<i32> = -8..=3;
/// Bisections, of the logarithm, between the first factor that works and the one before.
const BISECTIONS: usize = 4;

/// How a changed model says the new answer, over the prompt and its contexts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Reached {
    /// Share of the answer's tokens that are the most probable ones, each with those before it given; over all contexts.
    pub(crate) predicted: f64,
    /// By how much the log-probability of the answer's tokens is above that of the best other token, at the token and context where that is
    /// least; in nats.
    pub(crate) margin: f64,
}

impl Reached {
    /// How `model` says the answers of `rows`.
    ///
    /// # Errors
    ///
    /// If the model cannot be run.
    pub(crate) fn by(model: &dyn LanguageModel, rows: &[TargetTokens]) -> Result<Self> {
        let sources: Vec<&TokenRow> = rows.iter().map(|row| &row.source).collect();
        let inputs: Vec<TokenSlice<'_>> = rows.iter().map(TargetTokens::input).collect();
        let starts = rows.iter().map(|row| row.start).collect();
        let mut pass = model.start(&sources, TokenBatch::new(&inputs)?)?.with_prompts(starts)?;
        let hidden = model.hidden(&mut pass, &mut ())?;
        let (mut places, mut answers, mut before) = (Vec::new(), Vec::new(), 0);
        for row in rows {
            places.extend(row.predicting().map(|place| before + place));
            answers.extend_from_slice(row.target());
            before += row.input().len();
        }
        let log_probs = activation::log_softmax(model.logits(hidden, &places)?, 1);
        let vocabulary = log_probs.dims()[1].max(1);
        let values = tensor_values(&log_probs)?;
        let margins: Vec<f64> = values.chunks_exact(vocabulary).zip(&answers).map(|(row, answer)| margin(row, *answer as usize)).collect();
        let predicted = margins.iter().filter(|margin| **margin > 0.0).count() as f64 / margins.len().max(1) as f64;
        Ok(Self { predicted, margin: margins.into_iter().fold(f64::INFINITY, f64::min) })
    }

    fn is_better_than(self, other: Self) -> bool {
        (self.predicted, self.margin).partial_cmp(&(other.predicted, other.margin)) == Some(std::cmp::Ordering::Greater)
    }
}

fn margin(log_probs: &[f32], answer: usize) -> f64 {
    let own = log_probs.get(answer).copied().unwrap_or(f32::NEG_INFINITY);
    let others = log_probs.iter().enumerate().filter(|(id, _)| *id != answer).map(|(_, value)| *value);
    f64::from(own) - f64::from(others.fold(f32::NEG_INFINITY, f32::max))
}

/// A factor that was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Found {
    /// Factor of λ₁ and λ₂.
    pub(crate) factor: f64,
    #[serde(flatten)]
    pub(crate) reached: Reached,
    /// Whether all tokens are predicted with the margin that was asked for.
    pub(crate) works: bool,
    /// Passes of the model that the search took; at most 16, each over the prompt and its contexts.
    pub(crate) passes: usize,
}

/// The smallest factor with which every token of the answer is predicted by `margin` nats, as `reached` tells of a factor. If none works, that with
/// which most tokens are predicted, by the largest margin.
///
/// # Errors
///
/// As `reached`.
pub(crate) fn smallest_factor(margin: f64, mut reached: impl FnMut(f64) -> Result<Reached>) -> Result<Found> {
    let mut passes = 0;
    let mut at = |factor: f64| -> Result<Found> {
        passes += 1;
        let reached = reached(factor)?;
        Ok(Found { factor, reached, works: reached.margin >= margin && reached.predicted >= 1.0, passes })
    };
    let mut best: Option<Found> = None;
    let mut below = None;
    for power in GRID {
        let factor = 2f64.powi(power);
        let tried = at(factor)?;
        if best.is_none_or(|best| tried.works || tried.reached.is_better_than(best.reached)) {
            best = Some(tried);
        }
        if tried.works {
            break;
        }
        below = Some(factor);
    }
    let Some(mut best) = best else { return at(1.0) };
    if let (true, Some(mut below)) = (best.works, below) {
        for _ in 0..BISECTIONS {
            let tried = at((below * best.factor).sqrt())?;
            match tried.works {
                true => best = tried,
                false => below = tried.factor,
            }
        }
    }
    Ok(Found { passes, ..best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(margin: f64) -> Reached {
        Reached { predicted: f64::from(u8::from(margin > 0.0)), margin }
    }

    #[test]
    fn the_smallest_factor_that_works_is_found() {
        for least in [0.004, 0.3, 1.0, 6.1] {
            let mut tried = Vec::new();
            let found = smallest_factor(0.5, |factor| {
                tried.push(factor);
                Ok(reached(0.5 + factor.ln() - f64::ln(least)))
            })
            .unwrap();
            assert!(found.works && found.factor >= least && found.factor < 1.05 * least, "{found:?}");
            assert!(found.passes == tried.len() && found.passes <= 16, "{found:?}");
        }
        let first = smallest_factor(0.5, |_| Ok(reached(2.0))).unwrap();
        assert_eq!((first.factor, first.passes), (2f64.powi(-8), 1));
    }

    #[test]
    fn where_none_works_the_best_is_taken_and_said_to_fail() {
        let found = smallest_factor(0.5, |factor| Ok(reached(0.3 - (factor - 0.25).abs()))).unwrap();
        assert_eq!((found.works, found.factor, found.passes), (false, 0.25, 12));
        let never = smallest_factor(0.5, |_| Ok(reached(f64::NAN))).unwrap();
        assert!(!never.works);
    }

    #[test]
    fn a_margin_is_to_the_best_other_token() {
        assert_eq!(margin(&[-3.0, -1.0, -2.0], 1), 1.0);
        assert_eq!(margin(&[-3.0, -1.0, -2.0], 0), -2.0);
        assert!(margin(&[-3.0, -1.0], 7) == f64::NEG_INFINITY);
    }
}
