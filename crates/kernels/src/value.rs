use burn::tensor::{DType, Int, Tensor, TensorData, activation};
use easyedit_core::{Error, LanguageModel, Progress, Result, tensor_values};
use serde::{Deserialize, Serialize};

use crate::FactStates;
use crate::adam::Adam;

/// ε of Adam; its size matters, because δ starts at 0 with small gradients.
const ADAM_EPSILON: f64 = 1e-8;

/// Settings of [`optimize_value`].
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
}

/// What the loss reads from the batch of contexts.
#[derive(Clone, Debug, PartialEq)]
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
    /// Mean negative log-likelihood of the target over the contexts, in nats.
    pub nll: f64,
    /// Weighted divergence of the kept distribution.
    pub kl: f64,
    /// Weighted size of δ.
    pub weight_decay: f64,
}

/// Result of [`optimize_value`].
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizedValue {
    /// The MLP output at the fact token of the first context, before: `[d_model]`.
    pub initial: Vec<f64>,
    /// What was added to it: `[d_model]`.
    pub delta: Vec<f64>,
    /// The loss of every pass.
    pub losses: Vec<StepLoss>,
}

impl OptimizedValue {
    /// The value v*: initial plus δ.
    pub fn value(&self) -> Vec<f64> {
        self.initial.iter().zip(&self.delta).map(|(a, b)| a + b).collect()
    }
}

/// Finds δ such that, with δ added to the MLP output at every context's fact token, the model predicts the targets.
///
/// Per pass only the suffixes are run, above the edited layer, and only they are differentiated. The gradient enters at the
/// logits in closed form (softmax minus target), so nothing of the vocabulary's size is kept for the backward pass.
///
/// # Errors
///
/// If a predicting token lies before its fact token, or the loss stops being finite.
///
/// # Source
///
/// Meng et al., "Locating and Editing Factual Associations in GPT", equation 4, with the reference implementation's settings (clamp, decay,
/// threshold).
pub fn optimize_value(
    model: &dyn LanguageModel,
    states: &FactStates,
    targets: &ValueTargets,
    config: &ValueConfig,
    progress: &dyn Progress,
) -> Result<OptimizedValue> {
    let objective = Objective::new(model, states, targets)?;
    let initial: Vec<f64> = first_row(states)?;
    let initial_norm = norm(&initial);
    let mut delta = vec![0.0; initial.len()];
    let mut adam = Adam::new(delta.len(), config.lr, config.betas, ADAM_EPSILON);
    let mut kept: Option<Tensor<2>> = None;
    let mut losses = Vec::new();
    progress.begin("optimising the value", Some(config.steps as u64));
    let outcome = (|| -> Result<()> {
        for step in 0..config.steps {
            let hidden = objective.tracked(states.hidden(), &delta);
            let mut pass = states.pass();
            let out = model.run_layers(hidden.clone(), states.layer() + 1..model.spec().n_layers, &mut pass, &mut ())?;
            let logits = model.logits(out, &objective.positions)?;
            let (data_loss, slope) = objective.loss(&logits.clone().inner(), &mut kept, config.kl_factor)?;
            let delta_norm = norm(&delta);
            let weight_decay = config.weight_decay * delta_norm / initial_norm.powi(2);
            let total = data_loss[0] + data_loss[1] + weight_decay;
            losses.push(StepLoss { total, nll: data_loss[0], kl: data_loss[1], weight_decay });
            progress.advance(1);
            progress.remark(&format!("loss {total:.3}"));
            if !total.is_finite() {
                return Err(Error::NotFinite(format!("the loss is {total} in step {step} of the value optimisation; lower v_lr")));
            }
            if total < config.loss_threshold || step + 1 == config.steps {
                break;
            }
            let gradients = (logits * Tensor::from_inner(slope)).sum().backward();
            let gradient = hidden.grad(&gradients).ok_or_else(|| Error::Batch("the fact token has no influence on the targets".into()))?;
            let mut gradient = objective.sum_at_facts(&gradient)?;
            if delta_norm > 0.0 {
                let slope = config.weight_decay / (delta_norm * initial_norm.powi(2));
                gradient.iter_mut().zip(&delta).for_each(|(g, d)| *g += slope * d);
            }
            adam.step(&mut delta, &gradient);
            let limit = config.clamp_norm_factor * initial_norm;
            let size = norm(&delta);
            if size > limit {
                delta.iter_mut().for_each(|d| *d *= limit / size);
            }
        }
        Ok(())
    })();
    progress.end();
    outcome?;
    Ok(OptimizedValue { initial, delta, losses })
}

/// Where the loss is read, and with which weights.
struct Objective<'a> {
    model: &'a dyn LanguageModel,
    facts: Vec<usize>,
    at_facts: Tensor<2>,
    /// Positions whose logits are read; the kept distribution's is the last.
    positions: Vec<usize>,
    target_ids: Vec<u32>,
    weights: Vec<f32>,
    keep: bool,
}

