//! The mixture of two models' predictions.

use easyedit_core::tokens::{TargetTokens, opening};
use easyedit_core::{
    Error, Generation, GenerationConfig, LanguageModel, Matrix, Progress, Result, TargetScore, TokenBatch, TokenRow, TokenSlice, white_box,
};

/// Added to mixed probabilities before their logarithm: the least difference of an `f32` from 1.
pub(crate) const EPSILON: f64 = f32::EPSILON as f64;

/// Two models of one vocabulary, and how much the second counts.
#[derive(Clone, Copy)]
pub(crate) struct Mixed<'a> {
    pub(crate) base: &'a dyn LanguageModel,
    pub(crate) counterfactual: &'a dyn LanguageModel,
    /// s in [0, 1].
    pub(crate) score: f64,
}

/// log((1 − s) p + s q + ε) of one position, where p and q are the softmax of two rows of logits. Of a token that one model does not
/// have, its probability there is 0.
///
/// # Source
///
/// The reference's soft weighting; Mitchell et al. 2022 route instead.
pub fn mix(base: &[f32], counterfactual: &[f32], score: f64) -> Vec<f32> {
    let (base, counterfactual) = (softmax(base), softmax(counterfactual));
    let tokens = base.len().max(counterfactual.len());
    let of = |probabilities: &[f64], token: usize| probabilities.get(token).copied().unwrap_or(0.0);
    let mixed = |token| ((1.0 - score) * of(&base, token) + score * of(&counterfactual, token) + EPSILON).ln() as f32;
    (0..tokens).map(mixed).collect()
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = logits.iter().map(|logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / sum).collect()
}

/// Logits at `positions` of one row: `[positions, vocabulary]`.
fn logits(model: &dyn LanguageModel, source: &TokenRow, row: TokenSlice<'_>, positions: &[usize]) -> Result<Matrix> {
    let longest = source.len().max(row.len());
    if longest > model.spec().max_positions {
        return Err(Error::Batch(format!(
            "a row of {longest} tokens, memory and query together, is beyond the {} positions of {}",
            model.spec().max_positions,
            model.spec().name
        )));
    }
    let mut pass = model.start(std::slice::from_ref(source), TokenBatch::new(&[row])?)?;
    let hidden = model.hidden(&mut pass, &mut ())?;
    Matrix::from_tensor(&model.logits(hidden, positions)?)
}

fn rows_of(matrix: &Matrix) -> impl Iterator<Item = &[f32]> {
    matrix.values().chunks(matrix.shape()[1].max(1))
}

/// Scores of a target: `base` and `counterfactual` are the same target behind what each model reads.
pub(crate) fn score(models: Mixed<'_>, base: &TargetTokens, counterfactual: &TargetTokens) -> Result<TargetScore> {
    let of = |model, row: &TargetTokens| logits(model, &row.source, row.input(), &row.predicting().collect::<Vec<_>>());
    if base.target() != counterfactual.target() {
        return Err(Error::Batch(
            "the target has other tokens behind the memory than behind the prompt, and cannot be mixed; route instead (soft_weighting: false)"
                .into(),
        ));
    }
    let (p, q) = (of(models.base, base)?, of(models.counterfactual, counterfactual)?);
    let target = base.target().to_vec();
    let (mut predicted, mut log_probs) = (Vec::new(), Vec::new());
    for ((p, q), id) in rows_of(&p).zip(rows_of(&q)).zip(&target) {
        let mixed = mix(p, q, models.score);
        predicted.push(white_box::choose(&mixed, easyedit_core::Sampling::Greedy, &mut GenerationConfig::default().rng())?);
        // What ε adds is taken off again: probabilities sum to 1.
        let sum: f64 = mixed.iter().map(|log| f64::from(*log).exp()).sum();
        let log_prob = mixed.get(*id as usize).map_or(f64::NEG_INFINITY, |log| f64::from(*log) - sum.ln());
        log_probs.push(log_prob.min(0.0) as f32);
    }
    Ok(TargetScore { target, predicted, log_probs })
}

/// Continues a prompt token by token, both models reading what was chosen.
pub(crate) fn generate(
    models: Mixed<'_>,
    base: TokenRow,
    counterfactual: TokenRow,
    config: &GenerationConfig,
    progress: &dyn Progress,
) -> Result<Generation> {
    let mut rng = config.rng();
    let mut rows = [(models.base, opening(models.base, base)), (models.counterfactual, opening(models.counterfactual, counterfactual))];
    let mut ids = Vec::new();
    for _ in 0..config.max_new_tokens {
        progress.check()?;
        let mut last = Vec::with_capacity(rows.len());
        for (model, (source, row)) in &rows {
            last.push(logits(*model, source, row.as_slice(), &[row.len().saturating_sub(1)])?);
        }
        let [p, q] = last.as_slice() else { break };
        let id = white_box::choose(&mix(p.values(), q.values(), models.score), config.sampling, &mut rng)?;
        ids.push(id);
        if !config.ignore_eos && models.base.tokenizer().eos().contains(&id) {
            break;
        }
        rows.iter_mut().for_each(|(_, (_, row))| row.push(id));
    }
    Ok(Generation { ids })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_mixture_are_the_models() {
        let (p, q) = ([1.0, -2.0, 0.5], [0.0, 3.0, -1.0]);
        for (score, want) in [(0.0, softmax(&p)), (1.0, softmax(&q))] {
            for (got, want) in mix(&p, &q, score).into_iter().zip(want) {
                assert!((f64::from(got) - (want + EPSILON).ln()).abs() < 1e-6);
            }
        }
        let half = mix(&p, &q, 0.5);
        assert!((f64::from(half[1]).exp() - 0.5 * (softmax(&p)[1] + softmax(&q)[1])).abs() < 1e-6);
    }

    #[test]
    fn a_token_of_one_model_alone_has_its_share() {
        let mixed = mix(&[0.0], &[0.0, 0.0], 0.5);
        assert!((f64::from(mixed[0]).exp() - 0.75).abs() < 1e-6 && (f64::from(mixed[1]).exp() - 0.25).abs() < 1e-6);
    }
}
