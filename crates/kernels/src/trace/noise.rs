//! Noise on the subject's embeddings, and how strong it should be.

use std::ops::Range;

use burn::tensor::Tensor;
use easyedit_core::{Error, LanguageModel, Matrix, ParamName, ParameterRole, Pass, Result, Stack, TokenBatch, TokenSlice, tensor_values};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Gaussian noise of standard deviation `deviation` for the samples `samples` of a seed: what [`trace`](super::trace) adds to the
/// embeddings of the subject's tokens.
///
/// # Shapes
///
/// `[samples * tokens, width]`, sample after sample.
///
/// # Errors
///
/// None, unless the shape overflows.
pub fn subject_noise(seed: u64, samples: Range<usize>, tokens: usize, width: usize, deviation: f64) -> Result<Matrix> {
    let (rows, count) = (samples.len() * tokens, tokens * width);
    let mut values = Vec::with_capacity(rows * width);
    for sample in samples {
        // A stream of its own for each sample, so that its noise depends neither on the others nor on how they are batched.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(sample as u64);
        let mut drawn = 0;
        while drawn < count {
            // Box and Muller: two uniform numbers give two normal ones.
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * deviation;
            let angle = std::f64::consts::TAU * rng.random::<f64>();
            for normal in [radius * angle.cos(), radius * angle.sin()].into_iter().take(count - drawn) {
                values.push(normal as f32);
                drawn += 1;
            }
        }
    }
    Matrix::new(rows, width, values).ok_or_else(|| Error::Batch("noise of another shape than the embeddings".into()))
}

/// Standard deviation of all components of the embeddings of `tokens`, without what a model adds for positions.
///
/// # Errors
///
/// If there are no tokens, an id is beyond the model's table, or an insert is not of its width.
///
/// # Source
///
/// Meng et al. 2022, footnote 2 and appendix B.1: the noise is three times that of a set of subjects.
pub fn embedding_deviation(model: &dyn LanguageModel, tokens: TokenSlice<'_>) -> Result<f64> {
    let mut values = tensor_values(&token_embeddings(model, tokens)?)?;
    for insert in tokens.inserts() {
        let Range { start, end } = insert.tokens();
        if let Some(replaced) = values.get_mut(start * insert.width()..end * insert.width()) {
            replaced.copy_from_slice(insert.values());
        }
    }
    let count = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let squares: f64 = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum();
    Ok((squares / (count - 1.0).max(1.0)).sqrt())
}

/// The rows of the table of embeddings; where it is not to be told which parameter that is, the embeddings at position 0.
fn token_embeddings(model: &dyn LanguageModel, tokens: TokenSlice<'_>) -> Result<Tensor<2>> {
    // One token a row: every one is at position 0. This also checks ids and inserts.
    let rows: Vec<TokenSlice<'_>> = (0..tokens.len()).map(|token| tokens.slice(token..token + 1)).collect();
    let at_start = model.embed(&Pass::new(TokenBatch::new(&rows)?, &model.device()))?;
    match embedding_table(model) {
        Some(table) => {
            let positions: Vec<usize> = tokens.ids().iter().map(|id| *id as usize).collect();
            Ok(model.rows_of(model.weight(table)?, &positions))
        }
        None => Ok(at_start),
    }
}

/// The parameter that holds the embeddings.
fn embedding_table(model: &dyn LanguageModel) -> Option<&ParamName> {
    model.spec().name_of(Stack::Decoder, None, ParameterRole::TokenEmbedding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_normal_and_depends_on_the_sample_alone() {
        let all = subject_noise(3, 0..4, 25, 101, 2.0).unwrap();
        let some = subject_noise(3, 2..3, 25, 101, 2.0).unwrap();
        assert_eq!(&all.values()[2 * 2525..3 * 2525], some.values());
        assert_ne!(some, subject_noise(4, 2..3, 25, 101, 2.0).unwrap());
        let n = all.values().len() as f64;
        let moment = |power: i32| all.values().iter().map(|v| (f64::from(*v) / 2.0).powi(power)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.04 && (moment(2) - 1.0).abs() < 0.06, "{} {}", moment(1), moment(2));
        assert!((moment(4) - 3.0).abs() < 0.4, "the tails of a normal distribution: {}", moment(4));
    }

    #[test]
    fn the_table_of_embeddings_is_found_in_every_family() {
        let mut checked = 0;
        for family in easyedit_models::families().iter().flat_map(|family| family.model_types) {
            // Not every type has a tiny model (text encoders have none).
            let Ok(model) = easyedit_models::tiny::tiny_model(family, 3) else { continue };
            if model.spec().encoder.is_some() {
                continue;
            }
            let table = embedding_table(&*model).unwrap_or_else(|| panic!("{family}: no table"));
            let table = model.weight(table).unwrap();
            let device = model.device();
            let at = |id: u32| model.embed(&Pass::new(TokenBatch::new(&[[id]]).unwrap(), &device)).unwrap();
            // What positions add is the same for both tokens.
            let by_embedding = tensor_values(&(at(5) - at(9))).unwrap();
            let by_table = tensor_values(&(table.clone().narrow(0, 5, 1) - table.narrow(0, 9, 1))).unwrap();
            let worst = by_embedding.iter().zip(&by_table).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-6, "{family}: {worst}");
            checked += 1;
        }
        assert!(checked >= 9, "only {checked} families were checked");
    }
}
