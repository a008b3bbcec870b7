//! The order of edits, by the fingerprints of the weights they were made for and left behind.

use crate::Edit;

/// Sorts items with an edit each into the order in which the edits were made, whatever order they are given in: an edit comes right behind the one that left the weights it
/// was made for. Edits that no fingerprint orders keep their order; of several edits of the same weights, the one with the most followers comes
/// first, because each of the others may follow it.
///
/// Edit files of version 0.1 do not say what they left behind; [`apply_all`](crate::apply_all) puts those into order by the model's weights.
pub fn sort_by_fingerprints<T>(items: &mut Vec<T>, edit_of: impl Fn(&T) -> &Edit) {
    let count = items.len();
    let edits: Vec<&Edit> = items.iter().map(edit_of).collect();
    let before = |later: &&Edit| -> Vec<usize> {
        let precedes = |earlier: &&Edit| !std::ptr::eq(*earlier, *later) && follows(later, earlier) && !follows(earlier, later);
        edits.iter().enumerate().filter(|(_, earlier)| precedes(earlier)).map(|(place, _)| place).collect()
    };
    let predecessors: Vec<Vec<usize>> = edits.iter().map(before).collect();
    let lengths = chain_lengths(&predecessors);
    let mut order: Vec<usize> = Vec::with_capacity(count);
    let mut is_placed = vec![false; count];
    while order.len() < count {
        let is_ready = |index: &usize| {
            let of = |flags: &[bool], index: usize| flags.get(index).copied().unwrap_or(true);
            let all_before = predecessors.get(*index).is_none_or(|before| before.iter().all(|one| of(&is_placed, *one)));
            !of(&is_placed, *index) && all_before
        };
        let ready: Vec<usize> = (0..count).filter(is_ready).collect();
        let follows_last =
            |index: &usize| order.last().is_some_and(|last| predecessors.get(*index).is_some_and(|before| before.contains(last)));
        let longest = |candidates: &mut dyn Iterator<Item = usize>| {
            candidates.max_by_key(|index| (lengths.get(*index).copied(), std::cmp::Reverse(*index)))
        };
        let next = longest(&mut ready.iter().copied().filter(follows_last)).or_else(|| longest(&mut ready.iter().copied()));
        // A circle, which sound files cannot form, is cut at its first edit.
        let Some(next) = next.or_else(|| is_placed.iter().position(|placed| !placed)) else { break };
        if let Some(placed) = is_placed.get_mut(next) {
            *placed = true;
        }
        order.push(next);
    }
    let mut unsorted: Vec<Option<T>> = std::mem::take(items).into_iter().map(Some).collect();
    items.extend(order.into_iter().filter_map(|index| unsorted.get_mut(index)?.take()));
}

/// Whether `later` was made for a weight that `earlier` left behind.
fn follows(later: &Edit, earlier: &Edit) -> bool {
    later.deltas.iter().any(|(name, change)| {
        let left = earlier.deltas.get(name).and_then(|earlier| earlier.after.as_ref());
        left == Some(&change.base)
    })
}

/// Number of edits of the longest chain that begins with each edit.
fn chain_lengths(predecessors: &[Vec<usize>]) -> Vec<usize> {
    let mut lengths = vec![1usize; predecessors.len()];
    // A chain has at most as many links as there are edits; circles stop growing there.
    for _ in 0..predecessors.len() {
        let mut has_grown = false;
        for (later, before) in predecessors.iter().enumerate() {
            let behind = lengths.get(later).copied().unwrap_or(0);
            for earlier in before {
                if let Some(length) = lengths.get_mut(*earlier)
                    && *length < (behind + 1).min(predecessors.len())
                {
                    *length = behind + 1;
                    has_grown = true;
                }
            }
        }
        if !has_grown {
            break;
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::{EditRequest, Fingerprint, Matrix, TensorDelta, WeightDelta, fingerprint_values};

    fn print(state: usize) -> Fingerprint {
        fingerprint_values([1, 1], &[state as f32])
    }

    /// An edit that takes each weight from one state to another.
    fn edit(name: &str, changes: &[(&str, usize, Option<usize>)]) -> Edit {
        let change = |(weight, base, after): &(&str, usize, Option<usize>)| {
            let delta = WeightDelta::Dense(Matrix::row(vec![1.0]));
            ((*weight).into(), TensorDelta { delta, base: print(*base), after: after.map(print) })
        };
        Edit {
            method: name.into(),
            model: String::new(),
            family: String::new(),
            hparams: Value::Null,
            seed: 0,
            requests: vec![EditRequest::default()],
            diagnostics: Value::Null,
            deltas: changes.iter().map(change).collect::<BTreeMap<_, _>>(),
            overlay: None,
        }
    }

    fn sorted(mut edits: Vec<Edit>) -> String {
        sort_by_fingerprints(&mut edits, |edit| edit);
        edits.into_iter().map(|edit| edit.method).collect()
    }

    #[test]
    fn a_sequence_is_put_into_its_order() {
        let chain = |order: &[usize]| {
            let one = |i: &usize| edit(&i.to_string(), &[("a", *i, Some(i + 1))]);
            sorted(order.iter().map(one).collect())
        };
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]] {
            assert_eq!(chain(&order), "01234");
        }
    }

    #[test]
    fn edits_of_the_same_weights_follow_the_longest_chain() {
        let chain = [edit("1", &[("a", 0, Some(1))]), edit("2", &[("a", 1, Some(2))])];
        let alone = edit("x", &[("a", 0, Some(9))]);
        assert_eq!(sorted(vec![alone.clone(), chain[1].clone(), chain[0].clone()]), "12x");
        assert_eq!(sorted(vec![chain[1].clone(), alone.clone(), chain[0].clone()]), "12x");
        let others = ["c", "a", "b"].map(|name| edit(name, &[("a", 0, Some(5))]));
        assert_eq!(sorted(others.into()), "cab", "nothing orders them");
    }

    #[test]
    fn every_weight_counts_and_edits_without_a_result_keep_their_order() {
        let first = edit("1", &[("a", 0, Some(1)), ("b", 0, Some(1))]);
        let second = edit("2", &[("b", 1, Some(2))]);
        let third = edit("3", &[("a", 1, Some(3)), ("b", 2, Some(3))]);
        assert_eq!(sorted(vec![third, second, first]), "123");
        assert_eq!(sorted(vec![edit("b", &[("a", 1, None)]), edit("a", &[("a", 0, None)])]), "ba");
        assert_eq!(sorted(vec![edit("l", &[]), edit("k", &[])]), "lk");
    }

    #[test]
    fn changes_by_nothing_and_circles_end() {
        let nothing = edit("n", &[("a", 0, Some(0))]);
        assert_eq!(sorted(vec![nothing.clone(), nothing.clone(), edit("1", &[("a", 0, Some(1))])]), "nn1");
        let circle = vec![edit("x", &[("a", 0, Some(1))]), edit("y", &[("a", 1, Some(2))]), edit("z", &[("a", 2, Some(0))])];
        assert_eq!(sorted(circle).len(), 3);
        assert_eq!(sorted(Vec::new()), "");
    }
}
