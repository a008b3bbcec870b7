use easyedit_core::tokens::FactToken;
use easyedit_core::{Hparams, ModelSpec};
use easyedit_kernels::{ValueConfig, ValueSite, above_zero, at_least_one, at_most, ceilings, layers_within, zero_or_more};
use serde::{Deserialize, Serialize};

/// Hyperparameters of NEWMETHOD.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewMethodHparams {
    /// Always `NEWMETHOD`.
    pub alg_name: String,
    /// The layer that is edited, of which there is one.
    pub layers: Vec<usize>,
    /// Token that carries the fact.
    #[serde(default)]
    pub fact_token: FactToken,
    /// Steps of the search for δ, at most.
    pub v_num_grad_steps: usize,
    /// Learning rate of the search, in units of the value.
    #[serde(deserialize_with = "easyedit_core::number")]
    pub v_lr: f64,
    /// Weight of δ's size in the loss.
    #[serde(deserialize_with = "easyedit_core::number")]
    pub v_weight_decay: f64,
    /// δ is kept below this many times the size of the value.
    #[serde(deserialize_with = "easyedit_core::number")]
    pub clamp_norm_factor: f64,
    /// Weight of what keeps the subject what it is.
    #[serde(deserialize_with = "easyedit_core::number")]
    pub kl_factor: f64,
}

impl Hparams for NewMethodHparams {
    const METHOD: &'static str = "NEWMETHOD";
    const KEYS: &'static [&'static str] =
        &["alg_name", "layers", "fact_token", "v_num_grad_steps", "v_lr", "v_weight_decay", "clamp_norm_factor", "kl_factor"];

    fn check(&self) -> Result<(), String> {
        if self.layers.len() != 1 {
            return Err(format!("layers is {:?}; name the one layer to edit", self.layers));
        }
        layers_within("layers", &self.layers)?;
        at_least_one(&[("v_num_grad_steps", self.v_num_grad_steps)])?;
        at_most(&[("v_num_grad_steps", self.v_num_grad_steps)], ceilings::STEPS)?;
        at_most(&[("v_lr", self.v_lr)], ceilings::RATE)?;
        above_zero(&[("v_lr", self.v_lr), ("clamp_norm_factor", self.clamp_norm_factor)])?;
        let weights = [("v_weight_decay", self.v_weight_decay), ("kl_factor", self.kl_factor)];
        at_most(&[("clamp_norm_factor", self.clamp_norm_factor)], ceilings::WEIGHT)?;
        at_most(&weights, ceilings::WEIGHT)?;
        zero_or_more(&weights)
    }
}

impl NewMethodHparams {
    /// Values by rule, for a model no file exists for: the layer at 5/32 of the depth.
    pub fn for_spec(spec: &ModelSpec) -> Self {
        Self {
            alg_name: Self::METHOD.to_owned(),
            layers: vec![spec.n_layers * 5 / 32],
            fact_token: FactToken::SubjectLast,
            v_num_grad_steps: 25,
            v_lr: 0.1,
            v_weight_decay: 1e-3,
            clamp_norm_factor: 4.0,
            kl_factor: 0.0625,
        }
    }

    /// How δ is searched for.
    pub(crate) fn value_config(&self) -> ValueConfig {
        ValueConfig {
            steps: self.v_num_grad_steps,
            lr: self.v_lr,
            betas: [0.9, 0.999],
            weight_decay: self.v_weight_decay,
            clamp_norm_factor: self.clamp_norm_factor,
            kl_factor: self.kl_factor,
            loss_threshold: 5e-2,
            site: ValueSite::MlpOutput,
            nll_factor: 1.0,
            once_predicted: None,
        }
    }
}
