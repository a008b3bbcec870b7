//! The value with which the model gives an answer.

use burn::tensor::{Tensor, TensorData, activation};
use easyedit_core::tokens::{TargetTokens, encode_with_target};
use easyedit_core::{CheckedRequest, Error, LanguageModel, Result, Session, tensor_values};
use easyedit_kernels::{Adam, AdamConfig, target_likelihood};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::codebook::Rules;
use crate::hparams::{GraceHparams, ValueStart};
use crate::start::Start;

const ADAM: AdamConfig = AdamConfig { lr: 0.0, betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.0 };

/// Key and value of one request.
pub(crate) struct Found {
    pub(crate) key: Vec<f32>,
    pub(crate) value: Vec<f32>,
    /// Mean negative log-likelihood of the answer's tokens before each step, and behind the last.
    pub(crate) losses: Vec<f64>,
    /// Whether the model predicts every token of the answer under the value.
    pub(crate) predicted: bool,
}

/// Finds the value with which `model` answers `request`, for the MLP beside which `rules` put the codebook. Of all values tried, the one of the smallest loss counts.
///
/// # Errors
///
/// If the prompt or the answer has no tokens, or the loss is not finite; [`Error::Cancelled`].
pub(crate) fn find(
    model: &dyn LanguageModel,
    request: &CheckedRequest,
    rules: Rules,
    hparams: &GraceHparams,
    session: &Session,
) -> Result<Found> {
    let tokens = encode_with_target(model, request.prompt(), request.target_new()).map_err(|e| request.error(e.to_string()))?;
    let start = Start::new(model, &tokens, rules)?;
    let width = start.output.len();
    let mut value: Vec<f64> = match hparams.val_init {
        ValueStart::Warm => start.output.iter().map(|v| f64::from(*v)).collect(),
        ValueStart::Cold => {
            let mut rng = ChaCha8Rng::seed_from_u64(session.seed() ^ (request.case_id() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            (0..width).map(|_| rng.random::<f64>()).collect()
        }
    };
    let mut adam = Adam::new(width, AdamConfig { lr: hparams.edit_lr, ..ADAM });
    let mut best: Option<(f64, bool, Vec<f32>)> = None;
    let mut losses = Vec::new();
    for step in 0..=hparams.n_iter {
        session.progress().check()?;
        let tried: Vec<f32> = value.iter().map(|v| *v as f32).collect();
        let (loss, predicted, gradient) = attempt(model, &start, &tokens, &tried, step < hparams.n_iter)?;
        if !loss.is_finite() {
            return Err(request.error(format!("the loss is {loss} in step {step} of the search for a value; lower edit_lr")));
        }
        losses.push(loss);
        if best.as_ref().is_none_or(|(least, ..)| loss < *least) {
            best = Some((loss, predicted, tried));
        }
        match gradient {
            Some(gradient) if !(predicted && loss < hparams.loss_threshold) => adam.step(&mut value, &gradient),
            _ => break,
        }
    }
    let (_, predicted, value) = best.ok_or_else(|| request.error("no value was tried"))?;
    Ok(Found { key: start.key, value, losses, predicted })
}

/// Loss under `value`, whether the answer is predicted, and the gradient if it is wanted.
fn attempt(
    model: &dyn LanguageModel,
    start: &Start,
    tokens: &TargetTokens,
    value: &[f32],
    with_gradient: bool,
) -> Result<(f64, bool, Option<Vec<f64>>)> {
    let values = Tensor::<2>::from_data(TensorData::new(value.to_vec(), [1, value.len()]), &model.device());
    let tracked = if with_gradient { Tensor::from_inner(values).require_grad() } else { values };
    let logits = start.logits(model, tracked.clone())?;
    let [count, _] = logits.dims();
    let weights = vec![1.0 / count as f32; count];
    let log_probs = activation::log_softmax(if with_gradient { logits.clone().inner() } else { logits.clone() }, 1);
    let loss = target_likelihood(&log_probs, tokens.target(), &weights)?;
    let nll = -loss.log_probs.iter().map(|p| f64::from(*p)).sum::<f64>() / count as f64;
    let predicted = loss.predicted.iter().all(|predicted| *predicted);
    if !with_gradient {
        return Ok((nll, predicted, None));
    }
    let gradients = (logits * Tensor::from_inner(loss.slope)).sum().backward();
    let gradient = tracked.grad(&gradients).ok_or_else(|| Error::Batch("the MLP's output has no influence on the answer".into()))?;
    Ok((nll, predicted, Some(tensor_values(&gradient)?.into_iter().map(f64::from).collect())))
}
