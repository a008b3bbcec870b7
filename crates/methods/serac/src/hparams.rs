use easyedit_core::{Error, Hparams, ModelSpec, Result};
use easyedit_kernels::{Ceiling, above_zero, at_least_one, at_most, ceilings, inside_one, zero_or_more, zero_to_one};
use easyedit_trainer::{OptimizerKind, Schedule, TrainingConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Threshold;

/// Steps in which rates rise, and rounds over the data.
const STEPS: Ceiling<u64> = Ceiling { most: 1 << 40, reason: "no training has more steps" };
/// Iterations of a training that does not say it.
const ITERATIONS: u64 = 100_000;

/// What of a text's last hidden states is its embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// That of the first token.
    #[default]
    First,
    /// Their mean.
    Mean,
}

/// Where hard negatives come from: prompts that are near to an edit's and out of its scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HardNegatives {
    /// There are none.
    Off,
    /// Prompts that have rare words in common (TF-IDF).
    #[default]
    Words,
}

/// Declares the hyperparameters: fields with their defaults, and keys of EasyEdit's files that have no effect here.
macro_rules! serac_hparams {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr,)* ; $($kept:ident),* $(,)?) => {
        /// Hyperparameters of SERAC: for editing and for the training. Keys and defaults are EasyEdit's or the original code's, where they have
        /// them; `supervised` is true by default, as in the original.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct SeracHparams {
            $($(#[$doc])* pub $name: $type,)*
            $(
                /// Kept for EasyEdit's files.
                #[serde(skip_serializing_if = "Value::is_null")]
                pub $kept: Value,
            )*
        }

        impl Default for SeracHparams {
            fn default() -> Self {
                Self { $($name: $default,)* $($kept: Value::Null,)* }
            }
        }

        impl SeracHparams {
            const FIELDS: &'static [&'static str] = &[$(stringify!($name),)* $(stringify!($kept),)*];
        }
    };
}

