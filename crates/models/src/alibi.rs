use burn::tensor::{Tensor, TensorData};
use easyedit_core::{MASKED_SCORE, Pass, Visibility};

/// Attention with linear biases: the further back a key is, the lower its score.
///
/// # Source
///
/// Press et al., "Train Short, Test Long", 2022.
#[derive(Clone, Debug)]
pub(crate) struct Alibi {
    /// How much a head's score falls per position.
    slopes: Vec<f64>,
}

impl Alibi {
    /// The slopes of `heads` heads: a geometric sequence for a power of two; for other counts that of the power below, and then
    /// every second slope of the power above.
    pub(crate) fn new(heads: usize) -> Self {
        let power = heads.checked_ilog2().map_or(0, |log| 1 << log);
        let slope = |count: usize, index: usize| (-8.0 * index as f64 / count as f64).exp2();
        let first = (1..=power).map(|index| slope(power, index));
        let more = (0..heads - power).map(|index| slope(2 * power, 2 * index + 1));
        Self { slopes: first.chain(more).collect() }
    }

    /// What is added to the scores of a pass, the causal mask with it.
    ///
    /// # Shapes
    ///
    /// `[rows, heads, width, slots]`
    pub(crate) fn bias(&self, pass: &Pass) -> Tensor<4> {
        let [rows, width, slots] = pass.score_shape();
        let pairs: Vec<_> = pass.position_pairs().collect();
        let mut values = Vec::with_capacity(pairs.len() * self.slopes.len());
        for row in pairs.chunks(width * slots) {
            for slope in &self.slopes {
                values.extend(row.iter().map(|(query, key)| match key {
                    Some(key) if Visibility::Causal.sees(*query, *key) => (-slope * (query - key) as f64) as f32,
                    _ => MASKED_SCORE,
                }));
            }
        }
        Tensor::from_data(TensorData::new(values, [rows, self.slopes.len(), width, slots]), pass.device())
    }
}

#[cfg(test)]
mod tests {
    use easyedit_core::TokenBatch;

    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        assert_eq!(Alibi::new(8).slopes, [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
        assert_eq!(Alibi::new(3).slopes, [0.0625, 0.00390625, 0.25]);
        // Baichuan-13B: those of 32 heads, and 8 of those of 64.
        let slopes = Alibi::new(40).slopes;
        assert_eq!((slopes.len(), slopes[3], slopes[31], slopes[32]), (40, 0.5, 1.0 / 256.0, (-0.125f64).exp2()));
        assert_eq!(slopes[39], (-15.0f64 / 8.0).exp2());
    }

    #[test]
    fn scores_fall_with_the_distance_and_the_future_is_masked() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let pass = Pass::new(TokenBatch::new(&[vec![1, 2, 3]]).unwrap(), &device);
        let bias = Alibi::new(2).bias(&pass);
        assert_eq!(bias.dims(), [1, 2, 3, 3]);
        let values = bias.into_data().try_to_vec::<f32>().unwrap();
        for (head, slope) in [1.0 / 16.0, 1.0 / 256.0].into_iter().enumerate() {
            for (query, key) in (0..3).flat_map(|query| (0..3).map(move |key| (query, key))) {
                let want = if key > query { MASKED_SCORE } else { -slope * (query - key) as f32 };
                assert_eq!(values[head * 9 + query * 3 + key], want);
            }
        }
    }
}
