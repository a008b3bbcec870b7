//! The loop on a learner that fits a line: accumulation, resuming, skipping, early stopping.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Tensor;
use easyedit_core::{Error, HostTensor, Progress, Result, Session, tensor_values};
use easyedit_trainer::{
    Batch, LAST_FILE, LOG_FILE, LogLine, MODEL_FILE, MetaLearner, OptimizerKind, ParameterGroup, Schedule, Split, StepReport, Trainer,
    TrainingConfig, read_log,
};
use rand::Rng;
use serde_json::{Value, json};

/// Learns `y = slope x + offset` from noisy points, and counts the points it has seen.
struct Line {
    parameters: BTreeMap<String, Tensor<2>>,
    seen: f32,
    /// Iteration in which the learner fails, as a killed process would.
    dies_in: Option<u64>,
    /// Examples whose gradient is not finite.
    poisoned: Vec<usize>,
}

impl Line {
    fn new() -> Self {
        let device = easyedit_core::device::select("cpu").unwrap();
        let zero = || Tensor::<2>::zeros([1, 1], &device);
        Self { parameters: [("slope".into(), zero()), ("offset".into(), zero())].into(), seen: 0.0, dies_in: None, poisoned: Vec::new() }
    }

    fn values(&self) -> Vec<f32> {
        self.parameters.values().map(|p| tensor_values(p).unwrap()[0]).collect()
    }
}

impl MetaLearner for Line {
    fn name(&self) -> &str {
        "LINE"
    }

    fn identity(&self) -> Result<Value> {
        Ok(json!({"data": "points"}))
    }

    fn examples(&self, split: Split) -> usize {
        if split == Split::Train { 17 } else { 5 }
    }

    fn metric_keys(&self) -> Vec<String> {
        vec!["loss/total".into()]
    }

    fn groups(&self) -> Vec<ParameterGroup> {
        let group = |name: &str, lr| ParameterGroup { name: name.into(), parameters: vec![name.into()], lr, weight_decay: 0.0 };
        vec![group("slope", 0.05), group("offset", 0.02)]
    }

    fn parameter(&self, name: &str) -> Result<Tensor<2>> {
        Ok(self.parameters[name].clone())
    }

    fn set_parameter(&mut self, name: &str, value: Tensor<2>) -> Result<()> {
        self.parameters.insert(name.into(), value);
        Ok(())
    }

    fn step(&mut self, batch: &Batch, training: bool) -> Result<StepReport> {
        if training && self.dies_in == Some(batch.iteration) {
            return Err(Error::Batch("killed".into()));
        }
        let (mut rng, values) = (batch.rng(), self.values());
        let (mut loss, mut gradient) = (0.0, [0.0; 2]);
        for example in &batch.examples {
            let x = *example as f32 / 10.0;
            let error = values[1] * x + values[0] - (3.0 * x - 1.0 + rng.random_range(-0.1..0.1));
            let share = 1.0 / batch.examples.len() as f32;
            loss += error * error * share;
            gradient = [gradient[0] + 2.0 * error * share, gradient[1] + 2.0 * error * x * share];
            if training && self.poisoned.contains(example) {
                gradient[0] = f32::NAN;
            }
        }
        let mut report = StepReport::default();
        report.put("loss/total", f64::from(loss));
        if training {
            self.seen += batch.examples.len() as f32;
            let device = self.parameters["slope"].device();
            for (name, value) in [("offset", gradient[0]), ("slope", gradient[1])] {
                report.gradients.insert(name.into(), Tensor::from_floats([[value]], &device));
            }
        }
        Ok(report)
    }

