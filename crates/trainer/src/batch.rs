use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// A set of examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The examples that are learned.
    Train,
    /// The examples that measure.
    Val,
}

impl Split {
    /// The suffix of its averages.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

/// The examples of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The set they are from.
    pub split: Split,
    /// Their places in it.
    pub examples: Vec<usize>,
    /// Number of the iteration, from 1; of a validation, that of its batch.
    pub iteration: u64,
    /// Seed of the run.
    pub seed: u64,
}

impl Batch {
    /// The source of all that is drawn for this batch: the same whenever the batch is run.
    pub fn rng(&self) -> ChaCha8Rng {
        stream(self.seed, self.split, Purpose::Batch, self.iteration)
    }
}

/// What random numbers are for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Batch = 1,
    Order = 2,
    Subset = 3,
}

/// Random numbers that depend on these alone.
pub(crate) fn stream(seed: u64, split: Split, purpose: Purpose, number: u64) -> ChaCha8Rng {
    let mut bytes = [0u8; 32];
    let words = [seed, number, purpose as u64, split as u64];
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    ChaCha8Rng::from_seed(bytes)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn random_numbers_depend_on_seed_set_and_iteration_alone() {
        let draw = |split, iteration, seed| Batch { split, examples: Vec::new(), iteration, seed }.rng().random::<u64>();
        assert_eq!(draw(Split::Train, 3, 1), draw(Split::Train, 3, 1));
        let all = [draw(Split::Train, 3, 1), draw(Split::Train, 4, 1), draw(Split::Train, 3, 2), draw(Split::Val, 3, 1)];
        assert!(all.iter().enumerate().all(|(i, a)| all[..i].iter().all(|b| a != b)));
    }
}
