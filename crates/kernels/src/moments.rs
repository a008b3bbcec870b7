use std::collections::BTreeMap;

use burn::tensor::Tensor;
use easyedit_core::{Capture, Error, LanguageModel, Module, Pass, Progress, Result, Site, TokenBatch, tensor_values};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// What statistics are collected over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MomentConfig {
    /// Number of documents (EasyEdit's `mom2_n_samples`); all of them if there are fewer.
    pub samples: usize,
    /// Documents are cut to this many tokens.
    pub document_tokens: usize,
    /// Tokens run in one batch.
    pub batch_tokens: usize,
    /// Seed of the choice of documents.
    pub seed: u64,
}

impl Default for MomentConfig {
    fn default() -> Self {
        Self { samples: 100_000, document_tokens: 1024, batch_tokens: 2048, seed: 1 }
    }
}

/// The uncentred second moment C = E\[k kᵀ\] of a layer's MLP keys, over every token of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct SecondMoments {
    size: usize,
    tokens: u64,
    mean: Vec<f32>,
}

impl SecondMoments {
    /// Collects the moments of several layers in one pass over `documents`, which stops at the deepest of them. Products are summed in
    /// f32 within a batch and in f64 over batches.
    ///
    /// # Errors
    ///
    /// If there is no text, a layer is out of range, or the keys are not finite.
    ///
    /// # Source
    ///
    /// Meng et al., "Locating and Editing Factual Associations in GPT", section 3.1 and appendix E.
    pub fn collect(
        model: &dyn LanguageModel,
        layers: &[usize],
        documents: &[String],
        config: &MomentConfig,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<usize, Self>> {
        layers.iter().try_for_each(|layer| model.spec().check_layer(*layer))?;
        let Some(deepest) = layers.iter().max().copied() else {
            return Ok(BTreeMap::new());
        };
        let rows = token_rows(model, documents, config)?;
        let total: usize = rows.iter().map(Vec::len).sum();
        if total == 0 {
            return Err(Error::Batch("there is no text to collect statistics over".into()));
        }
        let size = model.spec().d_mlp;
        let mut sums: BTreeMap<usize, Vec<f64>> = layers.iter().map(|layer| (*layer, vec![0.0; size * size])).collect();
        progress.begin(&format!("second moments of layers {layers:?} (tokens)"), Some(total as u64));
        let outcome = batches(&rows, config.batch_tokens).into_iter().try_for_each(|batch| -> Result<()> {
            let batch = TokenBatch::new(batch)?;
            let tokens = batch.tokens();
            for (layer, keys) in keys_of(model, layers, deepest, batch)? {
                let product = tensor_values(&keys.clone().transpose().matmul(keys))?;
                if let Some(sum) = sums.get_mut(&layer) {
                    sum.iter_mut().zip(product).for_each(|(s, p)| *s += f64::from(p));
                }
            }
            progress.advance(tokens as u64);
            Ok(())
        });
        progress.end();
        outcome?;
        sums.into_iter()
            .map(|(layer, sum)| {
                let mean: Vec<f32> = sum.iter().map(|s| (s / total as f64) as f32).collect();
                if mean.iter().any(|v| !v.is_finite()) {
                    return Err(Error::NotFinite(format!("the second moments of layer {layer} are not finite; the weights are damaged")));
                }
                Ok((layer, Self { size, tokens: total as u64, mean }))
            })
            .collect()
    }

    /// Moments from their parts: `mean: [size, size]`, row by row.
    pub(crate) fn from_parts(size: usize, tokens: u64, mean: Vec<f32>) -> Option<Self> {
        (size.checked_mul(size) == Some(mean.len())).then_some(Self { size, tokens, mean })
    }

    /// Width of the keys.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of tokens counted.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The moment matrix, row by row: `[size, size]`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Factors the matrix, for solving with it; `layer` is named in warnings.
    ///
    /// # Errors
    ///
    /// As [`Cholesky::new`](crate::Cholesky::new).
    pub fn factor(&self, layer: usize) -> Result<crate::Cholesky> {
        self.factor_scaled(1.0, 0.0, layer)
    }

    /// Factors `scale` times the matrix, with `ridge` added to its diagonal; `layer` is named in warnings.
    ///
    /// # Errors
    ///
    /// As [`Cholesky::new`](crate::Cholesky::new).
    pub fn factor_scaled(&self, scale: f64, ridge: f64, layer: usize) -> Result<crate::Cholesky> {
        // The average of both triangles: sums of products differ by rounding.
        let entry = |r: usize, c: usize| 0.5 * (f64::from(self.mean[r * self.size + c]) + f64::from(self.mean[c * self.size + r]));
        let entry = |r: usize, c: usize| scale * entry(r, c) + if r == c { ridge } else { 0.0 };
        crate::Cholesky::new(self.size, entry, &format!("the second moment of layer {layer} (over {} tokens)", self.tokens))
    }
}

fn token_rows(model: &dyn LanguageModel, documents: &[String], config: &MomentConfig) -> Result<Vec<Vec<u32>>> {
    let mut order: Vec<usize> = (0..documents.len()).collect();
    if config.samples < documents.len() {
        order.shuffle(&mut StdRng::seed_from_u64(config.seed));
        order.truncate(config.samples);
        order.sort_unstable();
    }
    let limit = config.document_tokens.min(model.spec().max_positions);
    let mut rows = Vec::with_capacity(order.len());
    for index in order {
        let mut ids = model.tokenizer().encode(&documents[index])?.ids;
        ids.truncate(limit);
        if !ids.is_empty() {
            rows.push(ids);
        }
    }
    Ok(rows)
}

/// Consecutive rows of about `batch_tokens` tokens together; at least one row each.
fn batches(rows: &[Vec<u32>], batch_tokens: usize) -> Vec<&[Vec<u32>]> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (index, row) in rows.iter().enumerate() {
        if index > start && tokens + row.len() > batch_tokens {
            batches.push(&rows[start..index]);
            (start, tokens) = (index, 0);
        }
        tokens += row.len();
    }
    if start < rows.len() {
        batches.push(&rows[start..]);
    }
    batches
}

fn keys_of(model: &dyn LanguageModel, layers: &[usize], deepest: usize, batch: TokenBatch) -> Result<Vec<(usize, Tensor<2>)>> {
    let site = |layer: &usize| Site::new(*layer, Module::MlpKey);
    let mut capture = Capture::new(layers.iter().map(site));
    let mut pass = Pass::new(batch, &model.device());
    let hidden = model.embed(&pass)?;
    model.run_layers(hidden, 0..deepest + 1, &mut pass, &mut capture)?;
    let taken = layers.iter().filter_map(|layer| capture.take(site(layer)).map(|keys| (*layer, keys)));
    Ok(taken.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_whole_rows_up_to_the_budget() {
        let rows = vec![vec![0; 3], vec![0; 3], vec![0; 9], vec![0; 1]];
        let sizes: Vec<usize> = batches(&rows, 6).iter().map(|b| b.len()).collect();
        assert_eq!(sizes, [2, 1, 1]);
    }
}
