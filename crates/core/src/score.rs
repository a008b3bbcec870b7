use crate::logits::{log_sum_exp, most_probable};
use crate::tokens::TargetTokens;
use crate::{LanguageModel, Matrix, Progress, Result, TargetScore, TokenBatch, TokenRow, TokenSlice};

/// Tokens of one batched pass at most; a single longer row still goes alone.
const BATCH_TOKENS: usize = 2048;
/// Positions whose logits are held at once: a vocabulary of 50,000 then takes 13 MB.
const LOGIT_POSITIONS: usize = 64;

/// [`Predictor::score`](crate::Predictor::score) of a model: teacher-forced, in batches of rows of like length.
///
/// # Errors
///
/// As [`Predictor::score`](crate::Predictor::score).
pub fn score(model: &dyn LanguageModel, rows: &[&TargetTokens], progress: &dyn Progress) -> Result<Vec<TargetScore>> {
    let mut found: Vec<Option<TargetScore>> = vec![None; rows.len()];
    for batch in like_lengths(rows.iter().map(|row| row.longest())) {
        let members: Vec<&TargetTokens> = batch.iter().filter_map(|index| rows.get(*index).copied()).collect();
        for (index, scored) in batch.iter().zip(score_batch(model, &members)?) {
            if let Some(place) = found.get_mut(*index) {
                *place = Some(scored);
            }
        }
        progress.step(batch.len() as u64)?;
    }
    Ok(found.into_iter().flatten().collect())
}

fn score_batch(model: &dyn LanguageModel, rows: &[&TargetTokens]) -> Result<Vec<TargetScore>> {
    let tokens = TokenBatch::new(&rows.iter().map(|row| row.input()).collect::<Vec<TokenSlice<'_>>>())?;
    let indices = rows.iter().enumerate().flat_map(|(row, target)| target.predicting().map(move |token| (row, token)));
    let positions: Vec<usize> = indices.map(|(row, token)| tokens.index(row, token)).collect();
    let targets: Vec<u32> = rows.iter().flat_map(|row| row.target()).copied().collect();
    let sources: Vec<&TokenRow> = rows.iter().map(|row| &row.source).collect();
    let prompts = rows.iter().map(|row| row.start).collect();
    let hidden = model.hidden(&mut model.start(&sources, tokens)?.with_prompts(prompts)?, &mut ())?;
    let mut scored = Vec::with_capacity(positions.len());
    for (positions, targets) in positions.chunks(LOGIT_POSITIONS).zip(targets.chunks(LOGIT_POSITIONS)) {
        let logits = Matrix::from_tensor(&model.logits(hidden.clone(), positions)?)?;
        let [_, vocab] = logits.shape();
        for (logits, target) in logits.values().chunks(vocab.max(1)).zip(targets) {
            let (predicted, largest) = most_probable(logits)?;
            // A target beyond the head's rows has no probability.
            let logit = logits.get(*target as usize).copied().unwrap_or(f32::NEG_INFINITY);
            scored.push((predicted, (logit - log_sum_exp(logits, largest)).min(0.0)));
        }
    }
    let mut scored = scored.into_iter();
    let of_row = |row: &&TargetTokens| {
        let target = row.target().to_vec();
        let (predicted, log_probs) = scored.by_ref().take(target.len()).unzip();
        TargetScore { target, predicted, log_probs }
    };
    Ok(rows.iter().map(of_row).collect())
}

/// Groups items of the given lengths, by their places: like lengths together, 2,048 tokens at most unless one item alone has more.
/// Attention is as wide as a batch's longest row, so the longest times the rows is what is limited.
pub fn like_lengths(lengths: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
    let mut order: Vec<(usize, usize)> = lengths.enumerate().map(|(place, length)| (length, place)).collect();
    order.sort_unstable();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (length, place) in order {
        match groups.last_mut() {
            Some(group) if (group.len() + 1) * length <= BATCH_TOKENS => group.push(place),
            _ => groups.push(vec![place]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_everything_once_and_stay_small() {
        let lengths = [10, 3000, 500, 7, 2000, 100, 100];
        let groups = like_lengths(lengths.iter().copied());
        let mut all: Vec<usize> = groups.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        for group in &groups {
            let longest = group.iter().map(|i| lengths[*i]).max().unwrap();
            assert!(group.len() == 1 || longest * group.len() <= BATCH_TOKENS);
        }
        assert!(like_lengths(std::iter::empty()).is_empty());
    }
}
