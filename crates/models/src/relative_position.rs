use burn::tensor::{Int, Tensor, TensorData};
use easyedit_core::Pass;

use crate::{ModelConfig, Result};

/// Biases of attention scores by the distance between query and key, learned per head for buckets of distances: single distances near by,
/// wider and wider ranges further off.
///
/// # Source
///
/// Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020, section 2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RelativePositions {
    /// Number of buckets.
    pub(crate) buckets: usize,
    /// From this distance on, everything is in the last bucket.
    pub(crate) max_distance: usize,
    /// Whether keys behind the query have buckets of their own, one half of all; otherwise they count as distance 0.
    pub(crate) both_ways: bool,
}

impl RelativePositions {
    /// What a configuration says.
    ///
    /// # Errors
    ///
    /// [`Error::Format`](crate::Error::Format) if the buckets cannot be told apart.
    pub(crate) fn of(config: &ModelConfig, both_ways: bool) -> Result<Self> {
        const BUCKETS: &str = "relative_attention_num_buckets";
        const DISTANCE: &str = "relative_attention_max_distance";
        let buckets = config.optional_dimension(BUCKETS)?.unwrap_or(32);
        let max_distance = config.optional_dimension(DISTANCE)?.unwrap_or(128);
        if buckets < 4 || !buckets.is_multiple_of(4) {
            return Err(config.error(BUCKETS, format!("is {buckets}, not a multiple of 4")));
        }
        if max_distance <= buckets / 2 {
            return Err(config.error(DISTANCE, format!("is {max_distance}, but {buckets} buckets reach further than that")));
        }
        Ok(Self { buckets, max_distance, both_ways })
    }

    /// The bucket of a key at position `key` for a query at position `query`.
    pub(crate) fn bucket(&self, query: usize, key: usize) -> usize {
        let (first, buckets, distance) = match self.both_ways {
            true if key > query => (self.buckets / 2, self.buckets / 2, key - query),
            true => (0, self.buckets / 2, query - key),
            false => (0, self.buckets, query.saturating_sub(key)),
        };
        let exact = buckets / 2;
        if distance < exact {
            return first + distance;
        }
        // In f32, as the models were trained: the borders of the ranges depend on it.
        let octaves = (distance as f32 / exact as f32).ln() / (self.max_distance as f64 / exact as f64).ln() as f32;
        let range = (octaves * (buckets - exact) as f32) as usize;
        first + (exact + range).min(buckets - 1)
    }

    /// What is added to the scores of a pass, from the learned `table: [buckets, heads]`.
    ///
    /// # Shapes
    ///
    /// `[rows, heads, width, slots]`; one row where all rows of the pass have the same distances.
    pub(crate) fn bias(&self, table: &Tensor<2>, pass: &Pass) -> Tensor<4> {
        let [_, width, slots] = pass.score_shape();
        let [_, heads] = table.dims();
        let buckets: Vec<Option<usize>> = pass.position_pairs().map(|(query, key)| key.map(|key| self.bucket(query, key))).collect();
        let buckets = match common(&buckets, width * slots) {
            Some(row) => row,
            None => buckets,
        };
        let rows = buckets.len() / (width * slots);
        let ids: Vec<i64> = buckets.into_iter().map(|bucket| bucket.unwrap_or(0) as i64).collect();
        let count = ids.len();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), pass.device());
        table.clone().select(0, ids).reshape([rows, width, slots, heads]).permute([0, 3, 1, 2])
    }
}

/// The one row that all rows of length `length` are, but for what they leave open; `None` if they differ.
fn common(rows: &[Option<usize>], length: usize) -> Option<Vec<Option<usize>>> {
    let mut rows = rows.chunks(length);
    let mut common = rows.next()?.to_vec();
    for row in rows {
        for (known, value) in common.iter_mut().zip(row) {
            match (&known, value) {
                (Some(a), Some(b)) if a != b => return None,
                (None, Some(_)) => *known = *value,
                _ => {}
            }
        }
    }
    Some(common)
}

#[cfg(test)]
mod tests {
    use super::*;
    use easyedit_core::TokenBatch;

    #[test]
    fn buckets_are_exact_near_by_and_logarithmic_further_off() {
        let backward = RelativePositions { buckets: 8, max_distance: 16, both_ways: false };
        // 4 exact distances; from 4 on, 4 ranges that end where (d/4)^(1/ln 4·4) passes a whole number: 5.66, 8, 11.3, 16.
        let want = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7];
        let got: Vec<usize> = (0..want.len()).map(|distance| backward.bucket(40, 40 - distance)).collect();
        assert_eq!(got, want);
        assert_eq!((backward.bucket(3, 9), backward.bucket(1000, 0)), (0, 7), "what lies ahead counts as near");

        let both = RelativePositions { both_ways: true, ..backward };
        // 2 exact distances and 2 ranges for each direction: 2·8^(1/2) = 5.66.
        let want = [0, 1, 2, 2, 2, 2, 3, 3, 3];
        assert_eq!((0..want.len()).map(|d| both.bucket(40, 40 - d)).collect::<Vec<_>>(), want);
        let ahead: Vec<usize> = (1..want.len()).map(|d| both.bucket(40, 40 + d)).collect();
        assert_eq!(ahead, want[1..].iter().map(|bucket| bucket + 4).collect::<Vec<_>>());
    }

    #[test]
    fn the_usual_buckets_have_the_usual_borders() {
        let positions = RelativePositions { buckets: 32, max_distance: 128, both_ways: true };
        let borders: Vec<usize> = (1..200).filter(|d| positions.bucket(0, *d) != positions.bucket(0, d - 1)).collect();
        // 16 buckets a direction: 8 exact, then ranges of 8·16^(i/8).
        assert_eq!(borders, [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]);
        let backward = RelativePositions { both_ways: false, ..positions };
        let borders: Vec<usize> = (16..200).filter(|d| backward.bucket(*d, 0) != backward.bucket(d - 1, 0)).collect();
        // 16·8^(i/16)
        assert_eq!(borders, [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]);
    }

    #[test]
    fn rows_with_the_same_distances_share_one_bias() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let positions = RelativePositions { buckets: 4, max_distance: 4, both_ways: false };
        let table = Tensor::<2>::from_floats([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0], [3.0, 13.0]], &device);
        let pass = Pass::new(TokenBatch::new(&[vec![1], vec![1, 2, 3]]).unwrap(), &device);
        let bias = positions.bias(&table, &pass);
        assert_eq!(bias.dims(), [1, 2, 3, 3]);
        let values = bias.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(values[..9], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 1.0, 0.0]);
        assert_eq!(values[15..], [12.0, 11.0, 10.0]);
        assert!(common(&[Some(1), None, Some(2), Some(3)], 2).is_none());
        assert_eq!(common(&[Some(1), None, None, Some(3)], 2), Some(vec![Some(1), Some(3)]));
    }
}
