//! Losses of the training, and what is measured beside them.

use burn::tensor::{Int, Tensor, TensorData, activation};
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{Error, LanguageModel, Matrix, Result, TokenBatch, TokenRow, TokenSlice, tensor_values};
use easyedit_kernels::target_likelihood;

use crate::mixture::EPSILON;

/// Predictions of the targets of several rows.
pub(crate) struct Predictions {
    /// `[positions, vocabulary]`, all rows' positions one after the other; in the graph of the model's weights if they are tracked.
    pub(crate) logits: Tensor<2>,
    /// The targets.
    pub(crate) ids: Vec<u32>,
    /// Positions of each row.
    pub(crate) lengths: Vec<usize>,
}

impl Predictions {
    /// Runs rows, each without its last token.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there are no rows, or one is longer than the model's positions.
    pub(crate) fn of(model: &dyn LanguageModel, rows: &[&TargetTokens]) -> Result<Self> {
        if let Some(longest) = rows.iter().map(|row| row.longest()).max().filter(|longest| *longest > model.spec().max_positions) {
            return Err(Error::Batch(format!(
                "a row of {longest} tokens is beyond the {} positions of {}; leave out the longest records",
                model.spec().max_positions,
                model.spec().name
            )));
        }
        let batch = TokenBatch::new(&rows.iter().map(|row| row.input()).collect::<Vec<TokenSlice<'_>>>())?;
        let places = rows.iter().enumerate().flat_map(|(row, tokens)| tokens.predicting().map(move |token| (row, token)));
        let positions: Vec<usize> = places.map(|(row, token)| batch.index(row, token)).collect();
        let sources: Vec<&TokenRow> = rows.iter().map(|row| &row.source).collect();
        let hidden = model.hidden(&mut model.start(&sources, batch)?, &mut ())?;
        Ok(Self {
            logits: model.logits(hidden, &positions)?,
            ids: rows.iter().flat_map(|row| row.target()).copied().collect(),
            lengths: rows.iter().map(|row| row.target().len()).collect(),
        })
    }

    /// The same without gradients.
    pub(crate) fn plain(self) -> Self {
        let logits = if self.logits.is_autodiff() { self.logits.inner() } else { self.logits };
        Self { logits, ..self }
    }
}

/// How well targets were predicted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answers {
    /// Mean negative log-likelihood of a token.
    pub(crate) nll: f64,
    /// Share of the tokens that were the most probable ones.
    pub(crate) accuracy: f64,
    /// Whether each row's whole target was.
    pub(crate) exact: Vec<bool>,
    /// Tokens.
    pub(crate) tokens: usize,
}

/// The token mean of the negative log-likelihood, and a scalar whose gradient is `weight` times that of the mean. Nothing of the
/// vocabulary's size is kept in the graph but the logits: the gradient enters there in closed form.
///
/// # Errors
///
/// If the device fails.
pub(crate) fn nll(predictions: &Predictions, weight: f64) -> Result<(Answers, Tensor<1>)> {
    let Predictions { logits, ids, lengths } = predictions;
    let plain = if logits.is_autodiff() { logits.clone().inner() } else { logits.clone() };
    let log_probs = activation::log_softmax(plain, 1);
    let count = ids.len();
    let weights = vec![(weight / count.max(1) as f64) as f32; count];
    let found = target_likelihood(&log_probs, ids, &weights)?;
    let slope = if logits.is_autodiff() { Tensor::from_inner(found.slope) } else { found.slope };
    Ok((answers(&found.log_probs, &found.predicted, lengths), (logits.clone() * slope).sum()))
}

fn answers(log_probs: &[f32], predicted: &[bool], lengths: &[usize]) -> Answers {
    let mut exact = Vec::with_capacity(lengths.len());
    let mut rest = predicted;
    for length in lengths {
        let (row, behind) = rest.split_at((*length).min(rest.len()));
        exact.push(row.iter().all(|right| *right));
        rest = behind;
    }
    let tokens = log_probs.len();
    let share = |sum: f64| sum / tokens.max(1) as f64;
    Answers {
        nll: share(-log_probs.iter().map(|p| f64::from(*p)).sum::<f64>()),
        accuracy: share(predicted.iter().filter(|right| **right).count() as f64),
        exact,
        tokens,
    }
}

