//! The experiment over facts, and its numbers.

use std::ops::Range;

use easyedit_core::{Error, LanguageModel, Progress, Result, TokenRow};
use easyedit_kernels::{Restoration, TraceConfig, check_traceable, embedding_deviation, trace};
use serde::{Deserialize, Serialize};

use crate::fact::{Fact, prepare};
use crate::options::window_around;
use crate::{Average, Restored, TraceOptions, TraceRequest};

/// All numbers of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceReport {
    /// Name of the model.
    pub model: String,
    /// Its family.
    pub family: String,
    /// Number of its layers.
    pub n_layers: usize,
    /// What the run was made with.
    pub settings: TraceSettings,
    /// The facts, in the order they were given.
    pub facts: Vec<FactTrace>,
    /// Facts that were not traced, because the model does not know them.
    pub left_out: Vec<LeftOut>,
    /// Means over the facts by the role of a token.
    pub average: Average,
}

/// Settings as they were used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceSettings {
    /// Seed of the noise.
    pub seed: u64,
    /// Number of corrupted passes of a fact.
    pub samples: usize,
    /// Multiple of `embedding_deviation` that the noise is.
    pub noise_factor: f64,
    /// Standard deviation of the components of the embeddings of the traced facts' subjects.
    pub embedding_deviation: f64,
    /// Standard deviation of the noise.
    pub noise: f64,
    /// Number of neighbouring layers whose MLP or attention outputs are restored together.
    pub window: usize,
}

/// The trace of one fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactTrace {
    /// Number of the record.
    pub case_id: usize,
    /// The prompt.
    pub prompt: String,
    /// The entity the fact is about.
    pub subject: String,
    /// The measured token as text.
    pub answer: String,
    /// Its id.
    pub answer_id: u32,
    /// The prompt's tokens as text.
    pub tokens: Vec<String>,
    /// Indices of the subject's tokens.
    pub subject_tokens: Range<usize>,
    /// Probability of the answer in the clean pass.
    pub clean: f64,
    /// Mean probability of the answer over the corrupted passes.
    pub corrupted: f64,
    /// One for each kind of restored states.
    pub panels: Vec<Panel>,
}

impl FactTrace {
    /// Token `token` as figures name it: without spaces around it, and with `*` if it is the subject's.
    pub fn label(&self, token: usize) -> String {
        let text = self.tokens.get(token).map_or("", |text| text.trim());
        let mark = if self.subject_tokens.contains(&token) { "*" } else { "" };
        format!("{}{mark}", if text.is_empty() { "\u{2423}" } else { text })
    }
}

/// What restoring one kind of states gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Panel {
    /// The states.
    pub restored: Restored,
    /// Number of neighbouring layers restored together.
    pub window: usize,
    /// Mean probability of the answer over the samples, by token of the prompt and layer at the window's centre: `[tokens][layers]`.
    pub probabilities: Vec<Vec<f64>>,
}

impl Panel {
    /// The place of the largest probability, token and layer.
    pub fn peak(&self) -> Option<(usize, usize)> {
        let cells = self.probabilities.iter().enumerate().flat_map(|(t, row)| row.iter().enumerate().map(move |(l, p)| ((t, l), *p)));
        cells.reduce(|best, cell| if cell.1 > best.1 { cell } else { best }).map(|(place, _)| place)
    }
}

/// A fact that was not traced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Number of the record.
    pub case_id: usize,
    /// The prompt.
    pub prompt: String,
    /// The first token of the answer.
    pub answer: String,
    /// The token that the model predicts instead.
    pub predicted: String,
}

