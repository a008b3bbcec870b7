use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::{at_least_one, below_one, hparams_defaults, zero_or_more};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is done to the neurons that were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnMode {
    /// Their weights are changed towards the new answer.
    #[default]
    Edit,
    /// Their activations are set to 0, and no weight is changed.
    Suppress,
    /// Their activations are doubled, and no weight is changed.
    Enhance,
}

impl KnMode {
    /// What activations are multiplied by; `None` if weights are changed instead.
    pub fn factor(self) -> Option<f32> {
        match self {
            Self::Edit => None,
            Self::Suppress => Some(0.0),
            Self::Enhance => Some(2.0),
        }
    }
}

/// Hyperparameters of KN. The keys and their meaning are EasyEdit's; `lambda_1`, `lambda_2`, `max_neurons` and `mode` are ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnHparams {
    /// `KN`.
    pub alg_name: String,
    /// The model the values were chosen for.
    #[serde(default)]
    pub model_name: String,
    /// Number of the GPU in EasyEdit's files; the device is chosen when the program is run.
    #[serde(default)]
    pub device: Value,
    /// Terms of the sum that stands for the integral: with m of them the activation is scaled by 1/m, 2/m, ..., 1. At least 1, with which
    /// an attribution is the derivative at the activation, times the activation.
    pub steps: usize,
    /// Neurons are a fact's if their attribution is above this share of the largest; at least 0 and below 1.
    #[serde(deserialize_with = "easyedit_core::number")]
    pub adaptive_threshold: f64,
    /// Whether only those neurons count that were found with more than `p` of a request's prompts (its prompt and its rephrased prompt).
    #[serde(default)]
    pub refine: bool,
    /// See `refine`; at least 0 and below 1.
    #[serde(default = "shared_by", deserialize_with = "easyedit_core::number")]
    pub p: f64,
    /// Neurons of a request at most, those of the largest attribution; without it, as many as are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_neurons: Option<usize>,
    /// What is done to the neurons: `edit`, `suppress` or `enhance`.
    #[serde(default)]
    pub mode: KnMode,
    /// How often the old answer's embedding is taken from the weights of each neuron; 0 or more. The paper's is 1, in EasyEdit it is 2.
    #[serde(default = "lambda_1", deserialize_with = "easyedit_core::number")]
    pub lambda_1: f64,
    /// How often the new answer's embedding is added; 0 or more. The paper's is 8, in EasyEdit it is 2.
    #[serde(default = "lambda_2", deserialize_with = "easyedit_core::number")]
    pub lambda_2: f64,
    /// Kept for EasyEdit's files: as many scaled activations are run at once as fit into memory.
    #[serde(default = "hparams_defaults::one")]
    pub batch_size: usize,
    /// Kept for EasyEdit's files, which do not use it either.
    #[serde(default)]
    pub lr_scale: Value,
    /// Kept for EasyEdit's files, which do not use it either.
    #[serde(default)]
    pub n_toks: Value,
    /// Kept for EasyEdit's files: evaluation never cuts a text here.
    #[serde(default = "hparams_defaults::max_length")]
    pub max_length: usize,
    /// Kept for EasyEdit's files.
    #[serde(default)]
    pub model_parallel: bool,
}

fn lambda_1() -> f64 {
    1.0
}

fn lambda_2() -> f64 {
    8.0
}

fn shared_by() -> f64 {
    0.4
}

impl Hparams for KnHparams {
    const METHOD: &'static str = "KN";
    const KEYS: &'static [&'static str] = &[
        "alg_name",
        "model_name",
        "device",
        "steps",
        "adaptive_threshold",
        "refine",
        "p",
        "max_neurons",
        "mode",
        "lambda_1",
        "lambda_2",
        "batch_size",
        "lr_scale",
        "n_toks",
        "max_length",
        "model_parallel",
    ];

    fn check(&self) -> std::result::Result<(), String> {
        at_least_one(&[("steps", self.steps), ("max_neurons", self.max_neurons.unwrap_or(1))])?;
        zero_or_more(&[("lambda_1", self.lambda_1), ("lambda_2", self.lambda_2)])?;
        below_one(&[("adaptive_threshold", self.adaptive_threshold), ("p", self.p)])
    }
}

impl KnHparams {
    /// Values by rule: those EasyEdit uses for GPT-2 XL, which do not depend on the model, with the paper's weights of the embeddings.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        Self {
            alg_name: Self::METHOD.to_owned(),
            model_name: spec.name.clone(),
            device: Value::from(0),
            steps: 20,
            adaptive_threshold: 0.2,
            refine: false,
            p: shared_by(),
            max_neurons: None,
            mode: KnMode::Edit,
            lambda_1: lambda_1(),
            lambda_2: lambda_2(),
            batch_size: 1,
            lr_scale: Value::Null,
            n_toks: Value::Null,
            max_length: hparams_defaults::max_length(),
            model_parallel: false,
        }
    }
}