/// −mean ln s⁺ − mean ln(1 − s⁻) of `[pairs, 1]` log-scores, where 1 − s is kept above f32's ε.
///
/// # Source
///
/// Mitchell et al. 2022, equation 2.
pub(crate) fn scope_loss(positive: Tensor<2>, negative: Option<Tensor<2>>) -> Tensor<1> {
    let in_scope = positive.mean() * -1.0;
    match negative {
        Some(negative) => in_scope - (negative.exp() * -1.0 + 1.0).clamp_min(EPSILON).log().mean(),
        None => in_scope,
    }
}

/// What the mixture says of targets, and what it changes of the base model's predictions, with gradients by scores and counterfactual logits.
pub(crate) struct MixtureLoss {
    /// Token mean of the negative log-likelihood of the edits' targets, or of the KL divergence from the base model.
    pub(crate) loss: Tensor<1>,
    /// How well the targets were predicted.
    pub(crate) answers: Answers,
}

/// log((1 − s) p_base + s p_counterfactual + ε) at every position, normalised: `[positions, vocabulary]`. `log_scores` is `[rows, 1]`.
fn mixed(base: &Predictions, counterfactual: &Predictions, log_scores: Tensor<2>) -> Tensor<2> {
    let device = base.logits.device();
    let rows: Vec<i64> = base.lengths.iter().enumerate().flat_map(|(row, length)| std::iter::repeat_n(row as i64, *length)).collect();
    let count = rows.len();
    let score = log_scores.exp().select(0, Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &device));
    let p = Tensor::from_inner(activation::softmax(base.logits.clone(), 1));
    let q = activation::softmax(counterfactual.logits.clone(), 1);
    let mixture = (score.clone() * -1.0 + 1.0) * p + score * q;
    activation::log_softmax((mixture + EPSILON).log(), 1)
}

/// The mixture's loss on edits.
///
/// # Errors
///
/// [`Error::Batch`] unless both models' targets are the same tokens.
pub(crate) fn mixture_nll(base: &Predictions, counterfactual: &Predictions, log_scores: Tensor<2>) -> Result<MixtureLoss> {
    check_same(base, counterfactual)?;
    let log_probs = mixed(base, counterfactual, log_scores);
    let count = base.ids.len();
    let found = target_likelihood(&log_probs.clone().inner(), &base.ids, &vec![0.0; count])?;
    let ids: Vec<i64> = base.ids.iter().map(|id| i64::from(*id)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [count, 1]), &base.logits.device());
    let loss = log_probs.gather(1, ids).mean() * -1.0;
    Ok(MixtureLoss { loss, answers: answers(&found.log_probs, &found.predicted, &base.lengths) })
}

/// The mixture's divergence from the base model on questions out of scope; `exact` says where the most probable tokens stay.
///
/// # Errors
///
/// As [`mixture_nll`].
pub(crate) fn mixture_kl(base: &Predictions, counterfactual: &Predictions, log_scores: Tensor<2>) -> Result<MixtureLoss> {
    check_same(base, counterfactual)?;
    let log_probs = mixed(base, counterfactual, log_scores);
    let base_log = activation::log_softmax(base.logits.clone(), 1);
    let most = most_probable(&base_log)?;
    let kept = target_likelihood(&log_probs.clone().inner(), &most, &vec![0.0; most.len()])?;
    let p = Tensor::from_inner(base_log.clone().exp());
    let loss = (p * (Tensor::from_inner(base_log) - log_probs)).sum_dim(1).mean();
    Ok(MixtureLoss { loss, answers: answers(&kept.log_probs, &kept.predicted, &base.lengths) })
}

fn most_probable(log_probs: &Tensor<2>) -> Result<Vec<u32>> {
    let values = Matrix::from_tensor(log_probs)?;
    let width = values.shape()[1].max(1);
    let best =
        |row: &[f32]| row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (id, p)| if *p > best.1 { (id, *p) } else { best }).0;
    Ok(values.values().chunks(width).map(|row| best(row) as u32).collect())
}

fn check_same(base: &Predictions, counterfactual: &Predictions) -> Result<()> {
    if base.ids == counterfactual.ids && base.lengths == counterfactual.lengths && base.logits.dims() == counterfactual.logits.dims() {
        return Ok(());
    }
    Err(Error::Batch(
        "a target has other tokens behind the memory than behind the prompt, or the models' heads differ in size; train with supervised: true".into(),
    ))
}

/// The number of a scalar, with or without a graph.
pub(crate) fn number(scalar: &Tensor<1>) -> Result<f64> {
    let plain = if scalar.is_autodiff() { scalar.clone().inner() } else { scalar.clone() };
    let values = tensor_values(&plain)?;
    values.first().map(|value| f64::from(*value)).ok_or_else(|| Error::Batch("a loss has no value".into()))
}