    fn state(&self) -> Result<BTreeMap<String, HostTensor>> {
        let mut state = BTreeMap::from([("seen".to_owned(), HostTensor::vector(vec![self.seen]))]);
        for (name, value) in &self.parameters {
            state.insert(name.clone(), HostTensor::from_row(value)?);
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &BTreeMap<String, HostTensor>) -> Result<()> {
        let device = self.parameters["slope"].device();
        for (name, value) in &mut self.parameters {
            *value = state[name].to_matrix(name, &device)?;
        }
        self.seen = state["seen"].values()[0];
        Ok(())
    }
}

fn config() -> TrainingConfig {
    TrainingConfig {
        seed: 3,
        batch_size: 2,
        val_batch_size: 2,
        accumulate_bs: 3,
        max_iters: 50,
        log_interval: 7,
        val_interval: 10,
        val_steps: 2,
        save_interval: 4,
        early_stop_key: "loss/total_val".into(),
        schedule: Schedule::Cosine { warmup: 2, last: 0.1 },
        ..TrainingConfig::default()
    }
}

fn run(folder: &Path, config: &TrainingConfig, line: &mut Line, resume: bool) -> Result<easyedit_trainer::TrainingOutcome> {
    Trainer::new(line, config.clone(), folder)?.run(&Session::new(), resume)
}

fn files(folder: &Path) -> [Vec<u8>; 3] {
    [LAST_FILE, MODEL_FILE, LOG_FILE].map(|file| std::fs::read(folder.join(file)).unwrap())
}

#[test]
fn it_learns_and_logs() {
    let dir = tempfile::tempdir().unwrap();
    let config = TrainingConfig { max_iters: 900, schedule: Schedule::Constant, ..config() };
    let mut line = Line::new();
    let outcome = run(dir.path(), &config, &mut line, false).unwrap();
    assert_eq!((outcome.iterations, outcome.steps, outcome.skipped), (900, 300, 0));
    let values = line.values();
    assert!((values[1] - 3.0).abs() < 0.2 && (values[0] + 1.0).abs() < 0.2, "{values:?}");
    assert!(outcome.results["loss/total_val"] < 0.05 && outcome.best.unwrap().0 < 0.05);
    let log = read_log(&dir.path().join(LOG_FILE)).unwrap();
    let of = |key: &str| log.iter().filter_map(|line: &LogLine| *line.values.get(key)?).collect::<Vec<f64>>();
    assert!(of("loss/total_train").len() == 129 && of("loss/total_val").len() == 90 && of("grad_train").iter().all(|norm| *norm > 0.0));
    assert!(std::fs::read_to_string(dir.path().join("results.json")).unwrap().contains("loss/total_val"));
}

#[test]
fn a_run_that_was_killed_goes_on_as_if_it_had_not_been() {
    let whole = tempfile::tempdir().unwrap();
    run(whole.path(), &config(), &mut Line::new(), false).unwrap();
    for dies_in in [1, 2, 9, 11, 23, 24, 31, 42, 49, 50] {
        let dir = tempfile::tempdir().unwrap();
        let mut line = Line { dies_in: Some(dies_in), ..Line::new() };
        assert!(run(dir.path(), &config(), &mut line, false).unwrap_err().to_string().contains("killed"));
        run(dir.path(), &config(), &mut Line::new(), true).unwrap();
        assert_eq!(files(dir.path()), files(whole.path()), "killed in iteration {dies_in}");
    }
}

/// Cancels a session after so many iterations.
struct CancelAfter(u64, std::sync::atomic::AtomicU64);

impl Progress for CancelAfter {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, steps: u64) {
        self.1.fetch_add(steps, std::sync::atomic::Ordering::Relaxed);
    }
    fn remark(&self, _: &str) {}
    fn end(&self) {}
    fn is_cancelled(&self) -> bool {
        self.1.load(std::sync::atomic::Ordering::Relaxed) >= self.0
    }
}

