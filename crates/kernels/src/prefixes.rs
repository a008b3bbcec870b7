use std::ops::Range;

use easyedit_core::{KvCache, LanguageModel, Pass, Result, TokenBatch, TokenSlice};

use crate::row_groups::RowGroups;

/// Runs the prefixes through the first layers of `layers` on and keeps their keys and values, one row per prefix; `None` if all are empty. What
/// several prefixes begin with (context templates do, of every request anew) is run once.
pub(crate) fn prefix_cache(model: &dyn LanguageModel, prefixes: &[TokenSlice<'_>], layers: Range<usize>) -> Result<Option<KvCache>> {
    let mut unique: Vec<TokenSlice<'_>> = prefixes.iter().copied().filter(|prefix| !prefix.is_empty()).collect();
    unique.sort_unstable();
    unique.dedup();
    if unique.is_empty() {
        return Ok(None);
    }
    let device = model.device();
    let stems = stems(&unique);
    let rests: Vec<TokenSlice<'_>> = unique.iter().zip(&stems).map(|(prefix, stem)| prefix.suffix(stem.len())).collect();
    let rests = TokenBatch::new(&rests)?;
    let pass = match stems.iter().all(|stem| stem.is_empty()) {
        true => Pass::new(rests, &device),
        false => match prefix_cache(model, &stems, layers.clone())? {
            Some(cache) => Pass::after(rests, cache, &device)?,
            None => Pass::new(rests, &device),
        },
    };
    let lengths: Vec<usize> = (0..unique.len()).map(|row| pass.batch().len(row)).collect();
    let groups = RowGroups::new(model, &lengths)?;
    let passes = groups.rows().iter().map(|rows| Ok((model.boxed_clone(), pass.select_rows(rows)?)));
    let caches = groups.run(&mut passes.collect::<Result<Vec<_>>>()?, |(model, pass)| {
        let mut pass = pass.clone().keeping();
        let hidden = model.embed(&pass)?;
        model.run_layers(hidden, layers.clone(), &mut pass, &mut ())?;
        pass.into_cache()
    })?;
    let cache = KvCache::join(&caches.iter().collect::<Vec<_>>(), &device)?;
    let order = groups.rows().concat();
    // A row without a prefix takes any row of the cache and forgets it.
    let place = |row: usize| order.iter().position(|other| *other == row).unwrap_or(0);
    let rows: Vec<usize> = prefixes.iter().map(|prefix| place(unique.binary_search(prefix).unwrap_or(0))).collect();
    let mut cache = cache.select_rows(&rows, &device)?;
    for (row, prefix) in prefixes.iter().enumerate() {
        if prefix.is_empty() {
            cache.clear_row(row);
        }
    }
    Ok(Some(cache))
}

/// For each of the sorted `prefixes`, the beginning it shares with others, short of its last token; empty where sharing saves no more than
/// the further pass costs.
pub(crate) fn stems<'a>(prefixes: &[TokenSlice<'a>]) -> Vec<TokenSlice<'a>> {
    /// Tokens saved that pay for a further pass through the weights.
    const WORTH_A_PASS: usize = 16;
    let shared = |a: TokenSlice<'_>, b: TokenSlice<'_>| a.shared_prefix_len(b).min(a.len().min(b.len()).saturating_sub(1));
    let stems: Vec<TokenSlice<'a>> = prefixes
        .iter()
        .enumerate()
        .map(|(index, prefix)| {
            let before = index.checked_sub(1).map_or(0, |i| shared(prefixes[i], *prefix));
            let after = prefixes.get(index + 1).map_or(0, |next| shared(*next, *prefix));
            prefix.prefix(before.max(after))
        })
        .collect();
    let total: usize = stems.iter().map(|stem| stem.len()).sum();
    let mut unique = stems.clone();
    unique.sort_unstable();
    unique.dedup();
    let left: usize = unique.iter().map(|stem| stem.len()).sum();
    if total - left > WORTH_A_PASS { stems } else { stems.iter().map(|stem| stem.prefix(0)).collect() }
}

#[cfg(test)]
mod tests {
    use easyedit_core::AsTokens;

    use super::*;

    #[test]
    fn shared_beginnings_are_found_where_they_pay() {
        let long: Vec<u32> = (0..30).collect();
        let with = |tail: &[u32]| [&long[..], tail].concat();
        let (a, b, c) = (with(&[40]), with(&[50, 51]), vec![7, 8]);
        let nothing = [0u32; 0];
        let mut prefixes = vec![a.as_tokens(), b.as_tokens(), c.as_tokens()];
        prefixes.sort_unstable();
        assert_eq!(stems(&prefixes), [long.as_tokens(), long.as_tokens(), nothing.as_tokens()]);
        // The whole of one prefix is the beginning of another: its last token is left to be run.
        assert_eq!(stems(&[long.as_tokens(), a.as_tokens()]), [long[..29].as_tokens(), long[..29].as_tokens()]);
        assert_eq!(stems(&[[1, 2, 3].as_tokens(), [1, 2, 4].as_tokens()]), [nothing.as_tokens(), nothing.as_tokens()]);
    }
}
