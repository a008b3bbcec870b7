use std::ops::Range;

use easyedit_core::{KvCache, LanguageModel, Pass, Result, TokenBatch};

use crate::row_groups::RowGroups;

/// Runs the prefixes through the first layers of `layers` on and keeps their keys and values, one row per prefix; `None` if all are empty. What
/// several prefixes begin with (context templates do, of every request anew) is run once.
pub(crate) fn prefix_cache(model: &dyn LanguageModel, prefixes: &[&[u32]], layers: Range<usize>) -> Result<Option<KvCache>> {
    let mut unique: Vec<&[u32]> = prefixes.iter().copied().filter(|prefix| !prefix.is_empty()).collect();
    unique.sort_unstable();
    unique.dedup();
    if unique.is_empty() {
        return Ok(None);
    }
    let device = model.device();
    let stems = stems(&unique);
    let rests: Vec<&[u32]> = unique.iter().zip(&stems).map(|(prefix, stem)| &prefix[stem.len()..]).collect();
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
pub(crate) fn stems<'a>(prefixes: &[&'a [u32]]) -> Vec<&'a [u32]> {
    /// Tokens saved that pay for a further pass through the weights.
    const WORTH_A_PASS: usize = 16;
    let shared = |a: &[u32], b: &[u32]| {
        let longest = a.len().min(b.len()).saturating_sub(1);
        a.iter().zip(b).take(longest).take_while(|(a, b)| a == b).count()
    };
    let stems: Vec<&[u32]> = prefixes
        .iter()
        .enumerate()
        .map(|(index, prefix)| {
            let before = index.checked_sub(1).map_or(0, |i| shared(prefixes[i], prefix));
            let after = prefixes.get(index + 1).map_or(0, |next| shared(next, prefix));
            &prefix[..before.max(after)]
        })
        .collect();
    let total: usize = stems.iter().map(|stem| stem.len()).sum();
    let mut unique = stems.clone();
    unique.sort_unstable();
    unique.dedup();
    let left: usize = unique.iter().map(|stem| stem.len()).sum();
    if total - left > WORTH_A_PASS { stems } else { vec![&[]; prefixes.len()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_beginnings_are_found_where_they_pay() {
        let long: Vec<u32> = (0..30).collect();
        let with = |tail: &[u32]| [&long[..], tail].concat();
        let (a, b, c) = (with(&[40]), with(&[50, 51]), vec![7, 8]);
        let mut prefixes: Vec<&[u32]> = vec![&a, &b, &c];
        prefixes.sort_unstable();
        assert_eq!(stems(&prefixes), [&long[..], &long[..], &[]]);
        // The whole of one prefix is the beginning of another: its last token is left to be run.
        assert_eq!(stems(&[&long[..], &a[..]]), [&long[..29], &long[..29]]);
        assert_eq!(stems(&[&[1, 2, 3][..], &[1, 2, 4][..]]), [&[] as &[u32], &[]]);
    }
}
