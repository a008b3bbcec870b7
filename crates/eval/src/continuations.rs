use std::collections::BTreeMap;

use easyedit_core::{GenerationConfig, Predictor, Progress, Result, TokenSlice, like_lengths};

/// Greedy continuations: `wanted` holds prompts and how many new tokens each is to get at most.
pub(crate) fn continuations(
    predictor: &dyn Predictor,
    wanted: &[(TokenSlice<'_>, usize)],
    progress: &dyn Progress,
) -> Result<Vec<Vec<u32>>> {
    let mut found = vec![Vec::new(); wanted.len()];
    let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, (_, new)) in wanted.iter().enumerate() {
        by_length.entry(*new).or_default().push(i);
    }
    for (new, members) in by_length {
        for batch in like_lengths(members.iter().map(|i| wanted[*i].0.len() + new)) {
            let prompts: Vec<TokenSlice<'_>> = batch.iter().map(|k| wanted[members[*k]].0).collect();
            let texts = predictor.generate(&prompts, &GenerationConfig::greedy(new), progress)?;
            for (k, text) in batch.iter().zip(texts) {
                found[members[*k]] = text.ids;
            }
            progress.step(batch.len() as u64)?;
        }
    }
    Ok(found)
}