serac_hparams! {
    /// `SERAC`.
    alg: String = "SERAC".to_owned(),
    /// `SERAC`; missing in EasyEdit's training files.
    alg_name: String = "SERAC".to_owned(),
    /// The model the values were chosen for.
    model_name: String = String::new(),
    /// What was learned: a file, or a name that is built in. Required for editing; a training begins with it if it is given.
    archive: Option<String> = None,
    /// The text encoder of the scope classifier: a folder, a Hub id or a short name.
    cls_name: String = "distilbert-base-cased".to_owned(),
    /// The counterfactual model: a folder, a Hub id or a short name.
    small_name: String = String::new(),
    /// The encoder reads memory and query together and classifies the pair, instead of comparing two embeddings.
    cross_attend: bool = false,
    /// Distances are 1 − cosine.
    cos: bool = false,
    /// Euclidean distances are squared.
    square: bool = true,
    /// Embeddings pass through tanh.
    bound_embeds: bool = false,
    /// Parts that an embedding is cut into; the least distance of the parts counts. A divisor of the encoder's width.
    dist_heads: usize = 1,
    /// What of a text's last hidden states is its embedding: `first` or `mean`.
    pooling: Pooling = Pooling::First,
    /// A query is in scope if its score is above it: a number in (0, 1), or `auto`. A training with `auto` chooses the number with the best F1 of
    /// its validation, and without a threshold takes 0.5; editing with `auto`, or without a threshold, takes what the archive says.
    threshold: Option<Threshold> = None,
    /// Probabilities of both models are mixed by the score, instead of one of them answering.
    soft_weighting: bool = false,
    /// Lay the memory over another base model than the one of the training; only for hard routing.
    any_base: bool = false,
    /// Train the classifier on pairs and the counterfactual model on the right memory; otherwise both through the mixture.
    supervised: bool = true,
    /// Weight of the loss on edits.
    #[serde(deserialize_with = "easyedit_core::number")]
    cedit: f64 = 0.1,
    /// Weight of the loss on scope (supervised), or of the KL on locality rows.
    #[serde(deserialize_with = "easyedit_core::number")]
    cloc: f64 = 1.0,
    /// Learning rate; above 0.
    #[serde(deserialize_with = "easyedit_core::number")]
    lr: f64 = 1e-5,
    /// Train only this many of the encoder's last blocks; all of it without.
    freeze: Option<usize> = None,
    /// Leave the counterfactual model as it is.
    freeze_cntr: bool = false,
    /// Blocks of the counterfactual model's decoder, from the first, that are left as they are, with its embeddings. 0 trains everything.
    freeze_below: usize = 0,
    /// Every locality prompt of a batch is a negative for every memory of it.
    use_all_negatives: bool = false,
    /// Locality prompts for each edit of a batch; at least 1.
    n_loc: usize = 1,
    /// Probability that an edit is asked in other words instead of its own.
    #[serde(deserialize_with = "easyedit_core::number")]
    outer_rephrase: f64 = 0.5,
    /// Whether the counterfactual model also learns to end the text behind the answer (supervised training only).
    learn_end: bool = false,
    /// Probability that an edit has the answer of another record as its target.
    #[serde(deserialize_with = "easyedit_core::number")]
    random_target: f64 = 0.0,
    /// Probability that an edit's target is a made-up name: copying from the memory is learned for every token.
    #[serde(deserialize_with = "easyedit_core::number")]
    made_up_target: f64 = 0.0,
    /// Probability that the subject of a record is replaced by a made-up name, where all its prompts name it.
    #[serde(deserialize_with = "easyedit_core::number")]
    random_subject: f64 = 0.0,
    /// Where hard negatives come from: `off`, or `words` in common.
    hard_neg: HardNegatives = HardNegatives::Words,
    /// Probability that the locality prompts of a batch are hard negatives.
    #[serde(deserialize_with = "easyedit_core::number")]
    hard_neg_prob: f64 = 0.5,
    /// Probability that another locality prompt is the record's own instead of that of any other record.
    #[serde(deserialize_with = "easyedit_core::number")]
    own_loc: f64 = 0.5,
    /// Nearest prompts that are passed over, because they may be the same question.
    hard_neg_exclude: usize = 25,
    /// Hard negatives are drawn from so many nearest prompts, those passed over included.
    hard_neg_neighbors: usize = 100,
    /// A hard negative is drawn with a weight of exp(cosine / this); above 0.
    #[serde(deserialize_with = "easyedit_core::number")]
    hard_neg_temp: f64 = 0.1,
    /// Probability that a locality prompt is the edit's own question about another subject, where the record names its subject.
    #[serde(deserialize_with = "easyedit_core::number")]
    swap_subject: f64 = 0.0,
    /// Seed of the training.
    seed: u64 = 0,
    /// Edits of an iteration of the training.
    batch_size: usize = 10,
    /// Edits of a batch of the validation.
    val_batch_size: usize = 10,
    /// Iterations whose gradients make one step.
    accumulate_bs: u64 = 10,
    /// Iterations of the training; 100,000 without.
    max_iters: Option<u64> = None,
    /// Rounds over the training records at most.
    max_epochs: Option<u64> = None,
    /// Iterations between lines of the log.
    log_interval: u64 = 1000,
    /// Iterations between validations.
    val_interval: u64 = 1000,
    /// Batches of a validation.
    val_steps: usize = 1000,
    /// Iterations between checkpoints.
    model_save_pt: u64 = 1000,
    /// Iterations without a better validation after which the training ends.
    early_stop_patience: u64 = 40000,
    /// What a better validation is; keys with `acc` or `exact` are to rise.
    early_stop_key: String = "loss/total_edit_val".to_owned(),
    /// Largest joint norm of the gradients.
    #[serde(deserialize_with = "easyedit_core::number")]
    grad_clip: f64 = 100.0,
    /// `Adam` or `AdamW`.
    opt: OptimizerKind = OptimizerKind::Adam,
    /// Weight decay.
    #[serde(deserialize_with = "easyedit_core::number")]
    weight_decay: f64 = 0.0,
    /// `constant`, `linear` or `cosine`, after a rise over `warmup` steps.
    schedule: String = "constant".to_owned(),
    /// Steps in which the rates rise.
    warmup: u64 = 0,
    /// Factor of the rates at the end of a `cosine`.
    #[serde(deserialize_with = "easyedit_core::number")]
    last_factor: f64 = 0.0,
    /// Measure the best state on all validation records.
    final_eval: bool = true,
    /// Train nothing: measure the archive.
    eval_only: bool = false,
    ;
    device, model_class, tokenizer_class, tokenizer_name, cls_class, model_parallel, inner_params, edit_lr, lr_lr, cbase, dropout, train_base, no_grad_layers, checkpoint_grad, lora, edit_bs, silent, half, save, debug, log_errors, unlikelihood, results_dir, max_length,
}

