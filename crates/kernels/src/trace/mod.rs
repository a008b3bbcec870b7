//! Causal tracing: which states of a pass carry a fact.
//!
//! A clean pass of the prompt says how probable the answer is. In corrupted passes noise on the embeddings of the subject's tokens
//! hides what the fact is about, and the answer becomes improbable. A restored pass is a corrupted one in which chosen states are put
//! back to what they were in the clean pass; how probable the answer is then says how much of the fact went through those states.
//!
//! What cannot differ between these passes is run once. The tokens before the subject are the same in all of them: they leave their
//! keys and values of attention. The layers below the first restored state, and the tokens before it, are those of the corrupted pass:
//! a restored pass starts at that layer and token. Restorations that begin at one token go through the layers as one batch, which each
//! of them joins at its own first layer. Logits are computed at the last token alone.
//!
//! # Source
//!
//! Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2 and appendix B.

mod noise;
mod restored;
mod runs;

use std::ops::Range;

use easyedit_core::{Error, LanguageModel, ModelSpec, Module, Progress, Result, TokenRow};

pub use noise::{embedding_deviation, subject_noise};

use restored::run_restored;
use runs::{CleanRun, CorruptedRuns};

/// A fact to trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracePrompt {
    /// The prompt's tokens.
    pub row: TokenRow,
    /// Indices of the subject's tokens.
    pub subject: Range<usize>,
    /// The token whose probability after the prompt is measured.
    pub answer: u32,
}

/// States that a pass puts back to what they are in the clean pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restoration {
    /// Indices of the tokens. Those before the subject are never corrupted: restoring them changes nothing.
    pub tokens: Range<usize>,
    /// The layers; at least one.
    pub layers: Range<usize>,
    /// [`Module::BlockOutput`] (the hidden state), [`Module::MlpOutput`] or [`Module::AttentionOutput`].
    pub module: Module,
}

/// How to trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceConfig {
    /// Number of corrupted passes, each with noise of its own; at least 1.
    pub samples: usize,
    /// Standard deviation of the noise on every component of the subject's embeddings; the paper takes three times
    /// [`embedding_deviation`].
    pub noise: f64,
    /// Seed of the noise. Sample `i` of a seed has the same noise however many samples there are.
    pub seed: u64,
    /// Tokens of one batch at most, unless one restoration of one sample has more: bounds the memory. On a CPU every core runs a batch.
    pub batch_tokens: usize,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self { samples: 10, noise: 0.0, seed: 0, batch_tokens: 1024 }
    }
}

/// Probabilities of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// In the clean pass.
    pub clean: f64,
    /// In each corrupted pass: `[samples]`.
    pub corrupted: Vec<f64>,
    /// With each restoration, in each corrupted pass: `[restorations][samples]`.
    pub restored: Vec<Vec<f64>>,
}

/// Modules whose states can be restored.
pub(crate) const MODULES: [Module; 3] = [Module::BlockOutput, Module::MlpOutput, Module::AttentionOutput];

/// Traces a fact: measures the answer's probability in the clean pass, in the corrupted ones, and in those with each of `restorations`.
///
/// # Errors
///
/// If the model is an encoder-decoder, the prompt, a restoration or the settings are out of range (before anything is computed), or
/// the model's probabilities are not finite.
pub fn trace(
    model: &dyn LanguageModel,
    prompt: &TracePrompt,
    restorations: &[Restoration],
    config: &TraceConfig,
    progress: &dyn Progress,
) -> Result<Trace> {
    check(model, prompt, restorations, config)?;
    let clean = CleanRun::of(model, prompt)?;
    let mut trace = Trace { clean: clean.probability(), corrupted: Vec::new(), restored: vec![Vec::new(); restorations.len()] };
    let at_once = (config.batch_tokens / clean.width()).clamp(1, config.samples);
    progress.begin("restoring states", Some((restorations.len() * config.samples) as u64));
    let mut all_samples = || -> Result<()> {
        for first in (0..config.samples).step_by(at_once) {
            let samples = first..(first + at_once).min(config.samples);
            let corrupted = CorruptedRuns::of(model, prompt, &clean, config, samples)?;
            let restored = run_restored(model, prompt, &clean, &corrupted, restorations, config.batch_tokens, progress)?;
            trace.corrupted.extend(corrupted.probabilities());
            for (all, new) in trace.restored.iter_mut().zip(restored) {
                all.extend(new);
            }
        }
        Ok(())
    };
    let done = all_samples();
    progress.end();
    done.map(|()| trace)
}

/// Checks that facts of a model can be traced.
///
/// # Errors
///
/// [`Error::Unsupported`] naming an encoder-decoder.
pub fn check_traceable(spec: &ModelSpec) -> Result<()> {
    match spec.encoder {
        None => Ok(()),
        Some(_) => Err(Error::Unsupported {
            method: "causal tracing".to_owned(),
            message: format!("traces decoder-only models, and {} is an encoder-decoder", spec.name),
        }),
    }
}

fn check(model: &dyn LanguageModel, prompt: &TracePrompt, restorations: &[Restoration], config: &TraceConfig) -> Result<()> {
    let spec = model.spec();
    check_traceable(spec)?;
    let TracePrompt { row, subject, answer } = prompt;
    if subject.start >= subject.end || subject.end > row.len() {
        return Err(Error::Batch(format!("the subject's tokens {subject:?} are not among the {} tokens of the prompt", row.len())));
    }
    if *answer as usize >= spec.vocab_size {
        return Err(Error::Batch(format!("the answer's token {answer} is beyond the {} tokens of {}", spec.vocab_size, spec.name)));
    }
    if config.samples == 0 || config.batch_tokens == 0 {
        return Err(Error::Batch("a trace needs at least one sample and one token a batch".into()));
    }
    if !config.noise.is_finite() || config.noise < 0.0 {
        return Err(Error::Batch(format!("noise of standard deviation {} cannot be drawn", config.noise)));
    }
    for Restoration { tokens, layers, module } in restorations {
        if !MODULES.contains(module) {
            return Err(Error::Batch(format!("{module:?} cannot be restored; hidden states, MLP outputs and attention outputs can")));
        }
        if tokens.start >= tokens.end || tokens.end > row.len() {
            return Err(Error::Batch(format!("the restored tokens {tokens:?} are not among the {} tokens of the prompt", row.len())));
        }
        if layers.is_empty() {
            return Err(Error::Batch(format!("the restored layers {layers:?} are none")));
        }
        spec.check_layer(layers.end - 1)?;
    }
    Ok(())
}
