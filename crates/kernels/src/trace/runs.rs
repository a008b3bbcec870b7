//! The clean pass and the corrupted ones, with what restored passes take from them.

use std::ops::Range;

use burn::tensor::{Tensor, activation};
use easyedit_core::{Capture, Error, KvCache, LanguageModel, Module, Pass, Result, Site, TokenBatch, TokenSlice, tensor_values};

use super::noise::subject_noise;
use super::{MODULES, TraceConfig, TracePrompt};

/// Rows of logits at a time: the head is as wide as the vocabulary.
const HEAD_ROWS: usize = 64;

/// The clean pass, from the subject's first token on.
pub(super) struct CleanRun {
    /// What the tokens before the subject leave; `None` if there are none.
    prefix: Option<KvCache>,
    states: Capture,
    probability: f64,
    width: usize,
}

impl CleanRun {
    pub(super) fn of(model: &dyn LanguageModel, prompt: &TracePrompt) -> Result<Self> {
        let (before, rest) = (prompt.row.prefix(prompt.subject.start), prompt.row.suffix(prompt.subject.start));
        let prefix = match before.is_empty() {
            true => None,
            false => {
                let mut pass = Pass::new(TokenBatch::new(&[before])?, &model.device()).keeping();
                model.hidden(&mut pass, &mut ())?;
                Some(pass.into_cache()?)
            }
        };
        let sites = (0..model.spec().n_layers).flat_map(|layer| MODULES.map(|module| Site::new(layer, module)));
        let mut states = Capture::new(sites);
        let mut pass = after(model, TokenBatch::new(&[rest])?, prefix.as_ref(), &[0])?;
        let hidden = model.hidden(&mut pass, &mut states)?;
        let probability = probabilities(model, hidden, &[rest.len() - 1], prompt.answer)?;
        Ok(Self { prefix, states, probability: probability.first().copied().unwrap_or(f64::NAN), width: rest.len() })
    }

    /// Probability of the answer.
    pub(super) fn probability(&self) -> f64 {
        self.probability
    }

    /// Number of tokens from the subject's first on.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The states at `site` of the tokens `tokens`, counted from the subject's first: `[tokens, d_model]`.
    pub(super) fn states(&self, site: Site, tokens: Range<usize>) -> Result<Tensor<2>> {
        let seen = self.states.get(site).ok_or_else(|| Error::Batch(format!("the model does not show its activations at {site}")))?;
        Ok(seen.clone().narrow(0, tokens.start, tokens.len()))
    }
}

/// Some samples' corrupted passes, from the subject's first token on.
pub(super) struct CorruptedRuns {
    samples: usize,
    width: usize,
    /// Keys and values of the whole prompt.
    cache: KvCache,
    /// What enters each layer, and last what leaves the deepest: `[samples * width, d_model]` each.
    streams: Vec<Tensor<2>>,
    probabilities: Vec<f64>,
}

impl CorruptedRuns {
    pub(super) fn of(
        model: &dyn LanguageModel,
        prompt: &TracePrompt,
        clean: &CleanRun,
        config: &TraceConfig,
        samples: Range<usize>,
    ) -> Result<Self> {
        let depth = model.spec().n_layers;
        let count = samples.len();
        let rest = prompt.row.suffix(prompt.subject.start);
        let batch = TokenBatch::new(&vec![rest; count])?;
        let last = batch.last_indices();
        let mut pass = after(model, batch, clean.prefix.as_ref(), &vec![0; count])?.keeping();
        let embeddings = corrupt(model, model.embed(&pass)?, prompt.subject.len(), config, samples)?;
        let mut entering = Capture::new((0..depth).map(|layer| Site::new(layer, Module::BlockInput)));
        let hidden = model.run_layers(embeddings, 0..depth, &mut pass, &mut entering)?;
        let probabilities = probabilities(model, hidden.clone(), &last, prompt.answer)?;
        let mut streams = Vec::with_capacity(depth + 1);
        for layer in 0..depth {
            let site = Site::new(layer, Module::BlockInput);
            streams.push(entering.take(site).ok_or_else(|| Error::Batch(format!("the model does not show its activations at {site}")))?);
        }
        streams.push(hidden);
        Ok(Self { samples: count, width: clean.width, cache: pass.into_cache()?, streams, probabilities })
    }

    /// Number of passes.
    pub(super) fn samples(&self) -> usize {
        self.samples
    }

    /// Probability of the answer in each.
    pub(super) fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// What enters layer `layer` from token `start` (counted from the subject's first) on: `[samples, tokens, d_model]`. Behind the
    /// deepest layer, what leaves the model's last.
    pub(super) fn stream(&self, layer: usize, start: usize) -> Tensor<3> {
        let stream = self.streams[layer].clone();
        let [_, d_model] = stream.dims();
        stream.reshape([self.samples, self.width, d_model]).narrow(1, start, self.width - start)
    }

    /// A pass of layer `layer` for `rows` (the sample behind each), each with the tokens `rest` that follow the prompt's first `past`.
    pub(super) fn pass(&self, model: &dyn LanguageModel, layer: usize, rows: &[usize], rest: TokenSlice<'_>, past: usize) -> Result<Pass> {
        let batch = TokenBatch::new(&vec![rest; rows.len()])?;
        let cache = (past > 0).then(|| self.cache.before(past, layer));
        after(model, batch, cache.as_ref(), rows)
    }
}

/// Noise on the first `subject` tokens of every row.
fn corrupt(
    model: &dyn LanguageModel,
    embeddings: Tensor<2>,
    subject: usize,
    config: &TraceConfig,
    samples: Range<usize>,
) -> Result<Tensor<2>> {
    let [tokens, d_model] = embeddings.dims();
    let count = samples.len();
    let width = tokens / count;
    let noise = subject_noise(config.seed, samples, subject, d_model, config.noise)?.to_tensor(&model.device()).cast(embeddings.dtype());
    let rows = embeddings.reshape([count, width, d_model]);
    let mut parts = vec![rows.clone().narrow(1, 0, subject) + noise.reshape([count, subject, d_model])];
    if subject < width {
        parts.push(rows.narrow(1, subject, width - subject));
    }
    Ok(Tensor::cat(parts, 1).reshape([tokens, d_model]))
}

/// A pass whose rows continue the rows `rows` of a cache, or begin at position 0 without one.
fn after(model: &dyn LanguageModel, batch: TokenBatch, cache: Option<&KvCache>, rows: &[usize]) -> Result<Pass> {
    let device = model.device();
    match cache {
        Some(cache) => Pass::after(batch, cache.select_rows(rows, &device)?, &device),
        None => Ok(Pass::new(batch, &device)),
    }
}

/// Probability of the token `answer` after each of `positions` of the last block's output.
pub(super) fn probabilities(model: &dyn LanguageModel, hidden: Tensor<2>, positions: &[usize], answer: u32) -> Result<Vec<f64>> {
    let mut all = Vec::with_capacity(positions.len());
    for some in positions.chunks(HEAD_ROWS) {
        let log_probs = activation::log_softmax(model.logits(hidden.clone(), some)?, 1);
        all.extend(tensor_values(&log_probs.narrow(1, answer as usize, 1))?.into_iter().map(|log_prob| f64::from(log_prob).exp()));
    }
    if all.iter().any(|probability| !probability.is_finite()) {
        return Err(Error::NotFinite(
            "the model's probabilities are not finite; its weights are damaged, or the noise is too strong".into(),
        ));
    }
    Ok(all)
}
