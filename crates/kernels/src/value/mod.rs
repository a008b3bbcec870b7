//! The values that make a model say the targets, for many requests at once.

mod config;
mod search;
mod share;

use std::collections::BTreeMap;

use easyedit_core::device::is_cpu;
use easyedit_core::{Error, LanguageModel, Progress, Result};

pub use config::{OncePredicted, OptimizedValue, StepLoss, ValueConfig, ValueSite, ValueTargets};

use self::search::{PassLoss, Search};
use self::share::{RowOf, Share};
use crate::fact_states::FactStates;
use crate::row_groups::RowGroups;
use crate::{Contexts, FactActivations, FactRow};

/// Finds, for each of the `contexts`' requests, δ such that, with δ added at every context's fact token in layer `layer`, the model predicts
/// the targets. `found` gets the value of each request as soon as its search ends, with the request's number and what the layer did at its
/// fact tokens before.
///
/// Many requests are run at once, as many as fit into memory. Each has an optimiser and an end of its own; when enough have left,
/// others take their places. Per pass only the suffixes are run, above the edited layer, and only they are differentiated. The gradient
/// enters at the logits in closed form (softmax minus target), so nothing of the vocabulary's size is kept for the backward pass.
///
/// # Errors
///
/// If a predicting token lies before its fact token, the loss of a request stops being finite (naming it), or `found` fails.
///
/// # Source
///
/// Meng et al., "Locating and Editing Factual Associations in GPT", equation 4, with the reference implementation's settings (clamp, decay,
/// threshold).
pub fn optimize_values(
    model: &dyn LanguageModel,
    contexts: &[&Contexts],
    layer: usize,
    config: &ValueConfig,
    progress: &dyn Progress,
    found: &mut dyn FnMut(usize, OptimizedValue, FactActivations) -> Result<()>,
) -> Result<()> {
    // A bar of requests would stand still over a single one.
    let alone = contexts.len() == 1;
    progress.begin("optimising values", Some(if alone { config.steps } else { contexts.len() } as u64));
    let mut batch = Batch { model, contexts, layer, config, capacity: capacity(model, layer), searches: Vec::new(), states: None, next: 0 };
    let outcome = (|| -> Result<()> {
        while batch.fill()? {
            let mut shares = batch.shares()?;
            loop {
                let left = batch.pass(&mut shares, found)?;
                let mean = batch.searches.iter().map(Search::loss).sum::<f64>() / batch.searches.len().max(1) as f64;
                match batch.searches.len() {
                    0 => {}
                    1 => progress.remark(&format!("loss {mean:.3}")),
                    many => progress.remark(&format!("{many} at once, mean loss {mean:.3}")),
                }
                progress.step(if alone { 1 } else { left as u64 })?;
                if left > 0 {
                    break;
                }
            }
        }
        Ok(())
    })();
    progress.end();
    outcome
}

/// Tokens that may be under way at once, so that what a pass keeps for the way back fits into memory.
fn capacity(model: &dyn LanguageModel, layer: usize) -> usize {
    /// Bytes of activations; on a CPU more would only take longer to be had.
    const ON_CPU: usize = 384 << 20;
    const ON_GPU: usize = 4 << 30;
    let spec = model.spec();
    // Activations of a block that its gradient needs, in vectors of the two widths.
    let per_block = 12 * spec.d_model + 6 * spec.d_mlp;
    let per_token = 4 * (per_block * (spec.n_layers - layer.min(spec.n_layers - 1)) + spec.vocab_size);
    (if is_cpu(&model.device()) { ON_CPU } else { ON_GPU }) / per_token.max(1)
}

/// The requests under way.
struct Batch<'a> {
    model: &'a dyn LanguageModel,
    contexts: &'a [&'a Contexts],
    layer: usize,
    config: &'a ValueConfig,
    /// Tokens.
    capacity: usize,
    searches: Vec<Search>,
    /// The contexts of the searches, in their order.
    states: Option<FactStates>,
    /// The first request that has not begun.
    next: usize,
}

/// Groups of contexts, and how they share the cores.
struct Shares {
    groups: RowGroups,
    shares: Vec<Share>,
    row_of: Vec<RowOf>,
}

impl<'a> Batch<'a> {
    /// Takes in further requests once half of the room is free. Gives whether any request is under way.
    fn fill(&mut self) -> Result<bool> {
        let mut tokens = self.states.as_ref().map_or(0, FactStates::suffix_tokens);
        if self.next == self.contexts.len() || 2 * tokens > self.capacity {
            return Ok(!self.searches.is_empty());
        }
        let first = self.next;
        while let Some(contexts) = self.contexts.get(self.next) {
            tokens += contexts.rows.iter().map(|context| context.row.len().saturating_sub(context.fact_index)).sum::<usize>();
            if tokens > self.capacity && (self.next > first || !self.searches.is_empty()) {
                break;
            }
            self.next += 1;
        }
        if first == self.next {
            return Ok(true);
        }
        let new = &self.contexts[first..self.next];
        let rows: Vec<&FactRow> = new.iter().flat_map(|contexts| &contexts.rows).collect();
        let (states, activations) = FactStates::collect(self.model, &rows, self.layer, self.config.site.is_inside_layer())?;
        let mut start = 0;
        for (request, contexts) in (first..).zip(new) {
            let own: Vec<usize> = (start..start + contexts.rows.len()).collect();
            start += own.len();
            self.searches.push(Search::new(request, activations.select_rows(&own), self.config)?);
        }
        self.states = Some(match self.states.take() {
            Some(before) => FactStates::join(&[&before, &states])?,
            None => states,
        });
        Ok(true)
    }

