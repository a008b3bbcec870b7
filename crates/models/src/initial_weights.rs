use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Result, TensorSource};

/// Standard deviation of the weights at the start.
const SPREAD: f32 = 0.05;

/// The embedding of an encoder-decoder, whose head is scaled down by the root of the width: its rows start with that length.
const SHARED: &str = "shared.weight";

/// The weights that the training of a new model starts from: matrices normally distributed around 0, gains 1, biases 0. Each tensor depends
/// on the seed and its name alone.
#[derive(Clone, Copy, Debug)]
pub struct InitialWeights {
    /// Seed of the draws.
    pub seed: u64,
}

impl TensorSource for InitialWeights {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn contains(&self, _: &str) -> bool {
        true
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let count = shape.iter().product();
        if shape.len() == 1 {
            return Ok(vec![if name.ends_with(".bias") { 0.0 } else { 1.0 }; count]);
        }
        // Each tensor has a stream of its own, so that the order of reading does not matter.
        let stream = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ stream);
        let spread = if name == SHARED { 1.0 } else { SPREAD };
        // A sum of twelve uniform draws has variance 1.
        Ok((0..count).map(|_| spread * ((0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0)).collect())
    }

    fn path(&self) -> &Path {
        Path::new("initial weights")
    }
}
