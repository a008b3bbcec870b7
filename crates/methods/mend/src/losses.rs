use burn::tensor::{Tensor, TensorData, activation};
use easyedit_core::{Error, Result, tensor_values};
use easyedit_kernels::target_likelihood;

use crate::rows::Targets;

/// How likely the target tokens of an edit are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Likelihood {
    /// Sum of the negative log-probabilities.
    pub(crate) nll: f64,
    /// Number of tokens.
    pub(crate) tokens: usize,
    /// Tokens that are the most probable ones.
    pub(crate) right: usize,
}

impl Likelihood {
    /// Mean negative log-probability of a token.
    pub(crate) fn mean(&self) -> f64 {
        self.nll / self.tokens.max(1) as f64
    }

    /// Share of the tokens that are the most probable ones.
    pub(crate) fn accuracy(&self) -> f64 {
        self.right as f64 / self.tokens.max(1) as f64
    }

    /// 1 if all tokens are the most probable ones, else 0.
    pub(crate) fn exact(&self) -> f64 {
        f64::from(u8::from(self.right == self.tokens))
    }
}

/// Log-probabilities of logits, without gradients.
pub(crate) fn log_probs(logits: &Tensor<2>) -> Tensor<2> {
    let plain = if logits.is_autodiff() { logits.clone().inner() } else { logits.clone() };
    activation::log_softmax(plain, 1)
}

/// The likelihood of each edit's targets, and the derivative by the logits of the sum over edits of `weights[edit]` times the mean negative
/// log-probability of its tokens.
///
/// # Shapes
///
/// `log_probs: [targets, vocabulary]`; so is the derivative.
pub(crate) fn likelihoods(log_probs: &Tensor<2>, targets: &Targets, weights: &[f64]) -> Result<(Vec<Likelihood>, Tensor<2>)> {
    let mut found = vec![Likelihood::default(); targets.edit_count];
    for edit in &targets.edits {
        if let Some(likelihood) = found.get_mut(*edit) {
            likelihood.tokens += 1;
        }
    }
    let share = |edit: &usize| {
        let tokens = found.get(*edit).map_or(1, |likelihood| likelihood.tokens);
        (weights.get(*edit).copied().unwrap_or(0.0) / tokens as f64) as f32
    };
    let shares: Vec<f32> = targets.edits.iter().map(share).collect();
    let ids: Vec<u32> = targets.ids.iter().map(|id| id.unwrap_or(0)).collect();
    let vocabulary = log_probs.dims()[1];
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(Error::Batch(format!("token {id} is to be predicted, beyond the {vocabulary} of the model")));
    }
    let likelihood = target_likelihood(log_probs, &ids, &shares)?;
    for ((edit, log_prob), predicted) in targets.edits.iter().zip(&likelihood.log_probs).zip(&likelihood.predicted) {
        if let Some(found) = found.get_mut(*edit) {
            found.nll -= f64::from(*log_prob);
            found.right += usize::from(*predicted);
        }
    }
    Ok((found, likelihood.slope))
}

/// How far distributions have moved from those before.
pub(crate) struct Divergence {
    /// Mean over the positions of each edit of KL(before ‖ now).
    pub(crate) means: Vec<f64>,
    /// Derivative by the logits of the sum over edits of the weighted means.
    pub(crate) slope: Tensor<2>,
}

/// KL(before ‖ now) at the positions of `targets`.
///
/// # Shapes
///
/// `before, now: [positions, vocabulary]`, log-probabilities.
pub(crate) fn divergence(before: &Tensor<2>, now: &Tensor<2>, targets: &Targets, weights: &[f64]) -> Result<Divergence> {
    let mut counts = vec![0usize; targets.edit_count];
    targets.edits.iter().for_each(|edit| counts.iter_mut().skip(*edit).take(1).for_each(|count| *count += 1));
    let share = |edit: &usize| 1.0 / counts.get(*edit).copied().unwrap_or(1).max(1) as f64;
    let probs = before.clone().exp();
    let of_positions = tensor_values(&(probs.clone() * (before.clone() - now.clone())).sum_dim(1))?;
    let mut means = vec![0f64; targets.edit_count];
    for (edit, value) in targets.edits.iter().zip(of_positions) {
        means.iter_mut().skip(*edit).take(1).for_each(|mean| *mean += f64::from(value) * share(edit));
    }
    let shares = targets.edits.iter().map(|edit| (share(edit) * weights.get(*edit).copied().unwrap_or(0.0)) as f32);
    let shares = Tensor::<2>::from_data(TensorData::new(shares.collect::<Vec<f32>>(), [targets.edits.len(), 1]), &before.device());
    Ok(Divergence { means, slope: (now.clone().exp() - probs) * shares })
}

/// Whether the most probable token is the same, position by position.
pub(crate) fn same_best(before: &Tensor<2>, now: &Tensor<2>) -> Result<Vec<bool>> {
    let best = |log_probs: &Tensor<2>| -> Result<Vec<i64>> {
        let data = log_probs.clone().argmax(1).into_data().convert::<i64>();
        data.try_to_vec::<i64>().map_err(|e| Error::Batch(format!("the device gave no indices back: {e:?}")))
    };
    Ok(best(before)?.into_iter().zip(best(now)?).map(|(a, b)| a == b).collect())
}
