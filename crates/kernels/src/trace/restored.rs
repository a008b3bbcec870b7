//! Corrupted passes with states restored, each run from its first restored state on, many in one batch.

use std::ops::Range;

use burn::tensor::Tensor;
use easyedit_core::{Error, LanguageModel, Module, Probe, Progress, Result, Site};

use super::runs::{CleanRun, CorruptedRuns, probabilities};
use super::{Restoration, TracePrompt};
use crate::row_groups::RowGroups;

/// A restoration that changes something, as a batch runs it. Tokens are counted from the subject's first.
struct Job {
    /// Its place among the restorations.
    index: usize,
    tokens: Range<usize>,
    layers: Range<usize>,
    module: Module,
}

impl Job {
    /// `None` if only tokens before the subject are restored.
    fn of(index: usize, restoration: &Restoration, subject: usize) -> Option<Self> {
        let tokens = restoration.tokens.start.saturating_sub(subject)..restoration.tokens.end.saturating_sub(subject);
        (!tokens.is_empty()).then(|| Self { index, tokens, layers: restoration.layers.clone(), module: restoration.module })
    }

    /// The first layer to run. A restored block output is that of the layer before.
    fn entry(&self) -> usize {
        match self.module {
            Module::BlockOutput => self.layers.start + 1,
            _ => self.layers.start,
        }
    }
}

/// One core's share of the work: models are not shared between threads, but their clones share the weights.
struct Worker {
    model: Box<dyn LanguageModel>,
    batch: usize,
}

/// The answer's probability in every sample with each of `restorations`: `[restorations][samples]`.
pub(super) fn run_restored(
    model: &dyn LanguageModel,
    prompt: &TracePrompt,
    clean: &CleanRun,
    corrupted: &CorruptedRuns,
    restorations: &[Restoration],
    batch_tokens: usize,
    progress: &dyn Progress,
) -> Result<Vec<Vec<f64>>> {
    let samples = corrupted.samples();
    let jobs: Vec<Job> = restorations.iter().enumerate().filter_map(|(index, one)| Job::of(index, one, prompt.subject.start)).collect();
    progress.step(((restorations.len() - jobs.len()) * samples) as u64)?;
    let mut batches = share_out(jobs, |start| batch_tokens / (samples * (clean.width() - start)));
    let tokens = |batch: &[Job]| batch.first().map_or(0, |job| batch.len() * samples * (clean.width() - job.tokens.start));
    // Batches of like size run side by side.
    batches.sort_by_key(|batch| std::cmp::Reverse(tokens(batch)));
    let groups = RowGroups::new(model, &batches.iter().map(|batch| tokens(batch)).collect::<Vec<_>>())?;
    let mut workers: Vec<Worker> = groups.rows().iter().map(|_| Worker { model: model.boxed_clone(), batch: 0 }).collect();

    let mut restored = vec![corrupted.probabilities().to_vec(); restorations.len()];
    let numbers: Vec<usize> = (0..batches.len()).collect();
    for round in numbers.chunks(workers.len().max(1)) {
        for (worker, number) in workers.iter_mut().zip(round) {
            worker.batch = *number;
        }
        let running = &mut workers[..round.len()];
        let results = groups.run(running, |worker| run_batch(&*worker.model, prompt, clean, corrupted, &batches[worker.batch]))?;
        for (number, result) in round.iter().zip(results) {
            for (job, probabilities) in batches[*number].iter().zip(result.chunks(samples)) {
                restored[job.index] = probabilities.to_vec();
            }
            progress.step((batches[*number].len() * samples) as u64)?;
        }
    }
    Ok(restored)
}

/// Batches of jobs that restore the same tokens and module, in the order in which they enter, of at most `most(first token)` jobs.
fn share_out(mut jobs: Vec<Job>, most: impl Fn(usize) -> usize) -> Vec<Vec<Job>> {
    jobs.sort_by_key(|job| (job.tokens.start, job.tokens.end, job.module, job.layers.start, job.layers.end, job.index));
    let mut batches: Vec<Vec<Job>> = Vec::new();
    for job in jobs {
        match batches.last_mut() {
            Some(batch)
                if batch.len() < most(job.tokens.start)
                    && batch.first().is_some_and(|first| first.tokens == job.tokens && first.module == job.module) =>
            {
                batch.push(job);
            }
            _ => batches.push(vec![job]),
        }
    }
    batches
}

