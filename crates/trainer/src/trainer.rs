use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use easyedit_core::{Error, HostTensor, OutputFolder, Progress, Result, Session, Trained, write_atomically};
use serde_json::{Value, json};

use crate::averages::{Averages, average_keys};
use crate::checkpoint::{Checkpoint, Counters};
use crate::gradients::GradientSum;
use crate::log::{Log, finite};
use crate::optimizer::Optimizer;
use crate::order::{Order, validation_batches};
use crate::{Batch, EventFile, LAST_FILE, LOG_FILE, LogLine, MODEL_FILE, MetaLearner, Split, TrainingConfig};

/// File of the last measurement, in EasyEdit's form: `{"results": {...}}`.
pub const RESULTS_FILE: &str = "results.json";

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingOutcome {
    /// Iterations done.
    pub iterations: u64,
    /// Optimiser steps done.
    pub steps: u64,
    /// Batches that were skipped because their gradients were not finite.
    pub skipped: u64,
    /// The best value of the early-stopping key and the iteration it was measured in.
    pub best: Option<(f64, u64)>,
    /// Averages of the final evaluation; empty without one.
    pub results: BTreeMap<String, f64>,
}

/// Trains a [`MetaLearner`] in a folder.
///
/// The folder holds [`LAST_FILE`] (to resume from), [`MODEL_FILE`] (the best state, which editing takes), [`LOG_FILE`], TensorBoard event files, and
/// [`RESULTS_FILE`] at the end.
pub struct Trainer<'a> {
    learner: &'a mut dyn MetaLearner,
    config: TrainingConfig,
    identity: Value,
    folder: OutputFolder,
}

/// What changes while a run goes on.
struct Run {
    counters: Counters,
    optimizer: Optimizer,
    gradients: GradientSum,
    order: Order,
    validation: Vec<Vec<usize>>,
    log: Log,
    events: EventFile,
    /// Optimiser steps of the whole run, for the schedule.
    total_steps: u64,
}

impl<'a> Trainer<'a> {
    /// A trainer of `learner` that writes into `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming a setting that is out of range, an early-stopping key that no validation has, or data that are missing;
    /// [`Error::Format`] if another run writes into the folder.
    pub fn new(learner: &'a mut dyn MetaLearner, config: TrainingConfig, folder: &Path) -> Result<Self> {
        config.check()?;
        let keys = average_keys(&learner.metric_keys(), Split::Val);
        if !keys.contains(&config.early_stop_key) {
            return Err(Error::hparams(format!(
                "early_stop_key is {:?}, which no validation of {} has; it has {}",
                config.early_stop_key,
                learner.name(),
                keys.join(", ")
            )));
        }
        for (split, what) in [(Split::Train, "training"), (Split::Val, "validation")] {
            let wanted = split == Split::Val || !config.eval_only;
            if wanted && learner.examples(split) == 0 {
                return Err(Error::hparams(format!("there are no examples for {what}")));
            }
        }
        let identity = learner.identity()?;
        Ok(Self { learner, config, identity, folder: OutputFolder::claim(folder)? })
    }

