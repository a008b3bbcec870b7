//! The value with which the model gives an answer.

use burn::tensor::{Tensor, TensorData, activation};
use easyedit_core::tokens::{TargetTokens, encode_with_target};
use easyedit_core::{Capture, EditRequest, Error, LanguageModel, Module, Pass, Result, Site, TokenBatch, tensor_values};
use easyedit_kernels::{Adam, AdamConfig, target_likelihood};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::codebook::Replacement;
use crate::hparams::{GraceHparams, ValueStart};

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

/// A request's prompt and answer up to the layer, from where on a value is tried.
struct Start {
    pass: Pass,
    /// Behind the layer, without the MLP's output where the value will stand: `[tokens, d_model]`.
    hidden: Tensor<2>,
    /// 1 where the value stands: `[tokens, 1]`.
    places: Tensor<2>,
    /// Positions that predict the answer's tokens.
    predicting: Vec<usize>,
    /// Key and output of the MLP at the prompt's last token.
    key: Vec<f32>,
    output: Vec<f32>,
}

/// Finds the value for the MLP of `layer` with which `model` answers `request`. Of all values tried, the one of the smallest loss counts.
///
/// # Errors
///
/// If the prompt or the answer has no tokens, or the loss is not finite.
pub(crate) fn find(model: &dyn LanguageModel, request: &EditRequest, layer: usize, hparams: &GraceHparams, seed: u64) -> Result<Found> {
    let tokens = encode_with_target(model, &request.filled_prompt(), &request.target_new).map_err(|e| request.error(e.to_string()))?;
    let start = Start::new(model, &tokens, layer, hparams.replacement)?;
    let width = start.output.len();
    let mut value: Vec<f64> = match hparams.val_init {
        ValueStart::Warm => start.output.iter().map(|v| f64::from(*v)).collect(),
        ValueStart::Cold => {
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (request.case_id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            (0..width).map(|_| rng.random::<f64>()).collect()
        }
    };
    let mut adam = Adam::new(width, AdamConfig { lr: hparams.edit_lr, ..ADAM });
    let mut best: Option<(f64, bool, Vec<f32>)> = None;
    let mut losses = Vec::new();
    for step in 0..=hparams.n_iter {
        let tried: Vec<f32> = value.iter().map(|v| *v as f32).collect();
        let (loss, predicted, gradient) = start.attempt(model, layer, &tokens, &tried, step < hparams.n_iter)?;
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

impl Start {
    fn new(model: &dyn LanguageModel, tokens: &TargetTokens, layer: usize, replacement: Replacement) -> Result<Self> {
        let device = model.device();
        let (input, end) = (tokens.input(), tokens.start - 1);
        // A value at the last token alone cannot reach those before it: they are run once, through all layers.
        let prefix = if replacement == Replacement::ReplaceLast { end } else { 0 };
        let begin = |row: &[u32]| -> Result<Pass> {
            model.start(&[tokens.source.as_slice()], TokenBatch::new(&[row])?)?.with_prompts(vec![tokens.start])
        };
        let mut pass = match prefix {
            0 => begin(input)?,
            _ => {
                let mut before = begin(&input[..prefix])?.keeping();
                model.hidden(&mut before, &mut ())?;
                Pass::after(TokenBatch::new(&[&input[prefix..]])?, before.into_cache()?, &device)?
            }
        };
        let sites = [Module::MlpKey, Module::MlpOutput].map(|module| Site::new(layer, module));
        let mut capture = Capture::new(sites);
        let hidden = model.embed(&pass)?;
        let hidden = model.run_layers(hidden, 0..layer + 1, &mut pass, &mut capture)?;
        let [Some(keys), Some(outputs)] = sites.map(|site| capture.take(site)) else {
            return Err(Error::Batch(format!("the model does not show the activations of layer {layer}'s MLP")));
        };
        let (last, count) = (end - prefix, input.len() - prefix);
        let places: Vec<f32> = (0..count).map(|place| if place <= last { 1.0 } else { 0.0 }).collect();
        let places = Tensor::<2>::from_data(TensorData::new(places, [count, 1]), &device);
        let at_end = |tensor: Tensor<2>| tensor_values(&model.rows_of(tensor, &[last]));
        Ok(Self {
            pass,
            hidden: hidden - outputs.clone() * places.clone(),
            places,
            predicting: tokens.predicting().map(|token| token - prefix).collect(),
            key: at_end(keys)?,
            output: at_end(outputs)?,
        })
    }

    /// Loss under `value`, whether the answer is predicted, and the gradient if it is wanted.
    fn attempt(
        &self,
        model: &dyn LanguageModel,
        layer: usize,
        tokens: &TargetTokens,
        value: &[f32],
        with_gradient: bool,
    ) -> Result<(f64, bool, Option<Vec<f64>>)> {
        let values = Tensor::<2>::from_data(TensorData::new(value.to_vec(), [1, value.len()]), &model.device());
        let tracked = if with_gradient { Tensor::from_inner(values).require_grad() } else { values };
        let constant = |tensor: &Tensor<2>| if with_gradient { Tensor::from_inner(tensor.clone()) } else { tensor.clone() };
        let hidden = constant(&self.hidden) + constant(&self.places).matmul(tracked.clone());
        let end = model.run_layers(hidden, layer + 1..model.spec().n_layers, &mut self.pass.clone(), &mut ())?;
        let logits = model.logits(end, &self.predicting)?;
        let count = self.predicting.len();
        let weights = vec![1.0 / count as f32; count];
        let loss = target_likelihood(&activation::log_softmax(logits.clone().inner(), 1), tokens.target(), &weights)?;
        let nll = -loss.log_probs.iter().map(|p| f64::from(*p)).sum::<f64>() / count as f64;
        let predicted = loss.predicted.iter().all(|predicted| *predicted);
        if !with_gradient {
            return Ok((nll, predicted, None));
        }
        let gradients = (logits * Tensor::from_inner(loss.slope)).sum().backward();
        let gradient = tracked.grad(&gradients).ok_or_else(|| Error::Batch("the MLP's output has no influence on the answer".into()))?;
        Ok((nll, predicted, Some(tensor_values(&gradient)?.into_iter().map(f64::from).collect())))
    }
}
