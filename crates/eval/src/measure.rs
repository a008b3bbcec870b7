//! Asking a model: batched teacher-forced predictions and greedy continuations.

use std::collections::BTreeMap;

use easyedit_core::tokens::TargetTokens;
use easyedit_core::{Error, GenerationConfig, LanguageModel, Matrix, Progress, Result, TokenBatch, TokenRow, TokenSlice, generate_while};

/// Tokens of one batched pass at most; a single longer sequence still goes alone.
const BATCH_TOKENS: usize = 2048;
/// Positions whose logits are held at once: a vocabulary of 50,000 then takes 13 MB.
pub(crate) const LOGIT_POSITIONS: usize = 64;

/// What the model predicts at each target token when it has read everything before it, per sequence.
///
/// Of equal logits the smallest id counts, as in greedy decoding.
pub(crate) fn predictions(model: &dyn LanguageModel, sequences: &[&TargetTokens], progress: &dyn Progress) -> Result<Vec<Vec<u32>>> {
    let mut found = vec![Vec::new(); sequences.len()];
    for batch in batches(sequences.iter().map(|s| s.longest())) {
        let rows: Vec<TokenSlice<'_>> = batch.iter().map(|i| sequences[*i].input()).collect();
        let tokens = TokenBatch::new(&rows)?;
        let mut positions = Vec::new();
        for (row, i) in batch.iter().enumerate() {
            positions.extend(sequences[*i].predicting().map(|token| tokens.index(row, token)));
        }
        let sources: Vec<&TokenRow> = batch.iter().map(|i| &sequences[*i].source).collect();
        let prompts = batch.iter().map(|i| sequences[*i].start).collect();
        let hidden = model.hidden(&mut model.start(&sources, tokens)?.with_prompts(prompts)?, &mut ())?;
        let mut ids = Vec::with_capacity(positions.len());
        for chunk in positions.chunks(LOGIT_POSITIONS) {
            let logits = Matrix::from_tensor(&model.logits(hidden.clone(), chunk)?)?;
            let [_, vocab] = logits.shape();
            for row in logits.values().chunks(vocab.max(1)) {
                ids.push(argmax(row)?);
            }
        }
        let mut ids = ids.into_iter();
        for i in &batch {
            found[*i] = ids.by_ref().take(sequences[*i].target().len()).collect();
        }
        progress.step(batch.len() as u64)?;
    }
    Ok(found)
}

/// Greedy continuations: `wanted` holds prompts and how many new tokens each is to get at most.
pub(crate) fn continuations(
    model: &dyn LanguageModel,
    wanted: &[(TokenSlice<'_>, usize)],
    progress: &dyn Progress,
) -> Result<Vec<Vec<u32>>> {
    let mut found = vec![Vec::new(); wanted.len()];
    let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, (_, new)) in wanted.iter().enumerate() {
        by_length.entry(*new).or_default().push(i);
    }
    for (new, members) in by_length {
        for batch in batches(members.iter().map(|i| wanted[*i].0.len() + new)) {
            let prompts: Vec<TokenSlice<'_>> = batch.iter().map(|k| wanted[members[*k]].0).collect();
            let texts = generate_while(model, &prompts, &GenerationConfig::greedy(new), progress)?;
            for (k, text) in batch.iter().zip(texts) {
                found[members[*k]] = text.ids;
            }
            progress.step(batch.len() as u64)?;
        }
    }
    Ok(found)
}

/// Groups items of the given lengths: like lengths together, [`BATCH_TOKENS`] at most unless one item alone has more. Attention is
/// as wide as a batch's longest row, so the longest times the rows is what is limited.
pub(crate) fn batches(lengths: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
    let lengths: Vec<usize> = lengths.collect();
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| lengths[*i]);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match groups.last_mut() {
            Some(group) if (group.len() + 1) * lengths[i] <= BATCH_TOKENS => group.push(i),
            _ => groups.push(vec![i]),
        }
    }
    groups
}

fn argmax(logits: &[f32]) -> Result<u32> {
    if logits.iter().any(|v| v.is_nan()) {
        return Err(Error::NotFinite("the model's logits are not finite; its weights are damaged".into()));
    }
    let best = logits.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
    best.map(|(id, _)| id as u32).ok_or_else(|| Error::Batch("the model has no vocabulary".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_everything_once_and_stay_small() {
        let lengths = [10, 3000, 500, 7, 2000, 100, 100];
        let groups = batches(lengths.iter().copied());
        let mut all: Vec<usize> = groups.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        for group in &groups {
            let longest = group.iter().map(|i| lengths[*i]).max().unwrap();
            assert!(group.len() == 1 || longest * group.len() <= BATCH_TOKENS);
        }
        assert!(batches(std::iter::empty()).is_empty());
    }

    #[test]
    fn the_smallest_of_equal_ids_wins_and_nan_is_an_error() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0]).unwrap(), 1);
        assert!(argmax(&[0.0, f32::NAN]).unwrap_err().to_string().contains("not finite"));
        assert!(argmax(&[]).is_err());
    }
}
