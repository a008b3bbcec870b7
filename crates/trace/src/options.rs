//! What to restore, and with which settings.

use std::ops::Range;

use easyedit_core::{Error, Module, Result};
use serde::{Deserialize, Serialize};

/// States that are restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restored {
    /// The hidden state that leaves a layer.
    Hidden,
    /// The MLP's output.
    Mlp,
    /// The attention's output.
    Attention,
}

impl Restored {
    /// All of them, in the papers' order.
    pub const ALL: [Self; 3] = [Self::Hidden, Self::Mlp, Self::Attention];

    /// The name in files and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Mlp => "mlp",
            Self::Attention => "attention",
        }
    }

    /// What is restored, as titles say it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Hidden => "hidden state",
            Self::Mlp => "MLP output",
            Self::Attention => "attention output",
        }
    }

    /// Where it is in a layer.
    pub const fn module(self) -> Module {
        match self {
            Self::Hidden => Module::BlockOutput,
            Self::Mlp => Module::MlpOutput,
            Self::Attention => Module::AttentionOutput,
        }
    }
}

/// Settings of [`trace_facts`](crate::trace_facts).
#[derive(Clone, Debug, PartialEq)]
pub struct TraceOptions {
    /// What to restore; each gives a [`Panel`](crate::Panel).
    pub restore: Vec<Restored>,
    /// Number of corrupted passes of a fact.
    pub samples: usize,
    /// Standard deviation of the noise, as a multiple of the standard deviation of the embeddings of the traced facts' subjects.
    pub noise: f64,
    /// Number of neighbouring layers whose MLP or attention outputs are restored together; `None`: [`default_window`]. Hidden states
    /// are restored in one layer at a time, because each holds all that came before it.
    pub window: Option<usize>,
    /// Seed of the noise.
    pub seed: u64,
    /// Leave out facts whose answer the model does not predict itself.
    pub only_known: bool,
    /// Trace the first so many facts, after leaving out; `None`: all.
    pub most: Option<usize>,
    /// Tokens of one batch at most: bounds the memory.
    pub batch_tokens: usize,
}

impl Default for TraceOptions {
    fn default() -> Self {
        let restore = Restored::ALL.to_vec();
        Self { restore, samples: 10, noise: 3.0, window: None, seed: 0, only_known: true, most: None, batch_tokens: 1024 }
    }
}

impl TraceOptions {
    /// Checks the settings against the depth of a model, before anything is computed.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] naming the setting.
    pub fn check(&self, n_layers: usize) -> Result<()> {
        let fail = |message: String| Err(Error::Batch(message));
        if self.restore.is_empty() {
            return fail("there is nothing to restore: name hidden, mlp or attention".into());
        }
        if self.samples == 0 {
            return fail("a trace needs at least one sample of noise".into());
        }
        if !self.noise.is_finite() || self.noise <= 0.0 {
            return fail(format!("noise of {} standard deviations corrupts nothing; give a number above 0", self.noise));
        }
        match self.window {
            Some(window) if window == 0 || window > n_layers => {
                fail(format!("a window of {window} layers is out of range: the model has {n_layers}"))
            }
            _ => Ok(()),
        }
    }

    /// Number of layers restored together.
    pub(crate) fn window_of(&self, restored: Restored, n_layers: usize) -> usize {
        match restored {
            Restored::Hidden => 1,
            Restored::Mlp | Restored::Attention => self.window.unwrap_or_else(|| default_window(n_layers)),
        }
    }
}

/// The window of MLP and attention outputs of a model this deep: 10 layers of 48, as the paper has it, in proportion.
pub fn default_window(n_layers: usize) -> usize {
    ((n_layers * 10 + 24) / 48).clamp(1, n_layers.max(1))
}

/// The layers of a window around `layer`, cut at the model's ends: as many below as above, the odd one below.
pub(crate) fn window_around(layer: usize, window: usize, n_layers: usize) -> Range<usize> {
    layer.saturating_sub(window / 2)..(layer + window - window / 2).min(n_layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_the_papers() {
        assert_eq!([default_window(48), default_window(30), default_window(4), default_window(1)], [10, 6, 1, 1]);
        assert_eq!(window_around(20, 10, 48), 15..25);
        assert_eq!(window_around(2, 10, 48), 0..7);
        assert_eq!(window_around(47, 10, 48), 42..48);
        assert_eq!(window_around(3, 1, 4), 3..4);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let with = |change: fn(&mut TraceOptions)| {
            let mut options = TraceOptions::default();
            change(&mut options);
            options.check(4).unwrap_err().to_string()
        };
        assert!(with(|o| o.window = Some(5)).contains("5 layers"));
        assert!(with(|o| o.samples = 0).contains("sample"));
        assert!(with(|o| o.noise = f64::NAN).contains("NaN"));
        assert!(with(|o| o.restore.clear()).contains("hidden, mlp or attention"));
        TraceOptions::default().check(4).unwrap();
    }
}