impl<'a> Objective<'a> {
    fn new(model: &'a dyn LanguageModel, states: &FactStates, targets: &ValueTargets) -> Result<Self> {
        let device = model.device();
        let tokens = states.hidden().dims()[0];
        let contexts = states.keys().shape()[0];
        let facts: Vec<usize> = (0..contexts).map(|row| states.fact_position(row)).collect();
        let mut mask = vec![0f32; tokens];
        facts.iter().for_each(|fact| mask[*fact] = 1.0);
        let predicting = targets.predictions.iter().filter(|p| !p.is_empty()).count();
        let (mut positions, mut target_ids, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (row, predictions) in targets.predictions.iter().enumerate() {
            for (token, id) in predictions {
                let position = states.position(row, *token).ok_or_else(|| {
                    Error::Batch(format!("token {token} of context {row} predicts the target but comes before the fact token"))
                })?;
                positions.push(position);
                target_ids.push(*id);
                weights.push(1.0 / (predicting * predictions.len()) as f32);
            }
        }
        if let Some(row) = targets.keep {
            positions.push(*facts.get(row).ok_or_else(|| Error::Batch(format!("there is no context {row}")))?);
        }
        let at_facts = Tensor::from_data(TensorData::new(mask, [tokens, 1]), &device);
        Ok(Self { model, facts, at_facts, positions, target_ids, weights, keep: targets.keep.is_some() })
    }

    /// The states with δ added at the fact tokens, asking for gradients.
    fn tracked(&self, hidden: &Tensor<2>, delta: &[f64]) -> Tensor<2> {
        let values: Vec<f32> = delta.iter().map(|d| *d as f32).collect();
        let delta = Tensor::<2>::from_data(TensorData::new(values, [1, delta.len()]), &self.model.device());
        Tensor::from_inner(hidden.clone() + self.at_facts.clone() * delta).require_grad()
    }

    /// Sum over the fact tokens of a gradient of the states.
    fn sum_at_facts(&self, gradient: &Tensor<2>) -> Result<Vec<f64>> {
        let [_, width] = gradient.dims();
        let rows = tensor_values(&self.model.rows_of(gradient.clone(), &self.facts))?;
        let mut sum = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            sum.iter_mut().zip(row).for_each(|(s, g)| *s += f64::from(*g));
        }
        Ok(sum)
    }

    /// Negative log-likelihood and weighted divergence, and their derivative by the logits.
    fn loss(&self, logits: &Tensor<2>, kept: &mut Option<Tensor<2>>, kl_factor: f64) -> Result<([f64; 2], Tensor<2>)> {
        let [_, vocab] = logits.dims();
        let device = logits.device();
        let log_probs = activation::log_softmax(logits.clone(), 1);
        let count = self.target_ids.len();
        let ids: Vec<i64> = self.target_ids.iter().map(|id| i64::from(*id)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [count, 1]), &device);
        let predicted = log_probs.clone().narrow(0, 0, count);
        let of_targets = tensor_values(&predicted.clone().gather(1, ids.clone()))?;
        let nll = -of_targets.iter().zip(&self.weights).map(|(l, w)| f64::from(*l) * f64::from(*w)).sum::<f64>();
        let weights = Tensor::<2>::from_data(TensorData::new(self.weights.clone(), [count, 1]), &device);
        let slope = (predicted.exp() * weights.clone()).scatter(1, ids, -weights, burn::tensor::IndexingUpdateOp::Add);
        if !self.keep {
            return Ok(([nll, 0.0], slope));
        }
        let now = log_probs.narrow(0, count, 1);
        let before = kept.get_or_insert_with(|| now.clone());
        let ratio = now.clone() - before.clone();
        let probs = now.exp();
        let divergence = f64::from(scalar(&(probs.clone() * ratio.clone()).sum())?);
        let kl_slope = probs * (ratio - divergence) * kl_factor;
        debug_assert_eq!(kl_slope.dims(), [1, vocab]);
        Ok(([nll, kl_factor * divergence], Tensor::cat(vec![slope, kl_slope], 0)))
    }
}

fn scalar(tensor: &Tensor<1>) -> Result<f32> {
    tensor_values(&tensor.clone().cast(DType::F32))?
        .first()
        .copied()
        .ok_or_else(|| Error::Batch("the device gave back an empty tensor".into()))
}

fn first_row(states: &FactStates) -> Result<Vec<f64>> {
    let width = states.outputs().shape()[1];
    let row = states.outputs().values().get(..width).ok_or_else(|| Error::Batch("there are no contexts".into()))?;
    Ok(row.iter().map(|v| f64::from(*v)).collect())
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}