#[test]
fn a_cancelled_run_keeps_what_it_did() {
    let (whole, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(whole.path(), &config(), &mut Line::new(), false).unwrap();
    let session = Session::new().with_progress(CancelAfter(7, 0.into()));
    let mut line = Line::new();
    let outcome = Trainer::new(&mut line, config(), dir.path()).unwrap().run(&session, false);
    assert!(matches!(outcome, Err(Error::Cancelled)));
    assert_eq!(line.seen, 14.0);
    // Iteration 7 is in the checkpoint, though checkpoints are due every 4.
    let mut rest = Line { dies_in: Some(7), ..Line::new() };
    run(dir.path(), &config(), &mut rest, true).unwrap();
    assert_eq!(files(dir.path()), files(whole.path()));
}

#[test]
fn accumulation_is_the_mean_over_the_batches() {
    let dir = tempfile::tempdir().unwrap();
    // No noise in the order: every batch is the whole set, in one iteration or in two halves of an accumulation.
    let one = TrainingConfig { batch_size: 17, accumulate_bs: 1, max_iters: 1, ..config() };
    let two = TrainingConfig { accumulate_bs: 2, max_iters: 2, ..one.clone() };
    let step = |name: &str, config: &TrainingConfig| {
        let mut line = Line::new();
        run(&dir.path().join(name), config, &mut line, false).unwrap();
        line.values()
    };
    let (one, two) = (step("one", &one), step("two", &two));
    // Adam's first step has the size of the rate, so the values agree though the noise differs.
    assert!(one.iter().zip(&two).all(|(a, b)| (a - b).abs() < 1e-6), "{one:?} {two:?}");
    let unfinished = TrainingConfig { accumulate_bs: 4, max_iters: 5, ..config() };
    assert_eq!(run(&dir.path().join("unfinished"), &unfinished, &mut Line::new(), false).unwrap().steps, 2);
}

#[test]
fn batches_without_finite_gradients_are_skipped_and_end_the_run_if_there_are_many() {
    let dir = tempfile::tempdir().unwrap();
    let mut line = Line { poisoned: vec![4], ..Line::new() };
    let outcome = run(&dir.path().join("one"), &config(), &mut line, false).unwrap();
    assert!((5..=6).contains(&outcome.skipped), "one batch of each of 5 to 6 epochs: {outcome:?}");
    assert!(line.values().iter().all(|v| v.is_finite()));
    let mut line = Line { poisoned: (0..17).collect(), ..Line::new() };
    let message = run(&dir.path().join("all"), &config(), &mut line, false).unwrap_err().to_string();
    assert!(message.contains("10 batches in a row") && message.contains("iteration 10"), "{message}");
}

#[test]
fn what_is_wrong_is_said_before_anything_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let message = |config: TrainingConfig| run(dir.path(), &config, &mut Line::new(), false).unwrap_err().to_string();
    let unknown = message(TrainingConfig { early_stop_key: "edit/acc_val".into(), ..config() });
    assert!(unknown.contains("edit/acc_val") && unknown.contains("loss/total_val"), "{unknown}");
    assert!(message(TrainingConfig { batch_size: 0, ..config() }).contains("batch_size"));
    run(dir.path(), &config(), &mut Line::new(), false).unwrap();
    assert!(message(config()).contains("--resume"));
    let other = TrainingConfig { opt: OptimizerKind::AdamW, ..config() };
    let message = run(dir.path(), &other, &mut Line::new(), true).unwrap_err().to_string();
    assert!(message.contains("opt differ"), "{message}");
}

#[test]
fn a_run_ends_when_nothing_improves() {
    let dir = tempfile::tempdir().unwrap();
    // With rates that are nearly 0 the first validation of each kind stays the best for long.
    let config = TrainingConfig { early_stop_patience: 20, grad_clip: 1e-30, max_iters: 500, val_interval: 5, ..config() };
    let mut line = Line::new();
    line.parameters.insert("slope".into(), Tensor::from_floats([[3.0]], &line.parameters["slope"].device()));
    let outcome = run(dir.path(), &config, &mut line, false).unwrap();
    let best = outcome.best.unwrap().1;
    assert!(outcome.iterations < 500 && outcome.iterations - best == 25, "{outcome:?}");
}