    /// Trains to the end. With `resume`, a run that was interrupted in this folder goes on; without it, an earlier run must not be there.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`] if the session is cancelled: the state is saved then. [`Error::Format`] if there is an earlier run, or a checkpoint
    /// that does not fit. [`Error::NotFinite`] after too many batches in a row whose gradients are not finite.
    pub fn run(&mut self, session: &Session, resume: bool) -> Result<TrainingOutcome> {
        if self.config.eval_only {
            let results = self.final_results(session)?;
            return Ok(TrainingOutcome { iterations: 0, steps: 0, skipped: 0, best: None, results });
        }
        let mut run = self.begin(resume)?;
        let last = self.last_iteration(&run.order);
        session.progress().begin("training", Some(last));
        session.progress().advance(run.counters.iteration);
        let outcome = self.iterate(&mut run, last, session.progress());
        session.progress().end();
        // What was done is kept, whatever ends the run but a failure of the run itself.
        if matches!(outcome, Ok(()) | Err(Error::Cancelled)) {
            self.save(&mut run)?;
        }
        outcome?;
        let Counters { iteration, step, skipped, early_stop, .. } = run.counters;
        if early_stop.best.is_none() {
            self.save_model()?;
        }
        let results = if self.config.final_eval { self.best_results(session)? } else { BTreeMap::new() };
        Ok(TrainingOutcome { iterations: iteration, steps: step, skipped: skipped.1, best: early_stop.best, results })
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Number of the last iteration.
    fn last_iteration(&self, order: &Order) -> u64 {
        let of_epochs = self.config.max_epochs.map_or(u64::MAX, |epochs| epochs.saturating_mul(order.batches()));
        self.config.max_iters.min(of_epochs)
    }

    fn begin(&mut self, resume: bool) -> Result<Run> {
        let path = self.path(LAST_FILE);
        if !resume && path.exists() {
            return Err(Error::format(self.folder.path(), "holds an earlier run; go on with it (--resume), or choose another --out"));
        }
        let mut optimizer = Optimizer::new(self.config.opt);
        let mut gradients = GradientSum::default();
        let mut counters = Counters::default();
        if let Some(checkpoint) = Checkpoint::read(&path, &self.config, &self.identity)? {
            self.learner.load_state(&checkpoint.model)?;
            let names: Vec<String> = self.learner.groups().into_iter().flat_map(|group| group.parameters).collect();
            if let Some(first) = names.first() {
                let device = self.learner.parameter(first)?.device();
                optimizer.load(&checkpoint.others, &names, &device)?;
                gradients.load(&checkpoint.others, &names, &device)?;
            }
            counters = checkpoint.counters;
        }
        let TrainingConfig { seed, batch_size, val_batch_size, val_steps, accumulate_bs, .. } = self.config;
        let order = Order::new(self.learner.examples(Split::Train), batch_size, seed);
        let total_steps = self.last_iteration(&order).div_ceil(accumulate_bs);
        Ok(Run {
            validation: validation_batches(self.learner.examples(Split::Val), val_batch_size, Some(val_steps), seed),
            log: Log::open(&self.path(LOG_FILE), counters.log_bytes)?,
            events: EventFile::create(self.folder.path())?,
            counters,
            optimizer,
            gradients,
            order,
            total_steps,
        })
    }

    fn iterate(&mut self, run: &mut Run, last: u64, progress: &dyn Progress) -> Result<()> {
        let (started, first) = (Instant::now(), run.counters.iteration);
        while run.counters.iteration < last && !run.counters.is_over {
            self.train_one(run)?;
            let iteration = run.counters.iteration;
            let at_end = iteration == last;
            if run.counters.accumulated == self.config.accumulate_bs || (at_end && run.counters.accumulated > 0) {
                self.step(run)?;
            }
            let is_due = |interval: u64| at_end || iteration.is_multiple_of(interval);
            if is_due(self.config.log_interval) && !run.counters.averages.is_empty() {
                let means = std::mem::take(&mut run.counters.averages).means(Split::Train);
                self.note(run, &means)?;
                let rate = (iteration - first) as f64 / started.elapsed().as_secs_f64().max(1e-9);
                let loss = means.get("loss/total_train").copied().unwrap_or(f64::NAN);
                progress.remark(&format!("loss {loss:.4}, {rate:.1} iterations a second"));
            }
            if is_due(self.config.val_interval) {
                self.validate(run, progress)?;
            }
            if is_due(self.config.save_interval) {
                self.save(run)?;
            }
            progress.step(1)?;
        }
        Ok(())
    }

    /// One batch: its averages and gradients.
    fn train_one(&mut self, run: &mut Run) -> Result<()> {
        let iteration = run.counters.iteration + 1;
        let batch = Batch { split: Split::Train, examples: run.order.batch(iteration), iteration, seed: self.config.seed };
        let report = self.learner.step(&batch, true)?;
        let is_finite = report.metrics.get("loss/total").is_none_or(|loss| loss.value.is_finite());
        let counters = &mut run.counters;
        if is_finite && run.gradients.add(report.gradients, 1.0 / self.config.accumulate_bs as f64)? {
            counters.averages.add(&report.metrics);
            counters.skipped.0 = 0;
        } else {
            counters.skipped = (counters.skipped.0 + 1, counters.skipped.1 + 1);
            tracing::warn!("iteration {iteration}: the gradients of examples {:?} are not finite; the batch is skipped", batch.examples);
            if counters.skipped.0 >= self.config.max_skipped {
                return Err(Error::NotFinite(format!(
                    "the gradients of {} batches in a row are not finite, the last in iteration {iteration}; choose smaller rates",
                    counters.skipped.0
                )));
            }
        }
        counters.accumulated += 1;
        counters.iteration = iteration;
        Ok(())
    }

    /// An optimiser step from what is accumulated.
    fn step(&mut self, run: &mut Run) -> Result<()> {
        run.counters.accumulated = 0;
        let factor = self.config.schedule.factor(run.counters.step, run.total_steps);
        run.counters.step += 1;
        if run.gradients.is_empty() {
            return Ok(());
        }
        let (mut gradients, norm) = run.gradients.take_clipped(self.config.grad_clip)?;
        let metrics = BTreeMap::from([("grad".to_owned(), crate::Metric { value: norm, weight: 1.0 })]);
        run.counters.averages.add(&metrics);
        for group in self.learner.groups() {
            for name in &group.parameters {
                let Some(gradient) = gradients.remove(name) else { continue };
                let value = run.optimizer.stepped(name, self.learner.parameter(name)?, gradient, &group, factor);
                self.learner.set_parameter(name, value)?;
            }
        }
        Ok(())
    }

    /// Measures the subset; keeps the state if it is the best.
    fn validate(&mut self, run: &mut Run, progress: &dyn Progress) -> Result<()> {
        let means = self.measure(&run.validation, progress)?;
        self.note(run, &means)?;
        let (key, iteration) = (&self.config.early_stop_key, run.counters.iteration);
        let value = means.get(key).copied().unwrap_or(f64::NAN);
        if run.counters.early_stop.see(key, value, iteration) {
            self.save_model()?;
        }
        run.counters.is_over = run.counters.early_stop.is_over(iteration, self.config.early_stop_patience);
        Ok(())
    }

    fn measure(&mut self, batches: &[Vec<usize>], progress: &dyn Progress) -> Result<BTreeMap<String, f64>> {
        let mut averages = Averages::default();
        progress.begin("validation", Some(batches.len() as u64));
        let outcome = (1..).zip(batches).try_for_each(|(number, examples)| {
            let batch = Batch { split: Split::Val, examples: examples.clone(), iteration: number, seed: self.config.seed };
            averages.add(&self.learner.step(&batch, false)?.metrics);
            progress.step(1)
        });
        progress.end();
        outcome?;
        Ok(averages.means(Split::Val))
    }

    fn note(&self, run: &mut Run, values: &BTreeMap<String, f64>) -> Result<()> {
        let Counters { iteration, step, skipped, .. } = run.counters;
        run.log.write(&LogLine { iteration, step, skipped: skipped.1, values: finite(values) })?;
        run.events.scalars(iteration, values)
    }

    fn save(&self, run: &mut Run) -> Result<()> {
        run.log.sync()?;
        run.counters.log_bytes = run.log.bytes();
        let mut others: BTreeMap<String, HostTensor> = run.optimizer.state()?;
        others.extend(run.gradients.state()?);
        let checkpoint = Checkpoint { counters: run.counters.clone(), model: self.learner.state()?, others };
        checkpoint.write(&self.path(LAST_FILE), &self.config, &self.identity)
    }

    fn save_model(&self) -> Result<()> {
        let trained = Trained { method: self.learner.name().to_owned(), tensors: self.learner.state()?, facts: self.learner.facts()? };
        trained.save(&self.path(MODEL_FILE), false)
    }

    /// Measures the best state on everything.
    fn best_results(&mut self, session: &Session) -> Result<BTreeMap<String, f64>> {
        let best = Trained::load(&self.path(MODEL_FILE))?;
        self.learner.load_state(&best.tensors)?;
        self.final_results(session)
    }

    fn final_results(&mut self, session: &Session) -> Result<BTreeMap<String, f64>> {
        let batches = validation_batches(self.learner.examples(Split::Val), self.config.val_batch_size, None, self.config.seed);
        let results = self.measure(&batches, session.progress())?;
        let text = serde_json::to_string_pretty(&json!({ "results": finite(&results) })).map_err(Error::other)?;
        write_atomically(&self.path(RESULTS_FILE), |file| writeln!(file, "{text}"))?;
        Ok(results)
    }
}
