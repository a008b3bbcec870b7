use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::{Ceiling, at_least_one, at_most, below_one, ceilings, hparams_defaults, templates_within, zero_or_more};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Terms of the sum that stands for the integral.
const STEPS: Ceiling<usize> = Ceiling { most: 1000, reason: "every term runs each layer of the model there and back" };
/// Neurons of a request.
const NEURONS: Ceiling<usize> = Ceiling { most: 10_000_000, reason: "no model has more" };

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

/// Hyperparameters of KN. The keys and their meaning are EasyEdit's; `lambda_1`, `lambda_2`, `max_neurons`, `mode`,
/// `line_search`, `margin` and `context_template_length_params` are ours.
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
    /// an attribution is the derivative at the activation, times the activation; at most 1000.
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
    /// Whether `lambda_1` and `lambda_2` are scaled by the smallest factor with which the new answer is said; both keep their ratio. `false`
    /// takes them as they are, as the paper and EasyEdit do.
    #[serde(default = "hparams_defaults::yes")]
    pub line_search: bool,
    /// The factor is large enough if every token of the new answer is more probable than any other by this; in nats, 0 or more.
    #[serde(default = "margin", deserialize_with = "easyedit_core::number")]
    pub margin: f64,
    /// Pairs of (tokens, number) of the context templates in which the answer is to be said, beside the bare prompt.
    #[serde(default)]
    pub context_template_length_params: Vec<(usize, usize)>,
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

fn margin() -> f64 {
    1.0
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
        "line_search",
        "margin",
        "context_template_length_params",
        "batch_size",
        "lr_scale",
        "n_toks",
        "max_length",
        "model_parallel",
    ];

    fn check(&self) -> std::result::Result<(), String> {
        at_most(&[("steps", self.steps)], STEPS)?;
        at_most(&[("max_neurons", self.max_neurons.unwrap_or(1))], NEURONS)?;
        at_least_one(&[("steps", self.steps), ("max_neurons", self.max_neurons.unwrap_or(1))])?;
        at_most(&[("batch_size", self.batch_size)], ceilings::BATCH)?;
        at_most(&[("max_length", self.max_length)], ceilings::LENGTH)?;
        templates_within("context_template_length_params", &self.context_template_length_params)?;
        let weights = [("lambda_1", self.lambda_1), ("lambda_2", self.lambda_2), ("margin", self.margin)];
        at_most(&weights, ceilings::WEIGHT)?;
        zero_or_more(&weights)?;
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
            line_search: true,
            margin: margin(),
            context_template_length_params: Vec::new(),
            batch_size: 1,
            lr_scale: Value::Null,
            n_toks: Value::Null,
            max_length: hparams_defaults::max_length(),
            model_parallel: false,
        }
    }
}
