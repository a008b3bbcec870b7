use burn::tensor::Tensor;
use easyedit_core::{Error, Result};

use super::config::{first_row, norm};
use crate::{Adam, AdamConfig, FactActivations, OptimizedValue, StepLoss, ValueConfig};

/// ε of Adam; its size matters, because δ starts at 0 with small gradients.
const ADAM_EPSILON: f64 = 1e-8;

/// A change that is looked for: of one activation at the fact token.
struct Change {
    initial: Vec<f64>,
    initial_norm: f64,
    delta: Vec<f64>,
    adam: Adam,
}

/// The search for the value of one request: where it stands after so many passes.
pub(crate) struct Search {
    /// The request, by its number among all.
    pub(crate) request: usize,
    /// The kept distribution before the first step, as log-probabilities: `[1, vocabulary]`; known once the request's contexts have been
    /// shared out anew.
    pub(crate) kept: Option<Tensor<2>>,
    changes: Vec<Change>,
    losses: Vec<StepLoss>,
    activations: FactActivations,
}

/// What a pass over all contexts of a request has found.
#[derive(Default)]
pub(crate) struct PassLoss {
    /// Mean negative log-likelihood over the contexts.
    pub(crate) nll: f64,
    /// Divergence of the kept distribution.
    pub(crate) kl: f64,
    /// Whether every token of the target is the most probable one in every context.
    pub(crate) predicted: bool,
}

impl Search {
    pub(crate) fn new(request: usize, activations: FactActivations, config: &ValueConfig) -> Result<Self> {
        let adam = AdamConfig { lr: config.lr, betas: config.betas, epsilon: ADAM_EPSILON, weight_decay: 0.0 };
        let changes = config.site.changed(&activations).into_iter().map(|values| -> Result<Change> {
            let initial = first_row(values)?;
            let size = initial.len();
            Ok(Change { initial_norm: norm(&initial), initial, delta: vec![0.0; size], adam: Adam::new(size, adam) })
        });
        Ok(Self { request, kept: None, changes: changes.collect::<Result<_>>()?, losses: Vec::new(), activations })
    }

    /// The changes as they are now.
    pub(crate) fn deltas(&self) -> Vec<Vec<f32>> {
        self.changes.iter().map(|change| change.delta.iter().map(|d| *d as f32).collect()).collect()
    }

    /// Takes note of a pass. Gives the likelihood's weight for the way back, or `None` if this pass was the last.
    pub(crate) fn passed(&mut self, pass: &PassLoss, config: &ValueConfig) -> Result<Option<f64>> {
        let settled = config.once_predicted.filter(|_| pass.predicted);
        let nll_factor = config.nll_factor * settled.map_or(1.0, |once| once.nll_factor);
        let decay = |change: &Change| config.weight_decay * norm(&change.delta) / change.initial_norm.powi(2);
        let weight_decay: f64 = self.changes.iter().map(decay).sum();
        let (nll, kl) = (nll_factor * pass.nll, config.kl_factor * pass.kl);
        let total = nll + kl + weight_decay;
        let step = self.losses.len();
        self.losses.push(StepLoss { total, nll, kl, weight_decay });
        if !total.is_finite() {
            return Err(Error::NotFinite(format!("the loss is {total} in step {step} of the value optimisation; lower v_lr")));
        }
        let done = total < config.loss_threshold || settled.is_some_and(|once| kl < once.kl_threshold) || step + 1 == config.steps;
        Ok((!done).then_some(nll_factor))
    }

    /// One step against the gradient of the loss without that of the decay; the changes' gradients stand one behind the other.
    pub(crate) fn step(&mut self, gradient: &[f64], config: &ValueConfig) -> Result<()> {
        if self.losses.len() == 1 && gradient.iter().all(|g| *g == 0.0) {
            return Err(Error::Batch(
                "the fact token has no influence on the target: the model's attention does not reach back that far; \
                 choose another fact_token or a shorter prompt"
                    .into(),
            ));
        }
        let width = self.changes.first().map_or(1, |change| change.delta.len());
        for (change, gradient) in self.changes.iter_mut().zip(gradient.chunks_exact(width)) {
            let mut gradient = gradient.to_vec();
            let size = norm(&change.delta);
            if size > 0.0 {
                let slope = config.weight_decay / (size * change.initial_norm.powi(2));
                gradient.iter_mut().zip(&change.delta).for_each(|(g, d)| *g += slope * d);
            }
            change.adam.step(&mut change.delta, &gradient);
            let limit = config.clamp_norm_factor * change.initial_norm;
            let size = norm(&change.delta);
            if size > limit {
                change.delta.iter_mut().for_each(|d| *d *= limit / size);
            }
        }
        Ok(())
    }

    /// The total loss of the last pass.
    pub(crate) fn loss(&self) -> f64 {
        self.losses.last().map_or(f64::NAN, |loss| loss.total)
    }

    /// What was found, and what the layer did at the fact tokens before.
    pub(crate) fn finish(mut self) -> (OptimizedValue, FactActivations) {
        let attention_delta = (self.changes.len() > 1).then(|| self.changes.pop().map(|change| change.delta)).flatten();
        let (initial, delta) = self.changes.pop().map(|change| (change.initial, change.delta)).unwrap_or_default();
        (OptimizedValue { initial, delta, attention_delta, losses: self.losses }, self.activations)
    }
}
