use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::attribution::Attribution;

/// An input of an MLP's out-projection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neuron {
    /// Layer, counted from 0.
    pub layer: usize,
    /// Place among the layer's neurons, counted from 0.
    pub index: usize,
    /// What it adds to the answer's probability.
    #[serde(default)]
    pub attribution: f64,
}

/// The neurons whose attribution is above `threshold` times the largest, the largest first; none if nothing adds to the probability.
pub(crate) fn coarse(attribution: &Attribution, threshold: f64) -> Vec<Neuron> {
    let largest = attribution.scores.iter().flatten().copied().fold(0.0, f64::max);
    let all = attribution.scores.iter().enumerate().flat_map(|(layer, scores)| {
        scores.iter().enumerate().map(move |(index, attribution)| Neuron { layer, index, attribution: *attribution })
    });
    sorted(all.filter(|neuron| neuron.attribution > 0.0 && neuron.attribution > threshold * largest).collect())
}

/// The neurons that are in more than `share` of the sets, with their mean attribution over the sets they are in.
pub(crate) fn refined(sets: &[Vec<Neuron>], share: f64) -> Vec<Neuron> {
    let mut found: BTreeMap<(usize, usize), (usize, f64)> = BTreeMap::new();
    for neuron in sets.iter().flatten() {
        let (count, sum) = found.entry((neuron.layer, neuron.index)).or_default();
        *count += 1;
        *sum += neuron.attribution;
    }
    let shared = found.into_iter().filter(|(_, (count, _))| *count as f64 > share * sets.len() as f64);
    sorted(shared.map(|((layer, index), (count, sum))| Neuron { layer, index, attribution: sum / count as f64 }).collect())
}

fn sorted(mut neurons: Vec<Neuron>) -> Vec<Neuron> {
    neurons.sort_by(|a, b| b.attribution.total_cmp(&a.attribution).then((a.layer, a.index).cmp(&(b.layer, b.index))));
    neurons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neuron(layer: usize, index: usize, attribution: f64) -> Neuron {
        Neuron { layer, index, attribution }
    }

    #[test]
    fn a_share_of_the_largest_decides() {
        let attribution = Attribution { scores: vec![vec![0.1, -3.0, 0.3], vec![0.0, 1.0, 0.2]], probabilities: vec![] };
        assert_eq!(coarse(&attribution, 0.2), [neuron(1, 1, 1.0), neuron(0, 2, 0.3)]);
        assert_eq!(coarse(&attribution, 0.0).len(), 4);
        let negative = Attribution { scores: vec![vec![-1.0, 0.0]], probabilities: vec![] };
        assert!(coarse(&negative, 0.2).is_empty());
    }

    #[test]
    fn refined_neurons_are_shared() {
        let sets = [vec![neuron(0, 1, 2.0), neuron(1, 1, 1.0)], vec![neuron(1, 1, 3.0)], vec![neuron(2, 0, 0.5)]];
        assert_eq!(refined(&sets, 0.4), [neuron(1, 1, 2.0)]);
        assert_eq!(refined(&sets, 0.0).len(), 3);
    }
}