impl Hparams for SeracHparams {
    const METHOD: &'static str = "SERAC";
    const KEYS: &'static [&'static str] = Self::FIELDS;

    fn check(&self) -> std::result::Result<(), String> {
        at_most(&[("lr", self.lr)], ceilings::RATE)?;
        at_most(&[("cedit", self.cedit), ("cloc", self.cloc), ("weight_decay", self.weight_decay)], ceilings::WEIGHT)?;
        at_most(&[("n_loc", self.n_loc), ("dist_heads", self.dist_heads)], ceilings::BATCH)?;
        at_most(&[("freeze", self.freeze.unwrap_or(0)), ("freeze_below", self.freeze_below)], ceilings::LAYERS)?;
        at_most(&[("hard_neg_exclude", self.hard_neg_exclude), ("hard_neg_neighbors", self.hard_neg_neighbors)], ceilings::SAMPLES)?;
        at_most(&[("hard_neg_temp", self.hard_neg_temp), ("grad_clip", self.grad_clip)], ceilings::WEIGHT)?;
        at_most(&[("warmup", self.warmup), ("max_epochs", self.max_epochs.unwrap_or(0))], STEPS)?;
        above_zero(&[("lr", self.lr), ("hard_neg_temp", self.hard_neg_temp)])?;
        zero_or_more(&[("cedit", self.cedit), ("cloc", self.cloc), ("weight_decay", self.weight_decay)])?;
        at_least_one(&[("n_loc", self.n_loc), ("dist_heads", self.dist_heads)])?;
        if let Some(Threshold::At(threshold)) = self.threshold {
            inside_one(&[("threshold", threshold)])?;
        }
        zero_to_one(&[
            ("outer_rephrase", self.outer_rephrase),
            ("random_target", self.random_target),
            ("random_subject", self.random_subject),
            ("made_up_target", self.made_up_target),
            ("hard_neg_prob", self.hard_neg_prob),
            ("swap_subject", self.swap_subject),
            ("own_loc", self.own_loc),
            ("last_factor", self.last_factor),
        ])?;
        if self.hard_neg != HardNegatives::Off && self.hard_neg_neighbors <= self.hard_neg_exclude {
            return Err(format!(
                "hard_neg_neighbors is {} and hard_neg_exclude {}; the first must be the larger",
                self.hard_neg_neighbors, self.hard_neg_exclude
            ));
        }
        if self.cross_attend && (self.cos || self.dist_heads > 1 || self.bound_embeds) {
            return Err("cross_attend reads memory and query together: cos, dist_heads and bound_embeds are about embeddings".into());
        }
        if self.any_base && (self.soft_weighting || !self.supervised) {
            return Err("any_base is for hard routing after supervised training: a mixture is learned for one base model".into());
        }
        match self.training_config() {
            Ok(_) => Ok(()),
            Err(Error::Hparams { message, .. }) => Err(message),
            Err(other) => Err(other.to_string()),
        }
    }
}

impl SeracHparams {
    /// The original's values, without an archive: no networks are known for the model.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        Self { model_name: spec.name.clone(), ..Self::default() }
    }

    /// Whether the mixture of both models answers: in the reference always after a training through it.
    pub fn is_soft(&self) -> bool {
        self.soft_weighting || !self.supervised
    }

    /// The threshold as a number, where nothing is known of a training.
    pub fn threshold_or_half(&self) -> f64 {
        match self.threshold {
            Some(Threshold::At(threshold)) => threshold,
            _ => Threshold::HALF,
        }
    }

    fn schedule(&self) -> std::result::Result<Schedule, String> {
        let Self { warmup, last_factor: last, .. } = *self;
        match self.schedule.as_str() {
            "constant" => Ok(Schedule::Constant),
            "linear" => Ok(Schedule::Linear { warmup }),
            "cosine" => Ok(Schedule::Cosine { warmup, last }),
            other => Err(format!("schedule is {other:?}; it is constant, linear or cosine")),
        }
    }

    /// What the loop of the training is told.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming a key that is out of range.
    pub fn training_config(&self) -> Result<TrainingConfig> {
        let config = TrainingConfig {
            seed: self.seed,
            batch_size: self.batch_size,
            val_batch_size: self.val_batch_size,
            accumulate_bs: self.accumulate_bs,
            max_iters: self.max_iters.unwrap_or(ITERATIONS),
            max_epochs: self.max_epochs,
            log_interval: self.log_interval,
            val_interval: self.val_interval,
            val_steps: self.val_steps,
            save_interval: self.model_save_pt,
            early_stop_patience: self.early_stop_patience,
            early_stop_key: self.early_stop_key.clone(),
            grad_clip: self.grad_clip,
            opt: self.opt,
            schedule: self.schedule().map_err(Error::hparams)?,
            final_eval: self.final_eval,
            eval_only: self.eval_only,
            ..TrainingConfig::default()
        };
        config.check()?;
        Ok(config)
    }
}
