use easyedit_core::{Error, Hparams, ModelSpec};
use easyedit_kernels::{Ceiling, above_zero, at_least_one, at_most, ceilings, zero_or_more, zero_to_one};
use easyedit_trainer::{OptimizerKind, Schedule, TrainingConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::inner::default_inner_params;

/// Ranks of the network's layers.
const RANK: Ceiling<usize> = Ceiling { most: 1 << 16, reason: "a layer is of no higher rank than it is wide" };
/// Layers of the network.
const HIDDEN: Ceiling<usize> = Ceiling { most: 64, reason: "the network is small" };
/// Rows beside an edit.
const ROWS: Ceiling<usize> = Ceiling { most: 1024, reason: "all rows of an iteration are run at once" };

/// How the network begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// As the identity: its layers add to their input, and add nothing at first.
    #[default]
    Id,
    /// At random, without the addition.
    Xavier,
}

/// Where the distributions of the texts that stay are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlPositions {
    /// At the tokens that predict the answer.
    #[default]
    Answer,
    /// At every token, as MEND's authors have it for GPT models.
    All,
}

/// Which form the rates have over a training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// They stay.
    #[default]
    Constant,
    /// They rise over `warmup` steps, and stay.
    Linear,
    /// They fall along half a cosine, after a rise over `warmup` steps.
    Cosine,
}

