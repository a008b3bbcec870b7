use std::cmp::Reverse;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::{Demonstration, Kind};

/// A demonstration that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selected {
    /// Its index.
    pub index: usize,
    /// How near it is to the fact (of [`by_ratio`]: its record), a cosine.
    pub similarity: f32,
}

/// The `k` demonstrations nearest to the fact, the nearest first, of those that `is_allowed`; of equally near ones the first.
///
/// `similarities` has one number a demonstration.
pub fn nearest(similarities: &[f32], k: usize, is_allowed: impl Fn(usize) -> bool) -> Vec<Selected> {
    let all = similarities.iter().enumerate().filter(|(index, _)| is_allowed(*index));
    let mut all: Vec<Selected> = all.map(|(index, similarity)| Selected { index, similarity: *similarity }).collect();
    all.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.index.cmp(&b.index)));
    all.truncate(k);
    all
}

/// One demonstration of each of the `k` nearest records, the nearest first, copy, update and retain in the ratio `ratio`, in an order drawn
/// by `seed`. Near a record is by its copy string, which is its fact alone. Where the kind that is drawn next cannot be had of a record, it
/// gives another kind that is still wanted, and is passed over if there is none.
///
/// # Source
///
/// Zheng et al. 2023, section 3: 32 demonstrations with the ratio 1:3:4.
pub fn by_ratio(
    demonstrations: &[Demonstration],
    similarities: &[f32],
    k: usize,
    ratio: [usize; 3],
    seed: [u8; 32],
    is_allowed: impl Fn(usize) -> bool,
) -> Vec<Selected> {
    let is_copy = |index: usize| demonstrations.get(index).is_some_and(|one| one.kind == Kind::Copy);
    let records = nearest(similarities, usize::MAX, |index| is_copy(index) && is_allowed(index));
    let mut wanted: Vec<Kind> = shares(k, ratio).into_iter().zip(Kind::ALL).flat_map(|(count, kind)| vec![kind; count]).collect();
    wanted.shuffle(&mut ChaCha8Rng::from_seed(seed));
    // Taken from the end.
    let mut found = Vec::with_capacity(k);
    for copy in records {
        let Some(record) = demonstrations.get(copy.index).map(|one| one.record) else { continue };
        // The strings of a record stand next to each other, the copy first.
        let own: Vec<(usize, Kind)> = (copy.index..)
            .zip(demonstrations.iter().skip(copy.index))
            .take_while(|(_, one)| one.record == record)
            .map(|(i, one)| (i, one.kind))
            .collect();
        let place = wanted.iter().rposition(|kind| own.iter().any(|(_, has)| has == kind));
        if let Some(place) = place {
            let kind = wanted.remove(place);
            found
                .extend(own.iter().find(|(_, has)| *has == kind).map(|(index, _)| Selected { index: *index, similarity: copy.similarity }));
        }
        if wanted.is_empty() {
            break;
        }
    }
    found
}

/// `k` in parts as the ratio says; what is left over goes to the parts that lack most of a whole one.
fn shares(k: usize, ratio: [usize; 3]) -> [usize; 3] {
    let sum: f64 = ratio.iter().map(|part| *part as f64).sum();
    let exact = ratio.map(|part| if sum > 0.0 { k as f64 * part as f64 / sum } else { 0.0 });
    let mut counts = exact.map(|part| part.floor() as usize);
    let mut order = [0, 1, 2];
    let lack = |part: &usize| exact.get(*part).map_or(0, |exact| (exact.fract() * 1e9) as u64);
    order.sort_by_key(|part| Reverse(lack(part)));
    let missing = k.saturating_sub(counts.iter().sum());
    order.iter().cycle().filter(|part| ratio[**part] > 0).take(if sum > 0.0 { missing } else { 0 }).for_each(|part| counts[*part] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_and_sum_up() {
        assert_eq!(shares(32, [1, 3, 4]), [4, 12, 16]);
        assert_eq!(shares(16, [1, 3, 4]), [2, 6, 8]);
        // Copy and update lack as much: the first gets it.
        assert_eq!(shares(4, [1, 3, 4]), [1, 1, 2]);
        assert_eq!(shares(5, [0, 0, 7]), [0, 0, 5]);
        assert_eq!(shares(5, [0, 0, 0]), [0, 0, 0]);
        for k in 0..40 {
            assert_eq!(shares(k, [1, 3, 4]).iter().sum::<usize>(), k);
        }
    }
}
