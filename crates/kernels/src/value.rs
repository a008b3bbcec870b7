use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData, activation};
use easyedit_core::{Error, LanguageModel, Matrix, Progress, Result, tensor_values};
use serde::{Deserialize, Serialize};

use crate::row_groups::RowGroups;
use crate::{Adam, AdamConfig, FactStates};

/// ε of Adam; its size matters, because δ starts at 0 with small gradients.
const ADAM_EPSILON: f64 = 1e-8;

/// Whose value is optimised. δ acts on both alike; its size is measured against the one that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueSite {
    /// The MLP's output, as ROME does.
    MlpOutput,
    /// The block's output, the hidden state behind the layer, as MEMIT does.
    BlockOutput,
}

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
    /// What `initial value` stands for.
    pub site: ValueSite,
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
    /// The value at the fact token of the first context, before, at the site the settings name: `[d_model]`.
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
    let contexts = states.keys().shape()[0];
    let lengths: Vec<usize> = (0..contexts).map(|row| states.suffix_length(row)).collect();
    let groups = RowGroups::new(model, &lengths)?;
    let predicting = targets.predictions.iter().filter(|p| !p.is_empty()).count();
    let mut shares =
        groups.rows().iter().map(|rows| Share::new(model, states, targets, rows, predicting)).collect::<Result<Vec<Share>>>()?;
    let initial: Vec<f64> = match config.site {
        ValueSite::MlpOutput => first_row(states.outputs())?,
        ValueSite::BlockOutput => first_row(&states.block_outputs(model)?)?,
    };
    let initial_norm = norm(&initial);
    let mut delta = vec![0.0; initial.len()];
    let mut adam = Adam::new(delta.len(), AdamConfig { lr: config.lr, betas: config.betas, epsilon: ADAM_EPSILON, weight_decay: 0.0 });
    let mut losses = Vec::new();
    progress.begin("optimising the value", Some(config.steps as u64));
    let outcome = (|| -> Result<()> {
        for step in 0..config.steps {
            let passes = groups.run(&mut shares, |share| share.forward(&delta, config.kl_factor))?;
            let delta_norm = norm(&delta);
            let weight_decay = config.weight_decay * delta_norm / initial_norm.powi(2);
            let nll: f64 = by_row(&passes, contexts, |pass| &pass.nll).into_iter().flatten().sum();
            let kl: f64 = passes.iter().map(|pass| pass.kl).sum();
            let total = nll + kl + weight_decay;
            losses.push(StepLoss { total, nll, kl, weight_decay });
            progress.advance(1);
            progress.remark(&format!("loss {total:.3}"));
            if !total.is_finite() {
                return Err(Error::NotFinite(format!("the loss is {total} in step {step} of the value optimisation; lower v_lr")));
            }
            if total < config.loss_threshold || step + 1 == config.steps {
                break;
            }
            let mut work: Vec<_> = shares.iter_mut().zip(passes).collect();
            let slopes = groups.run(&mut work, |(share, pass)| share.backward(pass))?;
            let mut gradient = vec![0.0; delta.len()];
            for slope in by_row(&slopes, contexts, |slopes| slopes).into_iter().flatten() {
                gradient.iter_mut().zip(slope).for_each(|(g, s)| *g += f64::from(*s));
            }
            if step == 0 && gradient.iter().all(|g| *g == 0.0) {
                return Err(Error::Batch(
                    "the fact token has no influence on the target: the model's attention does not reach back that far; \
                     choose another fact_token or a shorter prompt"
                        .into(),
                ));
            }
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

/// What the groups have found per row, in the order of the rows: sums over it do not depend on how the rows were shared out.
fn by_row<'a, S, T>(groups: &'a [S], contexts: usize, found: impl Fn(&'a S) -> &'a PerContext<T>) -> Vec<Option<&'a T>> {
    let mut rows: Vec<Option<&T>> = (0..contexts).map(|_| None).collect();
    for (row, value) in groups.iter().flat_map(found) {
        if let Some(place) = rows.get_mut(*row) {
            *place = Some(value);
        }
    }
    rows
}

/// A group of contexts: where the loss is read in them, and with which weights.
struct Share {
    model: Box<dyn LanguageModel>,
    states: FactStates,
    /// The contexts, by their number among all.
    rows: Vec<usize>,
    /// Positions of the fact tokens.
    facts: Vec<usize>,
    /// 1 at the fact tokens: `[tokens, 1]`.
    at_facts: Tensor<2>,
    /// Positions whose logits are read; the kept distribution's is the last.
    positions: Vec<usize>,
    /// For each predicting position: its context, the id to predict, and its weight in the loss.
    predictions: Vec<(usize, u32, f32)>,
    keep: bool,
    /// The kept distribution before the first step.
    kept: Option<Tensor<2>>,
}

/// Something per context of a group, with the context's number among all.
type PerContext<T> = Vec<(usize, T)>;

/// A pass of a group, kept for the way back.
struct Forward {
    /// Per context, its part of the mean negative log-likelihood.
    nll: PerContext<f64>,
    kl: f64,
    start: Tensor<2>,
    logits: Tensor<2>,
    /// Derivative of the loss by the logits.
    slope: Tensor<2>,
}

impl Share {
    fn new(model: &dyn LanguageModel, states: &FactStates, targets: &ValueTargets, rows: &[usize], predicting: usize) -> Result<Self> {
        let states = states.select(model, rows)?;
        let facts: Vec<usize> = (0..rows.len()).map(|row| states.fact_position(row)).collect();
        let mut mask = vec![0f32; states.suffix_tokens()];
        facts.iter().for_each(|fact| mask[*fact] = 1.0);
        let (mut positions, mut predictions, mut keep) = (Vec::new(), Vec::new(), None);
        for (index, row) in rows.iter().enumerate() {
            let of_row = targets.predictions.get(*row).map(Vec::as_slice).unwrap_or_default();
            for (token, id) in of_row {
                let position = states.position(index, *token).ok_or_else(|| {
                    Error::Batch(format!("token {token} of context {row} predicts the target but comes before the fact token"))
                })?;
                positions.push(position);
                predictions.push((*row, *id, 1.0 / (predicting * of_row.len()) as f32));
            }
            if targets.keep == Some(*row) {
                keep = Some(facts[index]);
            }
        }
        positions.extend(keep);
        let at_facts = Tensor::from_data(TensorData::new(mask, [states.suffix_tokens(), 1]), &model.device());
        let (model, rows, keep) = (model.boxed_clone(), rows.to_vec(), keep.is_some());
        Ok(Self { model, states, rows, facts, at_facts, positions, predictions, keep, kept: None })
    }

    /// Runs the layers above the edit with δ added at the fact tokens, and the loss.
    fn forward(&mut self, delta: &[f64], kl_factor: f64) -> Result<Forward> {
        let values: Vec<f32> = delta.iter().map(|d| *d as f32).collect();
        let delta = Tensor::<2>::from_data(TensorData::new(values, [1, delta.len()]), &self.model.device());
        let start = Tensor::from_inner(self.states.hidden().clone() + self.at_facts.clone() * delta).require_grad();
        let mut pass = self.states.pass();
        let layers = self.states.layer() + 1..self.model.spec().n_layers;
        let end = self.model.run_layers(start.clone(), layers, &mut pass, &mut ())?;
        let logits = self.model.logits(end, &self.positions)?;
        let log_probs = activation::log_softmax(logits.clone().inner(), 1);
        let (nll, slope) = self.likelihood(&log_probs)?;
        let (kl, slope) = match self.keep {
            false => (0.0, slope),
            true => {
                let (kl, kept_slope) = self.divergence(log_probs, kl_factor)?;
                let slopes = slope.into_iter().chain([kept_slope]).collect();
                (kl, Some(Tensor::cat(slopes, 0)))
            }
        };
        let slope = slope.ok_or_else(|| Error::Batch("a group of contexts predicts nothing".into()))?;
        Ok(Forward { nll, kl, start, logits, slope })
    }

    /// Gradient at the fact token of each context: `[d_model]`.
    fn backward(&self, pass: &Forward) -> Result<PerContext<Vec<f32>>> {
        let gradients = (pass.logits.clone() * Tensor::from_inner(pass.slope.clone())).sum().backward();
        let gradient = pass.start.grad(&gradients).ok_or_else(|| Error::Batch("the fact token has no influence on the targets".into()))?;
        let [_, width] = gradient.dims();
        let at_facts = tensor_values(&self.model.rows_of(gradient, &self.facts))?;
        Ok(self.rows.iter().copied().zip(at_facts.chunks_exact(width).map(<[f32]>::to_vec)).collect())
    }

    /// Negative log-likelihood per context, and its derivative by the predicting positions' logits.
    fn likelihood(&self, log_probs: &Tensor<2>) -> Result<(PerContext<f64>, Option<Tensor<2>>)> {
        let count = self.predictions.len();
        if count == 0 {
            return Ok((Vec::new(), None));
        }
        let device = log_probs.device();
        let ids: Vec<i64> = self.predictions.iter().map(|(_, id, _)| i64::from(*id)).collect();
        let weights: Vec<f32> = self.predictions.iter().map(|(.., weight)| *weight).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [count, 1]), &device);
        let weights = Tensor::<2>::from_data(TensorData::new(weights, [count, 1]), &device);
        let predicted = log_probs.clone().narrow(0, 0, count);
        let of_targets = tensor_values(&predicted.clone().gather(1, ids.clone()))?;
        let mut nll: PerContext<f64> = Vec::new();
        for ((row, _, weight), log_prob) in self.predictions.iter().zip(of_targets) {
            let part = -f64::from(log_prob) * f64::from(*weight);
            match nll.last_mut() {
                Some((last, sum)) if last == row => *sum += part,
                _ => nll.push((*row, part)),
            }
        }
        let slope = (predicted.exp() * weights.clone()).scatter(1, ids, -weights, IndexingUpdateOp::Add);
        Ok((nll, Some(slope)))
    }

    /// Weighted divergence of the kept distribution from what it was in the first step, and its derivative by its logits.
    fn divergence(&mut self, log_probs: Tensor<2>, kl_factor: f64) -> Result<(f64, Tensor<2>)> {
        let now = log_probs.narrow(0, self.predictions.len(), 1);
        let before = self.kept.get_or_insert_with(|| now.clone()).clone();
        let ratio = now.clone() - before;
        let probs = now.exp();
        let divergence = f64::from(scalar(&(probs.clone() * ratio.clone()).sum())?);
        Ok((kl_factor * divergence, probs * (ratio - divergence) * kl_factor))
    }
}

fn scalar(tensor: &Tensor<1>) -> Result<f32> {
    tensor_values(&tensor.clone().cast(DType::F32))?
        .first()
        .copied()
        .ok_or_else(|| Error::Batch("the device gave back an empty tensor".into()))
}

fn first_row(values: &Matrix) -> Result<Vec<f64>> {
    let width = values.shape()[1];
    let row = values.values().get(..width).ok_or_else(|| Error::Batch("there are no contexts".into()))?;
    Ok(row.iter().map(|v| f64::from(*v)).collect())
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}