    /// The contexts of the searches shared out over the cores.
    fn shares(&mut self) -> Result<Shares> {
        let Some(states) = &self.states else { return Err(Error::Batch("no request is under way".into())) };
        let contexts: Vec<&Contexts> = self.searches.iter().map(|search| self.contexts[search.request]).collect();
        let row_of: Vec<RowOf> = contexts
            .iter()
            .enumerate()
            .flat_map(|(search, contexts)| (0..contexts.rows.len()).map(move |context| RowOf { search, context }))
            .collect();
        let lengths: Vec<usize> = (0..row_of.len()).map(|row| states.suffix_length(row)).collect();
        let groups = RowGroups::new(self.model, &lengths)?;
        let share = |rows: &Vec<usize>| Share::new(self.model, states, self.layer, rows, &row_of, &contexts);
        let mut shares = groups.rows().iter().map(share).collect::<Result<Vec<Share>>>()?;
        for share in &mut shares {
            share.remember(|search| self.searches[search].kept.clone());
        }
        Ok(Shares { groups, shares, row_of })
    }

    /// One pass: the loss of every search, and a step of those that go on. Gives how many have ended and left.
    fn pass(
        &mut self,
        Shares { groups, shares, row_of }: &mut Shares,
        found: &mut dyn FnMut(usize, OptimizedValue, FactActivations) -> Result<()>,
    ) -> Result<usize> {
        let (searches, config) = (&self.searches, self.config);
        let passes = groups.run(shares, |share| share.forward(searches, config))?;
        let mut losses: Vec<PassLoss> = searches.iter().map(|_| PassLoss { predicted: true, ..PassLoss::default() }).collect();
        // In the order of the contexts, so that sums do not depend on how they were shared out.
        let by_context: BTreeMap<usize, (f64, bool)> = passes.iter().flat_map(|pass| pass.nll.iter().copied()).collect();
        for (row, (nll, predicted)) in by_context {
            let loss = &mut losses[row_of[row].search];
            loss.nll += nll;
            loss.predicted &= predicted;
        }
        for (search, kl) in passes.iter().flat_map(|pass| &pass.kl) {
            losses[*search].kl += kl;
        }
        let contexts = self.contexts;
        let named = |request: usize, error: Error| Error::Request { case_id: contexts[request].case_id, message: error.to_string() };
        let mut factors = Vec::with_capacity(losses.len());
        for (search, loss) in self.searches.iter_mut().zip(&losses) {
            factors.push(search.passed(loss, config).map_err(|error| named(search.request, error))?);
        }
        if factors.iter().any(Option::is_some) {
            let mut work: Vec<_> = shares.iter_mut().zip(passes).collect();
            let slopes = groups.run(&mut work, |(share, pass)| share.backward(pass, &factors))?;
            let by_context: BTreeMap<usize, Vec<f32>> = slopes.into_iter().flatten().collect();
            let mut gradients: Vec<Vec<f64>> = vec![Vec::new(); self.searches.len()];
            for (row, slope) in by_context {
                let gradient = &mut gradients[row_of[row].search];
                gradient.resize(slope.len(), 0.0);
                gradient.iter_mut().zip(slope).for_each(|(g, s)| *g += f64::from(s));
            }
            for ((search, gradient), factor) in self.searches.iter_mut().zip(gradients).zip(&factors) {
                if factor.is_some() {
                    search.step(&gradient, config).map_err(|error| named(search.request, error))?;
                }
            }
        }
        let left = factors.iter().filter(|factor| factor.is_none()).count();
        if left > 0 {
            for (search, kept) in shares.iter().flat_map(Share::kept) {
                self.searches[search].kept = Some(kept);
            }
            self.leave(&factors.iter().map(Option::is_some).collect::<Vec<bool>>(), row_of, found)?;
        }
        Ok(left)
    }

    /// Hands out the searches that have ended, and goes on with those that `stay`.
    fn leave(
        &mut self,
        stay: &[bool],
        row_of: &[RowOf],
        found: &mut dyn FnMut(usize, OptimizedValue, FactActivations) -> Result<()>,
    ) -> Result<()> {
        let rows: Vec<usize> = (0..row_of.len()).filter(|row| stay[row_of[*row].search]).collect();
        self.states = match self.states.take() {
            Some(states) if !rows.is_empty() => Some(states.select(self.model, &rows)?),
            _ => None,
        };
        for (search, stay) in std::mem::take(&mut self.searches).into_iter().zip(stay) {
            if *stay {
                self.searches.push(search);
            } else {
                let request = search.request;
                let (value, activations) = search.finish();
                found(request, value, activations)?;
            }
        }
        Ok(())
    }
}