/// Runs a batch of [`share_out`]: the answer's probability for every job and sample, job after job.
fn run_batch(
    model: &dyn LanguageModel,
    prompt: &TracePrompt,
    clean: &CleanRun,
    corrupted: &CorruptedRuns,
    jobs: &[Job],
) -> Result<Vec<f64>> {
    let Some(first) = jobs.first() else { return Ok(Vec::new()) };
    let (depth, samples) = (model.spec().n_layers, corrupted.samples());
    let past = prompt.subject.start + first.tokens.start;
    let rest = prompt.row.suffix(past);
    let mut rows: Vec<usize> = Vec::new();
    let mut hidden: Vec<Tensor<2>> = Vec::new();
    for layer in first.entry()..=depth {
        for job in jobs.iter().filter(|job| job.entry() == layer) {
            let mut entering = corrupted.stream(layer, job.tokens.start);
            if job.module == Module::BlockOutput {
                let site = Site::new(layer - 1, Module::BlockOutput);
                entering = put_clean(entering, 0..samples, clean.states(site, job.tokens.clone())?);
            }
            let [_, _, d_model] = entering.dims();
            hidden.push(entering.reshape([samples * rest.len(), d_model]));
            rows.extend(0..samples);
        }
        if layer == depth {
            break;
        }
        let active = &jobs[..rows.len() / samples];
        let mut probe = Restore { site: Site::new(layer, first.module), width: rest.len(), spans: Vec::new(), clean: None };
        probe.spans = spans(active, layer, samples);
        if !probe.spans.is_empty() {
            probe.clean = Some(clean.states(probe.site, first.tokens.clone())?);
        }
        let mut pass = corrupted.pass(model, layer, &rows, rest, past)?;
        hidden = vec![model.run_layers(Tensor::cat(std::mem::take(&mut hidden), 0), layer..layer + 1, &mut pass, &mut probe)?];
    }
    if rows.len() != jobs.len() * samples {
        return Err(Error::Batch("a restoration begins behind the model's last layer".into()));
    }
    let last: Vec<usize> = (1..=rows.len()).map(|row| row * rest.len() - 1).collect();
    probabilities(model, Tensor::cat(hidden, 0), &last, prompt.answer)
}

/// The rows whose jobs restore layer `layer`, in as few spans as they are in.
fn spans(jobs: &[Job], layer: usize, samples: usize) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for (number, _) in jobs.iter().enumerate().filter(|(_, job)| job.layers.contains(&layer)) {
        let rows = number * samples..(number + 1) * samples;
        match spans.last_mut() {
            Some(span) if span.end == rows.start => span.end = rows.end,
            _ => spans.push(rows),
        }
    }
    spans
}

/// Puts clean states in the place of those of each row's first tokens.
struct Restore {
    site: Site,
    /// Tokens of a row.
    width: usize,
    spans: Vec<Range<usize>>,
    clean: Option<Tensor<2>>,
}

impl Probe for Restore {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        let Some(clean) = self.clean.as_ref().filter(|_| site == self.site) else { return activations };
        let [tokens, d_model] = activations.dims();
        let mut rows = activations.reshape([tokens / self.width, self.width, d_model]);
        for span in &self.spans {
            rows = put_clean(rows, span.clone(), clean.clone());
        }
        rows.reshape([tokens, d_model])
    }
}

/// `states: [rows, tokens, d_model]` with the first tokens of the rows `span` replaced by `clean: [fewer tokens, d_model]`.
fn put_clean(states: Tensor<3>, span: Range<usize>, clean: Tensor<2>) -> Tensor<3> {
    let [tokens, d_model] = clean.dims();
    let clean = clean.reshape([1, tokens, d_model]).expand([span.len(), tokens, d_model]);
    states.slice_assign([span, 0..tokens, 0..d_model], clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(index: usize, token: usize, layers: Range<usize>, module: Module) -> Job {
        Job { index, tokens: token..token + 1, layers, module }
    }

    #[test]
    fn batches_share_tokens_and_module_and_are_bounded() {
        let mlp = Module::MlpOutput;
        let jobs = vec![
            job(0, 1, 2..3, mlp),
            job(1, 0, 1..2, mlp),
            job(2, 0, 0..1, mlp),
            job(3, 0, 0..1, Module::BlockOutput),
            job(4, 0, 2..4, mlp),
        ];
        let batches: Vec<Vec<usize>> = share_out(jobs, |_| 2).iter().map(|batch| batch.iter().map(|job| job.index).collect()).collect();
        assert_eq!(batches, [vec![2, 1], vec![4], vec![3], vec![0]]);
        let one = share_out(vec![job(0, 0, 0..1, mlp), job(1, 0, 0..1, mlp)], |_| 0);
        assert_eq!(one.len(), 2, "a bound below one job still lets each run");
    }

    #[test]
    fn spans_join_neighbours() {
        let jobs: Vec<Job> = [0..1, 0..2, 0..3, 1..4, 2..5].into_iter().enumerate().map(|(i, l)| job(i, 0, l, Module::MlpOutput)).collect();
        let rows = |jobs: &[Job], layer: usize, samples: usize| -> Vec<(usize, usize)> {
            spans(jobs, layer, samples).into_iter().map(|span| (span.start, span.end)).collect()
        };
        assert_eq!(rows(&jobs, 1, 10), [(10, 40)]);
        assert_eq!(rows(&jobs, 0, 2), [(0, 6)]);
        assert_eq!(rows(&jobs[1..], 0, 1), [(0, 2)]);
        assert_eq!(
            rows(&[job(0, 0, 0..2, Module::MlpOutput), job(1, 0, 1..2, Module::MlpOutput), job(2, 0, 0..1, Module::MlpOutput)], 0, 1),
            [(0, 1), (2, 3)]
        );
        assert!(spans(&jobs, 7, 2).is_empty());
    }
}
