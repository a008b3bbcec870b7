use easyedit_core::{Matrix, Result};
use serde::{Deserialize, Serialize};

use crate::FactActivations;

/// What is optimised at the fact token of a layer. The size of a change is measured against the activation that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueSite {
    /// The MLP's output, as ROME does.
    MlpOutput,
    /// The block's output, the hidden state behind the layer, as MEMIT does. A change of it acts as one of the MLP's output.
    BlockOutput,
    /// The outputs of MLP and attention, each with a change of its own, as PMET does.
    MlpAndAttentionOutput,
}

impl ValueSite {
    /// The activations that changes are added to, one matrix of `[contexts, d_model]` each; the MLP's or block's first.
    pub(crate) fn changed(self, activations: &FactActivations) -> Vec<&Matrix> {
        match self {
            Self::MlpOutput => vec![&activations.mlp_outputs],
            Self::BlockOutput => vec![&activations.block_outputs],
            Self::MlpAndAttentionOutput => vec![&activations.mlp_outputs, &activations.attention_outputs],
        }
    }

    /// Whether the optimisation runs the layer itself, and not only those above it.
    pub(crate) fn is_inside_layer(self) -> bool {
        self == Self::MlpAndAttentionOutput
    }
}

/// What changes once the model predicts every token of the target in every context.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OncePredicted {
    /// Factor of the likelihood's part of the loss from then on.
    pub nll_factor: f64,
    /// The optimisation ends when the weighted divergence is below it.
    pub kl_threshold: f64,
}

/// Settings of [`optimize_values`](crate::optimize_values).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueConfig {
    /// Passes at most; the last one is not followed by an update.
    pub steps: usize,
    /// Learning rate of Adam.
    pub lr: f64,
    /// Adam's decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Weight of ‖δ‖ / ‖initial value‖².
    pub weight_decay: f64,
    /// ‖δ‖ is kept below this many times ‖initial value‖.
    pub clamp_norm_factor: f64,
    /// Weight of the divergence that keeps the subject's essence.
    pub kl_factor: f64,
    /// Optimisation ends when the loss is below it.
    pub loss_threshold: f64,
    /// What `initial value` stands for.
    pub site: ValueSite,
    /// Weight of the likelihood.
    pub nll_factor: f64,
    /// Whether predicting the target changes the loss (PMET).
    pub once_predicted: Option<OncePredicted>,
}

/// What the loss reads from the contexts of a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValueTargets {
    /// Per context, the tokens to predict: (index of the token that predicts, id to predict).
    pub predictions: Vec<Vec<(usize, u32)>>,
    /// Context whose next-token distribution at its fact token shall stay as it is; it is none of those that predict.
    pub keep: Option<usize>,
}

/// The parts of the loss in one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLoss {
    /// Sum of the parts.
    pub total: f64,
    /// Weighted mean negative log-likelihood of the target over the contexts, in nats.
    pub nll: f64,
    /// Weighted divergence of the kept distribution.
    pub kl: f64,
    /// Weighted size of δ.
    pub weight_decay: f64,
}

/// What the optimisation found for a request.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizedValue {
    /// The value at the fact token of the first context, before, at the site the settings name: `[d_model]`.
    pub initial: Vec<f64>,
    /// What was added to it: `[d_model]`.
    pub delta: Vec<f64>,
    /// What was added to the attention's output, where the site has a change of its own there: `[d_model]`.
    pub attention_delta: Option<Vec<f64>>,
    /// The loss of every pass.
    pub losses: Vec<StepLoss>,
}

impl OptimizedValue {
    /// The value v*: initial plus δ.
    pub fn value(&self) -> Vec<f64> {
        self.initial.iter().zip(&self.delta).map(|(a, b)| a + b).collect()
    }

    /// ‖initial‖ and ‖δ‖.
    pub fn norms(&self) -> [f64; 2] {
        [norm(&self.initial), norm(&self.delta)]
    }
}

/// The first row of a matrix.
pub(crate) fn first_row(values: &Matrix) -> Result<Vec<f64>> {
    let width = values.shape()[1];
    let row = values.values().get(..width).ok_or_else(|| easyedit_core::Error::Batch("there are no contexts".into()))?;
    Ok(row.iter().map(|v| f64::from(*v)).collect())
}

pub(crate) fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}
