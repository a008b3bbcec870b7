use easyedit_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::Schedule;

/// Most iterations, intervals and patience: far beyond any run.
const MOST_ITERATIONS: u64 = 1 << 40;
/// Most examples of a batch.
const LARGEST_BATCH: usize = 1 << 16;

/// Keys of a method's hyperparameters that are the loop's, or say where it runs. They are left out of
/// [`MetaLearner::identity`](crate::MetaLearner::identity): the loop compares its settings itself.
pub const LOOP_KEYS: &[&str] = &[
    "seed",
    "batch_size",
    "val_batch_size",
    "accumulate_bs",
    "max_iters",
    "max_epochs",
    "log_interval",
    "eval_log_interval",
    "val_interval",
    "val_steps",
    "model_save_pt",
    "early_stop_patience",
    "early_stop_key",
    "grad_clip",
    "opt",
    "schedule",
    "warmup",
    "last_factor",
    "max_skipped",
    "final_eval",
    "eval_only",
    "device",
    "results_dir",
    "silent",
];

/// Which rule steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimizerKind {
    /// Adam; weight decay enters the gradient.
    #[default]
    Adam,
    /// Adam with decoupled weight decay.
    AdamW,
}

/// Settings of the loop. The fields have EasyEdit's names where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingConfig {
    /// Seed of order, subsets and whatever the learner draws.
    pub seed: u64,
    /// Examples of an iteration; at least 1.
    pub batch_size: usize,
    /// Examples of a batch of the validation; at least 1.
    pub val_batch_size: usize,
    /// Iterations whose gradients are averaged for an optimiser step; at least 1.
    pub accumulate_bs: u64,
    /// Iterations in all.
    pub max_iters: u64,
    /// Rounds over the data at most; `None` for no limit but `max_iters`.
    pub max_epochs: Option<u64>,
    /// Iterations between lines of the log; at least 1.
    pub log_interval: u64,
    /// Iterations between validations; at least 1.
    pub val_interval: u64,
    /// Batches of a validation; the subset is chosen once, by the seed. At least 1.
    pub val_steps: usize,
    /// Iterations between checkpoints; at least 1. Every validation that improves, and the end, write one too.
    pub save_interval: u64,
    /// The run ends this many iterations after the best validation.
    pub early_stop_patience: u64,
    /// Key of a validation average, such as `loss/total_edit_val`. Keys with `acc` or `exact` in them are to rise, others to fall.
    pub early_stop_key: String,
    /// The joint norm of all gradients is scaled down to this; above 0.
    pub grad_clip: f64,
    /// The optimiser.
    pub opt: OptimizerKind,
    /// How the rates change over the run.
    pub schedule: Schedule,
    /// Batches in a row whose gradients are not finite, after which the run ends with an error; fewer are skipped.
    pub max_skipped: u64,
    /// Whether the best state is measured on all validation examples at the end.
    pub final_eval: bool,
    /// Whether nothing is trained: the state that is there is measured.
    pub eval_only: bool,
}

impl Default for TrainingConfig {
    /// The settings of MEND's authors for one edit at a time.
    fn default() -> Self {
        Self {
            seed: 0,
            batch_size: 1,
            val_batch_size: 1,
            accumulate_bs: 10,
            max_iters: 100_000,
            max_epochs: None,
            log_interval: 1000,
            val_interval: 1000,
            val_steps: 500,
            save_interval: 1000,
            early_stop_patience: 20_000,
            early_stop_key: "loss/total_edit_val".to_owned(),
            grad_clip: 100.0,
            opt: OptimizerKind::Adam,
            schedule: Schedule::Constant,
            max_skipped: 10,
            final_eval: true,
            eval_only: false,
        }
    }
}

impl TrainingConfig {
    /// Checks ranges.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming the key.
    pub fn check(&self) -> Result<()> {
        let sizes = [("batch_size", self.batch_size), ("val_batch_size", self.val_batch_size)];
        for (key, size) in sizes {
            if !(1..=LARGEST_BATCH).contains(&size) {
                return Err(Error::hparams(format!("{key} is {size}; it must be 1 to {LARGEST_BATCH}")));
            }
        }
        let intervals = [
            ("accumulate_bs", self.accumulate_bs),
            ("log_interval", self.log_interval),
            ("val_interval", self.val_interval),
            ("val_steps", self.val_steps as u64),
            ("model_save_pt", self.save_interval),
            ("max_skipped", self.max_skipped),
        ];
        for (key, interval) in intervals {
            if !(1..=MOST_ITERATIONS).contains(&interval) {
                return Err(Error::hparams(format!("{key} is {interval}; it must be 1 to {MOST_ITERATIONS}")));
            }
        }
        for (key, iterations) in [("max_iters", self.max_iters), ("early_stop_patience", self.early_stop_patience)] {
            if iterations > MOST_ITERATIONS {
                return Err(Error::hparams(format!("{key} is {iterations}; it must be at most {MOST_ITERATIONS}")));
            }
        }
        if !(self.grad_clip.is_finite() && self.grad_clip > 0.0) {
            return Err(Error::hparams(format!("grad_clip is {}; it must be above 0", self.grad_clip)));
        }
        self.schedule.check()
    }
}