/// Traces facts.
///
/// # Errors
///
/// If a setting or a fact is malformed (before anything is computed), the model knows none of the facts, or a pass fails.
pub fn trace_facts(
    model: &dyn LanguageModel,
    requests: &[TraceRequest],
    options: &TraceOptions,
    progress: &dyn Progress,
) -> Result<TraceReport> {
    let spec = model.spec();
    check_traceable(spec)?;
    options.check(spec.n_layers)?;
    requests.iter().try_for_each(TraceRequest::check)?;
    let (known, unknown) = prepare(model, requests, options)?;
    let left_out = unknown.iter().map(|fact| leave_out(model, fact)).collect::<Result<Vec<_>>>()?;
    if known.is_empty() {
        let example = match left_out.first() {
            Some(LeftOut { prompt, answer, predicted, .. }) => format!(": after {prompt:?} it predicts {predicted:?}, not {answer:?}"),
            None => String::new(),
        };
        return Err(Error::Batch(format!("{} knows none of the {} facts to trace{example}", spec.name, requests.len())));
    }
    let mut subjects = TokenRow::default();
    known.iter().for_each(|fact| subjects.append(fact.prompt.row.as_slice().slice(fact.prompt.subject.clone())));
    let deviation = embedding_deviation(model, subjects.as_slice())?;
    let settings = TraceSettings {
        seed: options.seed,
        samples: options.samples,
        noise_factor: options.noise,
        embedding_deviation: deviation,
        noise: options.noise * deviation,
        window: options.window_of(Restored::Mlp, spec.n_layers),
    };
    progress.begin("tracing facts", Some(known.len() as u64));
    let mut traced = Vec::with_capacity(known.len());
    let mut all = || -> Result<()> {
        for fact in &known {
            traced.push(trace_fact(model, fact, options, settings.noise, progress)?);
            progress.step(1)?;
        }
        Ok(())
    };
    let done = all();
    progress.end();
    done?;
    let average = Average::of(&traced);
    Ok(TraceReport {
        model: spec.name.clone(),
        family: spec.family.clone(),
        n_layers: spec.n_layers,
        settings,
        facts: traced,
        left_out,
        average,
    })
}

fn leave_out(model: &dyn LanguageModel, fact: &Fact) -> Result<LeftOut> {
    Ok(LeftOut {
        case_id: fact.case_id,
        prompt: fact.text.clone(),
        answer: token_text(model, fact.prompt.answer)?,
        predicted: token_text(model, fact.predicted)?,
    })
}

fn token_text(model: &dyn LanguageModel, id: u32) -> Result<String> {
    let text = model.tokenizer().decode(&[id])?;
    let name = || model.tokenizer().inner().id_to_token(id);
    Ok(if text.is_empty() { name().unwrap_or_default() } else { text })
}

fn trace_fact(model: &dyn LanguageModel, fact: &Fact, options: &TraceOptions, noise: f64, progress: &dyn Progress) -> Result<FactTrace> {
    let n_layers = model.spec().n_layers;
    let TraceOptions { samples, seed, batch_tokens, .. } = *options;
    let config = TraceConfig { samples, noise, seed, batch_tokens };
    let tokens = fact.prompt.row.len();
    let start = fact.prompt.subject.start;
    let mut restorations = Vec::new();
    for restored in &options.restore {
        let window = options.window_of(*restored, n_layers);
        for (token, layer) in (start..tokens).flat_map(|token| (0..n_layers).map(move |layer| (token, layer))) {
            let layers = window_around(layer, window, n_layers);
            restorations.push(Restoration { tokens: token..token + 1, layers, module: restored.module() });
        }
    }
    let trace = trace(model, &fact.prompt, &restorations, &config, progress)?;
    let corrupted = mean(&trace.corrupted);
    let cells = (tokens - start) * n_layers;
    let panel = |(number, restored): (usize, &Restored)| {
        let means: Vec<f64> = trace.restored.iter().skip(number * cells).take(cells).map(|samples| mean(samples)).collect();
        // Tokens before the subject are the same in all passes: restoring them changes nothing.
        let before = std::iter::repeat_n(vec![corrupted; n_layers], start);
        let probabilities = before.chain(means.chunks(n_layers).map(<[f64]>::to_vec)).collect();
        Panel { restored: *restored, window: options.window_of(*restored, n_layers), probabilities }
    };
    Ok(FactTrace {
        case_id: fact.case_id,
        prompt: fact.text.clone(),
        subject: fact.subject.clone(),
        answer: token_text(model, fact.prompt.answer)?,
        answer_id: fact.prompt.answer,
        tokens: fact.tokens.clone(),
        subject_tokens: fact.prompt.subject.clone(),
        clean: trace.clean,
        corrupted,
        panels: options.restore.iter().enumerate().map(panel).collect(),
    })
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
