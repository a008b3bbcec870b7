//! One training loop for every meta-learned editing method.
//!
//! A method that is trained implements [`MetaLearner`]: it names its parameters, computes losses, metrics and gradients of a batch, and gives
//! its state as named arrays. [`Trainer`] does the rest: order of the data, accumulation of gradients, clipping, the optimiser and its
//! schedule, validation, early stopping, checkpoints, logs, resuming.
//!
//! # Units
//!
//! An *iteration* is one batch. `max_iters`, all intervals and the patience count iterations. An optimiser step is made every
//! `accumulate_bs` iterations, from the mean of their gradients.
//!
//! # Invariants
//!
//! - The loop names no method, and a learner reads no file and no clock of the loop.
//! - Everything random follows from the seed and the number of the iteration, never from a generator that runs along. So a run that was killed
//!   and resumed goes the way of one that was not, bit for bit, on one device and with one number of threads.
//! - Files appear whole or not at all, and `log.jsonl` holds no times: two runs are compared by their bytes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod averages;
mod batch;
mod checkpoint;
mod config;
mod early_stop;
mod event_file;
mod gradients;
mod learner;
mod log;
mod optimizer;
mod order;
mod plot;
mod schedule;
mod trainer;

pub use batch::{Batch, Split};
pub use checkpoint::{LAST_FILE, MODEL_FILE};
pub use config::{LOOP_KEYS, OptimizerKind, TrainingConfig};
pub use early_stop::is_maximized;
pub use event_file::EventFile;
pub use learner::{MetaLearner, Metric, ParameterGroup, StepReport};
pub use log::{LOG_FILE, LogLine, read_log};
pub use plot::plot_curves;
pub use schedule::Schedule;
pub use trainer::{RESULTS_FILE, Trainer, TrainingOutcome};
