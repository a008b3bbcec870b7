use std::collections::BTreeMap;

use burn::tensor::Tensor;
use easyedit_core::{HostTensor, Result};
use serde_json::Value;

use crate::{Batch, Split};

/// Something that learns to edit: the loop's only view of a method.
///
/// # Contract
///
/// - [`step`](Self::step) is a function of parameters, state and batch. What it draws at random comes from [`Batch::rng`].
/// - Only a training step changes the state, and no step changes a parameter: the loop does, through [`set_parameter`](Self::set_parameter).
/// - [`state`](Self::state) holds all parameters and everything else that a step depends on (statistics, counters).
pub trait MetaLearner {
    /// Name of the method, for logs and errors.
    fn name(&self) -> &str;

    /// What a run depends on beside the loop's own settings: hyperparameters, fingerprints of data and base model. A run is resumed only
    /// where this is the same; it is a JSON object whose keys are named in the error.
    ///
    /// # Errors
    ///
    /// If a fingerprint cannot be computed.
    fn identity(&self) -> Result<Value>;

    /// Number of examples of a set.
    fn examples(&self, split: Split) -> usize;

    /// Every key of the metrics that [`step`](Self::step) reports, without `_train` or `_val`.
    fn metric_keys(&self) -> Vec<String>;

    /// All parameters, in groups with their own rates. A name stands in one group only.
    fn groups(&self) -> Vec<ParameterGroup>;

    /// A parameter of [`groups`](Self::groups), on a plain device; a vector is one row.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](easyedit_core::Error::Tensor) if there is no such parameter.
    fn parameter(&self, name: &str) -> Result<Tensor<2>>;

    /// Replaces a parameter by one of the same shape.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](easyedit_core::Error::Tensor) if there is no such parameter, or the shape differs.
    fn set_parameter(&mut self, name: &str, value: Tensor<2>) -> Result<()>;

    /// Losses and metrics of a batch; in training, the gradient of the loss by the parameters too, and statistics take the batch in. Outside
    /// of training nothing is changed, and there are no gradients.
    ///
    /// # Errors
    ///
    /// If the device fails, or an example does not fit. Losses that are not finite are no error: the loop skips the batch.
    fn step(&mut self, batch: &Batch, training: bool) -> Result<StepReport>;

    /// Parameters and statistics by the names of the method's file format.
    ///
    /// # Errors
    ///
    /// If the device cannot give a tensor back.
    fn state(&self) -> Result<BTreeMap<String, HostTensor>>;

    /// Takes over what [`state`](Self::state) has given.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](easyedit_core::Error::Tensor) naming a tensor that is missing or misshapen.
    fn load_state(&mut self, state: &BTreeMap<String, HostTensor>) -> Result<()>;

    /// What stands in the trained file beside the tensors: settings and fingerprints that a user of the file has to fit.
    ///
    /// # Errors
    ///
    /// As [`identity`](Self::identity).
    fn facts(&self) -> Result<Value> {
        self.identity()
    }
}

/// Parameters that share a learning rate.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterGroup {
    /// Name of the group, for logs.
    pub name: String,
    /// Names of its parameters.
    pub parameters: Vec<String>,
    /// Learning rate before the schedule; 0 or more.
    pub lr: f64,
    /// Weight decay: of Adam added to the gradient, of AdamW taken off the value; 0 for none.
    pub weight_decay: f64,
}

/// What a step on a batch gives.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// Losses and metrics by key (`loss/edit`, `edit/acc`). `loss/total` is the one whose gradient is given.
    pub metrics: BTreeMap<String, Metric>,
    /// Gradients by parameter, on a plain device. A parameter without one has the gradient 0. Empty outside of training.
    pub gradients: BTreeMap<String, Tensor<2>>,
}

impl StepReport {
    /// Adds a metric that weighs as much as that of any other batch.
    pub fn put(&mut self, key: impl Into<String>, value: f64) {
        self.metrics.insert(key.into(), Metric { value, weight: 1.0 });
    }

    /// Adds a metric that is a mean over `weight` things, and is averaged over batches accordingly.
    pub fn put_mean(&mut self, key: impl Into<String>, value: f64, weight: usize) {
        self.metrics.insert(key.into(), Metric { value, weight: weight as f64 });
    }
}

/// A number of a batch, and its weight in averages over batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// The number.
    pub value: f64,
    /// Its weight; above 0.
    pub weight: f64,
}