macro_rules! mend_hparams {
    ($($(#[$attribute:meta])* $field:ident: $kind:ty = $default:expr,)+) => {
        /// Hyperparameters of MEND and of its training. EasyEdit's keys have their meaning; those behind `results_dir` are ours.
        ///
        /// Every key has a default, that of EasyEdit's files where they have it.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct MendHparams {
            $($(#[$attribute])* pub $field: $kind,)+
        }

        impl Default for MendHparams {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        const FIELDS: &[&str] = &[$(stringify!($field)),+];
    };
}

mend_hparams! {
    /// `MEND`.
    alg_name: String = MendHparams::METHOD.to_owned(),
    /// The same, in EasyEdit's files for training.
    alg: String = MendHparams::METHOD.to_owned(),
    /// The model the values were chosen for.
    model_name: String = String::new(),
    /// Kept for EasyEdit's files: the model's kind is in its own configuration.
    model_class: Value = Value::Null,
    /// Kept for EasyEdit's files.
    tokenizer_class: Value = Value::Null,
    /// Kept for EasyEdit's files.
    tokenizer_name: Value = Value::Null,
    /// Number of the GPU in EasyEdit's files; the device is chosen when the program is run.
    device: Value = Value::from(0),
    /// Kept for EasyEdit's files.
    model_parallel: bool = false,
    /// What was learned: a file of this program, an archive of EasyEdit or of MEND's authors, or a name that is built in. Needed to edit; a
    /// training begins with it if it is given.
    archive: Option<String> = None,
    /// The weights that are edited, by name; empty for the MLP's matrices in the last three blocks (in each stack of an encoder-decoder, two).
    inner_params: Vec<String> = Vec::new(),
    /// Learning rate of the network; above 0.
    #[serde(deserialize_with = "easyedit_core::number")]
    lr: f64 = 1e-6,
    /// First value of the rate of each weight.
    #[serde(deserialize_with = "easyedit_core::number")]
    edit_lr: f64 = 1e-4,
    /// Learning rate of these rates; 0 or more.
    #[serde(deserialize_with = "easyedit_core::number")]
    lr_lr: f64 = 1e-4,
    /// Factor of the rates in editing; above 0.
    #[serde(deserialize_with = "easyedit_core::number")]
    lr_scale: f64 = 1.0,
    /// Seed of a training. The command's `--seed` is that of everything else.
    seed: u64 = 42,
    /// Weight of the likelihood of edited texts; 0 or more.
    #[serde(deserialize_with = "easyedit_core::number")]
    cedit: f64 = 0.1,
    /// Kept for EasyEdit's files for pictures.
    #[serde(deserialize_with = "easyedit_core::number")]
    iedit: f64 = 0.1,
    /// Weight of the divergence of texts that stay; 0 or more.
    #[serde(deserialize_with = "easyedit_core::number")]
    cloc: f64 = 1.0,
    /// Kept for EasyEdit's files: the base model is not trained.
    #[serde(deserialize_with = "easyedit_core::number")]
    cbase: f64 = 1.0,
    /// 0: the edited model is run as it is.
    #[serde(deserialize_with = "easyedit_core::number")]
    dropout: f64 = 0.0,
    /// `false`: the base model is not trained.
    train_base: bool = false,
    /// Kept for EasyEdit's files: no layer needs gradients of its weights.
    no_grad_layers: Value = Value::Null,
    /// Only the narrower factor is transformed.
    one_sided: bool = false,
    /// Layers of the network, less one.
    n_hidden: usize = 1,
    /// Kept for EasyEdit's files: the layers are as wide as their input.
    hidden_dim: Value = Value::Null,
    /// How the network begins.
    init: Init = Init::Id,
    /// Whether the factors are normalised.
    norm: bool = true,
    /// Whether both factors go through one network, side by side.
    combine: bool = true,
    /// Only x is transformed.
    x_only: bool = false,
    /// Only δ is transformed.
    delta_only: bool = false,
    /// `relu`: the only activation there is.
    act: String = "relu".to_owned(),
    /// Rank of the network's layers; at least 1, and at most their width in effect.
    rank: usize = 1920,
    /// `IDMLP`: the only network there is.
    mlp_class: String = "IDMLP".to_owned(),
    /// Whether weights of one shape share a network.
    shared: bool = true,
    /// Edits of an iteration.
    batch_size: usize = 1,
    /// Iterations between checkpoints.
    model_save_pt: u64 = 5000,
    /// Kept for EasyEdit's files.
    silent: bool = false,
    /// Iterations of a training.
    max_iters: u64 = 100_000,
    /// Iterations between lines of the log.
    log_interval: u64 = 1000,
    /// Kept for EasyEdit's files, whose own implementation does not read it either.
    eval_log_interval: u64 = 1000,
    /// Whether the best state is measured on all validation records at the end.
    final_eval: bool = true,
    /// Iterations between validations.
    val_interval: u64 = 1000,
    /// The training ends so many iterations after its best validation.
    early_stop_patience: u64 = 20_000,
    /// The average that says which validation is the best.
    early_stop_key: String = "loss/total_edit_val".to_owned(),
    /// Whether `train` only measures.
    eval_only: bool = false,
    /// Kept for EasyEdit's files.
    half: bool = false,
    /// Kept for EasyEdit's files.
    debug: bool = false,
    /// Kept for EasyEdit's files.
    save: bool = false,
    /// Kept for EasyEdit's files.
    verbose: bool = true,
    /// Edits of a batch of the validation.
    val_batch_size: usize = 5,
    /// Iterations whose gradients are averaged for a step.
    accumulate_bs: u64 = 10,
    /// Batches of a validation.
    val_steps: usize = 500,
    /// The optimiser.
    opt: OptimizerKind = OptimizerKind::Adam,
    /// The joint norm of the gradients is scaled down to this.
    #[serde(deserialize_with = "easyedit_core::number")]
    grad_clip: f64 = 100.0,
    /// Kept for EasyEdit's files: the command's `--out` says where a training writes.
    results_dir: String = "./results".to_owned(),
    /// Kept for EasyEdit's files: nothing is cut here.
    max_length: usize = easyedit_kernels::hparams_defaults::max_length(),
    /// Whether an edit goes down the gradient, as the paper has it. The reference's programs go up. If it is not given, a training goes down, an
    /// edit goes where the trained file says, and what other programs trained goes up.
    #[serde(skip_serializing_if = "Option::is_none")]
    descent: Option<bool> = None,
    /// Facts of an edit in training; at least 1.
    n_edits: usize = 1,
    /// Texts that stay, per edit.
    n_loc: usize = 2,
    /// Share of them that is near: the same template with another subject. The rest is the record's own locality, or another record.
    #[serde(deserialize_with = "easyedit_core::number")]
    hard_neg_prob: f64 = 0.5,
    /// How often the text in which the edit is to hold is a rephrased one.
    #[serde(deserialize_with = "easyedit_core::number")]
    outer_rephrase: f64 = 0.75,
    /// How often the text that defines an edit in training is a rephrased one, where another is left for the text in which it is to hold.
    #[serde(deserialize_with = "easyedit_core::number")]
    inner_rephrase: f64 = 0.0,
    /// How often the target is drawn from the answers of the same template, in place of the record's own.
    #[serde(deserialize_with = "easyedit_core::number")]
    random_target: f64 = 0.5,
    /// Where the distributions of texts that stay are held.
    kl_positions: KlPositions = KlPositions::Answer,
    /// Form of the rates over the training.
    schedule: ScheduleKind = ScheduleKind::Constant,
    /// Steps over which the rates rise.
    warmup: u64 = 0,
    /// Factor of the rates at the end of a cosine.
    #[serde(deserialize_with = "easyedit_core::number")]
    last_factor: f64 = 0.05,
    /// Weight decay of the network.
    #[serde(deserialize_with = "easyedit_core::number")]
    weight_decay: f64 = 0.0,
    /// Batches in a row without finite gradients that end the training.
    max_skipped: u64 = 10,
}

impl Hparams for MendHparams {
    const METHOD: &'static str = "MEND";
    const KEYS: &'static [&'static str] = FIELDS;

    fn check(&self) -> Result<(), String> {
        at_most(&[("rank", self.rank)], RANK)?;
        at_most(&[("n_hidden", self.n_hidden)], HIDDEN)?;
        at_most(&[("n_edits", self.n_edits), ("n_loc", self.n_loc)], ROWS)?;
        at_least_one(&[("rank", self.rank), ("n_edits", self.n_edits)])?;
        at_most(&[("lr", self.lr), ("lr_lr", self.lr_lr)], ceilings::RATE)?;
        at_most(&[("cedit", self.cedit), ("cloc", self.cloc), ("lr_scale", self.lr_scale)], ceilings::WEIGHT)?;
        above_zero(&[("lr", self.lr), ("lr_scale", self.lr_scale)])?;
        zero_or_more(&[("lr_lr", self.lr_lr), ("cedit", self.cedit), ("cloc", self.cloc), ("weight_decay", self.weight_decay)])?;
        at_most(&[("weight_decay", self.weight_decay), ("grad_clip", self.grad_clip)], ceilings::WEIGHT)?;
        at_most(&[("warmup", self.warmup as usize)], ceilings::STEPS)?;
        if !self.edit_lr.is_finite() || self.edit_lr.abs() > ceilings::RATE.most {
            return Err(format!("edit_lr is {}; it must be between -{1} and {1}", self.edit_lr, ceilings::RATE.most));
        }
        zero_to_one(&[
            ("hard_neg_prob", self.hard_neg_prob),
            ("outer_rephrase", self.outer_rephrase),
            ("inner_rephrase", self.inner_rephrase),
            ("random_target", self.random_target),
            ("last_factor", self.last_factor),
        ])?;
        if self.combine && (self.one_sided || self.x_only || self.delta_only) {
            return Err("combine puts both factors through one network; with one_sided, x_only or delta_only set it to false".into());
        }
        for (key, value, known) in [("act", &self.act, "relu"), ("mlp_class", &self.mlp_class, "IDMLP")] {
            if value != known {
                return Err(format!("{key} is {value}; {known} is the only one there is"));
            }
        }
        if self.train_base {
            return Err("train_base is true, but the base model is not trained here; set it to false".into());
        }
        if self.dropout != 0.0 {
            return Err(format!("dropout is {}, but the edited model is run as it is; set it to 0", self.dropout));
        }
        self.training_config().check().map_err(|error| match error {
            Error::Hparams { message, .. } => message,
            other => other.to_string(),
        })
    }
}

impl MendHparams {
    /// Values by rule: the MLP's matrices of the last blocks, and EasyEdit's other values.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        Self { model_name: spec.name.clone(), inner_params: default_inner_params(spec), ..Self::default() }
    }

    /// The weights that are edited in a model.
    pub(crate) fn inner_params(&self, spec: &ModelSpec) -> Vec<String> {
        if self.inner_params.is_empty() { default_inner_params(spec) } else { self.inner_params.clone() }
    }

    /// The settings of the training loop.
    pub fn training_config(&self) -> TrainingConfig {
        TrainingConfig {
            seed: self.seed,
            batch_size: self.batch_size,
            val_batch_size: self.val_batch_size,
            accumulate_bs: self.accumulate_bs,
            max_iters: self.max_iters,
            max_epochs: None,
            log_interval: self.log_interval,
            val_interval: self.val_interval,
            val_steps: self.val_steps,
            save_interval: self.model_save_pt,
            early_stop_patience: self.early_stop_patience,
            early_stop_key: self.early_stop_key.clone(),
            grad_clip: self.grad_clip,
            opt: self.opt,
            schedule: match self.schedule {
                ScheduleKind::Constant => Schedule::Constant,
                ScheduleKind::Linear => Schedule::Linear { warmup: self.warmup },
                ScheduleKind::Cosine => Schedule::Cosine { warmup: self.warmup, last: self.last_factor },
            },
            max_skipped: self.max_skipped,
            final_eval: self.final_eval,
            eval_only: self.eval_only,
        }
    }
}

#[cfg(test)]
mod tests {
    use easyedit_core::HparamsDocument;

    use super::*;

    fn read(lines: &str) -> Result<MendHparams, String> {
        let text = format!("alg: MEND\nmodel_name: m\n{lines}");
        HparamsDocument::parse(&text, "mend.yaml").and_then(|document| document.read()).map_err(|e| e.to_string())
    }

    #[test]
    fn easyedits_files_for_training_and_editing_are_read() {
        let hparams =
            read("lr: 1e-6\nedit_lr: '1e-4'\narchive: null\nno_grad_layers: null\nhidden_dim: null\ndevice: 'cuda:0'\nopt: Adam").unwrap();
        assert_eq!((hparams.lr, hparams.edit_lr, hparams.rank, hparams.descent), (1e-6, 1e-4, 1920, None));
        let again = HparamsDocument::from_hparams(&hparams, "again").unwrap().read::<MendHparams>().unwrap();
        assert_eq!(again, hparams);
    }

    #[test]
    fn errors_name_the_key() {
        for (lines, part) in [
            ("rank: 0", "rank"),
            ("combine: true\nx_only: true", "combine"),
            ("act: gelu", "act is gelu"),
            ("train_base: true", "train_base"),
            ("dropout: 0.1", "dropout"),
            ("hard_neg_prob: 1.5", "hard_neg_prob"),
            ("opt: SGD", "opt"),
            ("batch_size: 0", "batch_size"),
            ("schedule: linear", "warmup"),
            ("inner_param: [a]", "did you mean inner_params?"),
        ] {
            let message = read(lines).unwrap_err();
            assert!(message.contains(part) && message.contains("mend.yaml"), "{message}");
        }
    }
}
