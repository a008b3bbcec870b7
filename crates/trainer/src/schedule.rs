use easyedit_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the learning rates change over the optimiser steps of a run. The factor multiplies the rate of every group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// The rates stay.
    #[default]
    Constant,
    /// The rates rise from 0 over the first `warmup` steps, and stay.
    Linear {
        /// Steps of the rise; at least 1.
        warmup: u64,
    },
    /// After a linear rise over `warmup` steps the factor falls from 1 to `last` along half a cosine.
    Cosine {
        /// Steps of the rise; 0 for none.
        warmup: u64,
        /// Factor of the last step; 0 to 1.
        last: f64,
    },
}

impl Schedule {
    /// Factor of the rates in step `step` of `total`, counted from 0.
    pub fn factor(self, step: u64, total: u64) -> f64 {
        let rise = |warmup: u64| if step < warmup { (step + 1) as f64 / warmup as f64 } else { 1.0 };
        match self {
            Self::Constant => 1.0,
            Self::Linear { warmup } => rise(warmup),
            Self::Cosine { warmup, .. } if step < warmup => rise(warmup),
            Self::Cosine { warmup, last } => {
                let share = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
                last + (1.0 - last) * 0.5 * (1.0 + (std::f64::consts::PI * share.min(1.0)).cos())
            }
        }
    }

    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Linear { warmup: 0 } => Err(Error::hparams("warmup is 0; a linear schedule rises over at least 1 step")),
            Self::Cosine { last, .. } if !(0.0..=1.0).contains(&last) => {
                Err(Error::hparams(format!("last_factor is {last}; it must be 0 to 1")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_rises_and_falls() {
        let schedule = Schedule::Cosine { warmup: 4, last: 0.1 };
        let factors: Vec<f64> = (0..=14).map(|step| schedule.factor(step, 14)).collect();
        assert_eq!((factors[0], factors[3], factors[4]), (0.25, 1.0, 1.0));
        assert!((factors[9] - 0.55).abs() < 1e-12 && (factors[14] - 0.1).abs() < 1e-12);
        assert!(factors[4..].windows(2).all(|pair| pair[0] > pair[1]));
        assert_eq!(schedule.factor(99, 14), factors[14]);
        assert_eq!(Schedule::Linear { warmup: 2 }.factor(0, 9), 0.5);
        assert!(Schedule::Cosine { warmup: 0, last: 2.0 }.check().is_err() && Schedule::Linear { warmup: 0 }.check().is_err());
    }
}
