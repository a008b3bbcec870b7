use rand::seq::SliceRandom;

use crate::Split;
use crate::batch::{Purpose, stream};

/// The order of the examples: a permutation for each epoch, of which every batch is the next part. The last batch of an epoch may be smaller.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    examples: usize,
    batch_size: usize,
    seed: u64,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// The order of at least one example.
    pub(crate) fn new(examples: usize, batch_size: usize, seed: u64) -> Self {
        Self { examples, batch_size, seed, epoch: None }
    }

    /// Batches of an epoch.
    pub(crate) fn batches(&self) -> u64 {
        self.examples.div_ceil(self.batch_size) as u64
    }

    /// The examples of iteration `iteration`, counted from 1.
    pub(crate) fn batch(&mut self, iteration: u64) -> Vec<usize> {
        let (number, seed, examples) = ((iteration - 1) / self.batches(), self.seed, self.examples);
        let place = ((iteration - 1) % self.batches()) as usize * self.batch_size;
        let (_, permutation) = match self.epoch.take() {
            Some(known) if known.0 == number => self.epoch.insert(known),
            _ => self.epoch.insert((number, permutation(examples, seed, Split::Train, Purpose::Order, number))),
        };
        permutation.iter().skip(place).take(self.batch_size).copied().collect()
    }
}

/// The batches of a validation: `None` takes all examples in their order, a number that many batches of a subset that the seed chooses.
pub(crate) fn validation_batches(examples: usize, batch_size: usize, batches: Option<usize>, seed: u64) -> Vec<Vec<usize>> {
    let chosen = match batches {
        None => (0..examples).collect(),
        Some(batches) => {
            let mut chosen = permutation(examples, seed, Split::Val, Purpose::Subset, 0);
            chosen.truncate(batches.saturating_mul(batch_size));
            chosen.sort_unstable();
            chosen
        }
    };
    chosen.chunks(batch_size).map(<[usize]>::to_vec).collect()
}

fn permutation(examples: usize, seed: u64, split: Split, purpose: Purpose, number: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..examples).collect();
    order.shuffle(&mut stream(seed, split, purpose, number));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_each_example_once_in_an_order_of_its_own() {
        let mut order = Order::new(7, 3, 5);
        let mut epoch = |first: u64| (first..first + 3).flat_map(|iteration| order.batch(iteration)).collect::<Vec<_>>();
        let (first, second) = (epoch(1), epoch(4));
        assert_ne!(first, second);
        for mut epoch in [first.clone(), second] {
            epoch.sort_unstable();
            assert_eq!(epoch, [0, 1, 2, 3, 4, 5, 6]);
        }
        // A run that begins in the middle gets the same batch.
        assert_eq!(Order::new(7, 3, 5).batch(2), first[3..6]);
    }

    #[test]
    fn a_validation_has_the_same_subset_each_time() {
        let subset = validation_batches(20, 2, Some(3), 1);
        assert_eq!((subset.len(), &subset), (3, &validation_batches(20, 2, Some(3), 1)));
        assert_ne!(subset, validation_batches(20, 2, Some(3), 2));
        assert_eq!(validation_batches(5, 2, None, 1), [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(validation_batches(5, 2, Some(99), 1).concat().len(), 5);
    }
}
