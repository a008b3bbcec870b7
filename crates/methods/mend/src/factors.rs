use burn::tensor::{Gradients, Tensor};
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{Error, LanguageModel, Parameter, Probe, Result, Site, Stack, tensor_values};

use crate::inner::InnerWeights;
use crate::losses::{Likelihood, likelihoods, log_probs};
use crate::rows::Rows;

/// The factors of the gradient of one weight, token by token: the gradient is the sum over tokens of δ xᵀ. Rows of `x` and `delta` are the
/// tokens at which neither is zero, those of the first edit first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WeightFactors {
    /// `[in, out]`
    pub(crate) widths: [usize; 2],
    /// Inputs of the weight, row-major.
    pub(crate) x: Vec<f32>,
    /// Gradients of the loss by its outputs, row-major.
    pub(crate) delta: Vec<f32>,
    /// Tokens of each edit.
    pub(crate) tokens: Vec<usize>,
}

/// Factors with as many tokens for each edit: those of the longest.
pub(crate) struct Padded {
    pub(crate) tokens: usize,
    pub(crate) x: Vec<f32>,
    pub(crate) delta: Vec<f32>,
    /// 1 for each token, 0 for what fills an edit up.
    pub(crate) real: Vec<f32>,
}

impl WeightFactors {
    /// Number of edits.
    pub(crate) fn edits(&self) -> usize {
        self.tokens.len()
    }

    /// `None` if there are no tokens.
    pub(crate) fn padded(&self) -> Option<Padded> {
        let tokens = self.tokens.iter().copied().max().filter(|tokens| *tokens > 0)?;
        let [d_in, d_out] = self.widths;
        let places = self.edits() * tokens;
        let mut padded = Padded {
            tokens,
            x: Vec::with_capacity(places * d_in),
            delta: Vec::with_capacity(places * d_out),
            real: Vec::with_capacity(places),
        };
        let (mut x, mut delta) = (self.x.as_slice(), self.delta.as_slice());
        for (edit, count) in self.tokens.iter().enumerate() {
            let (of_x, rest_x) = x.split_at((count * d_in).min(x.len()));
            let (of_delta, rest_delta) = delta.split_at((count * d_out).min(delta.len()));
            (x, delta) = (rest_x, rest_delta);
            let places = (edit + 1) * tokens;
            padded.x.extend_from_slice(of_x);
            padded.x.resize(places * d_in, 0.0);
            padded.delta.extend_from_slice(of_delta);
            padded.delta.resize(places * d_out, 0.0);
            padded.real.resize(padded.real.len() + count, 1.0);
            padded.real.resize(places, 0.0);
        }
        Some(padded)
    }
}

/// The factors of some edits.
pub(crate) struct Factors {
    /// In the order of the inner weights.
    pub(crate) of_weights: Vec<WeightFactors>,
    /// How likely the targets of each edit are before it.
    pub(crate) before: Vec<Likelihood>,
}

/// The factors of each edit: `edits` are the rows that define them. The loss is the sum over edits of the mean over an edit's target tokens,
/// so that no edit sees another.
///
/// # Source
///
/// Mitchell et al. 2022, section 3.1 and equation 2.
///
/// # Errors
///
/// If a row does not fit the model, or the device fails.
pub(crate) fn factors(model: &dyn LanguageModel, inner: &InnerWeights, edits: &[&[TargetTokens]]) -> Result<Factors> {
    let rows: Vec<(usize, &TargetTokens)> =
        edits.iter().enumerate().flat_map(|(edit, rows)| rows.iter().map(move |row| (edit, row))).collect();
    let rows = Rows::new(model, inner, &rows)?;
    let targets = rows.targets(0..rows.len());
    let mut capture = Capture { inner, seen: vec![None; inner.len()] };
    let logits = rows.logits(model, &mut capture, &targets.positions)?;
    let (before, slope) = likelihoods(&log_probs(&logits), &targets, &vec![1.0; edits.len()])?;
    if !logits.is_autodiff() {
        return Err(Error::hparams("inner_params: none of the weights has an influence on the targets"));
    }
    let gradients = (logits * Tensor::from_inner(slope)).sum().backward();
    let seen = capture.seen.into_iter().zip(inner.weights());
    let of_weights = seen.map(|(seen, weight)| of_weight(weight, seen, &gradients, &rows, edits.len()));
    Ok(Factors { of_weights: of_weights.collect::<Result<_>>()?, before })
}

/// Keeps the inputs of the inner weights, and puts a zero beside their outputs whose gradient is that of the output.
struct Capture<'a> {
    inner: &'a InnerWeights,
    seen: Vec<Option<(Tensor<2>, Tensor<2>)>>,
}

impl Probe for Capture<'_> {
    fn at(&mut self, _: Site, activations: Tensor<2>) -> Tensor<2> {
        activations
    }

    fn wants_linear(&self, parameter: &Parameter) -> bool {
        self.inner.number(parameter).is_some()
    }

    fn linear(&mut self, parameter: &Parameter, input: &Tensor<2>, output: Tensor<2>) -> Tensor<2> {
        let Some(seen) = self.inner.number(parameter).and_then(|number| self.seen.get_mut(number)) else { return output };
        let input = if input.is_autodiff() { input.clone().inner() } else { input.clone() };
        let plain = if output.is_autodiff() { output.clone().inner() } else { output.clone() };
        let zero = Tensor::from_inner(plain.zeros_like()).require_grad();
        *seen = Some((input, zero.clone()));
        let output = if output.is_autodiff() { output } else { Tensor::from_inner(output) };
        output + zero
    }
}

/// The factors of a weight at the tokens where both are other than zero. In the last block only the predicting positions have a gradient.
fn of_weight(
    weight: &Parameter,
    seen: Option<(Tensor<2>, Tensor<2>)>,
    gradients: &Gradients,
    rows: &Rows,
    edits: usize,
) -> Result<WeightFactors> {
    let widths = weight.widths().unwrap_or_default();
    let mut factors = WeightFactors { widths, x: Vec::new(), delta: Vec::new(), tokens: vec![0; edits] };
    let Some((input, zero)) = seen else { return Ok(factors) };
    let Some(gradient) = zero.grad(gradients) else { return Ok(factors) };
    let (x, delta) = (tensor_values(&input)?, tensor_values(&gradient)?);
    let owners = if weight.stack == Stack::Encoder { rows.source_owners() } else { rows.owners() };
    let is_zero = |values: &[f32]| values.iter().all(|value| *value == 0.0);
    for ((x, delta), owner) in x.chunks_exact(widths[0].max(1)).zip(delta.chunks_exact(widths[1].max(1))).zip(owners) {
        if let Some(tokens) = factors.tokens.get_mut(*owner).filter(|_| !is_zero(x) && !is_zero(delta)) {
            *tokens += 1;
            factors.x.extend_from_slice(x);
            factors.delta.extend_from_slice(delta);
        }
    }
    Ok(factors)
}
