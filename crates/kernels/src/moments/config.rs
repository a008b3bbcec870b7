use easyedit_core::ModelSpec;
use serde::{Deserialize, Serialize};

/// Tokens counted per dimension of the keys where nobody says how many. A moment of rank below its size cannot be solved with, which
/// takes one token per dimension at least; FastMEMIT (arXiv 2506.04226) finds a small multiple of that to be enough.
const TOKENS_PER_DIMENSION: usize = 10;
/// Memory that the activations of one chunk may take, in bytes.
const CHUNK_BYTES: usize = 192 << 20;
/// Tensors of the model's width, and of the keys', that are alive at once while a block runs.
const LIVE_HIDDEN: usize = 12;
const LIVE_KEYS: usize = 6;
/// Scores of attention alive at once; and the width of a head, as most models have it.
const LIVE_SCORES: usize = 3;
const HEAD_WIDTH: usize = 64;
/// Bounds of a chunk: below, products are too thin to be fast; above, nothing is won.
const CHUNK_TOKENS: std::ops::RangeInclusive<usize> = 256..=4096;

/// What statistics are collected over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MomentConfig {
    /// Number of documents at most (EasyEdit's `mom2_n_samples`); all of them if there are fewer.
    pub samples: usize,
    /// Number of tokens at most; `None` does not limit them.
    pub tokens: Option<usize>,
    /// Documents are cut to this many tokens.
    pub document_tokens: usize,
    /// Tokens run at once; `None` chooses by the model's widths. Decides about memory and time, and about the last bits of the result.
    pub chunk_tokens: Option<usize>,
    /// Seed of the choice of documents, or of the text the model writes.
    pub seed: u64,
}

impl Default for MomentConfig {
    fn default() -> Self {
        Self { samples: 100_000, tokens: None, document_tokens: 1024, chunk_tokens: None, seed: 1 }
    }
}

impl MomentConfig {
    /// The number of tokens to count where nobody says how many: ten per dimension of the keys.
    pub fn default_tokens(spec: &ModelSpec) -> usize {
        spec.d_mlp.saturating_mul(TOKENS_PER_DIMENSION)
    }

    /// The settings with everything that the model decides decided. What they do not depend on: the machine, and the number of layers.
    pub(crate) fn resolved(&self, spec: &ModelSpec) -> Self {
        let document_tokens = self.document_tokens.min(spec.max_positions).max(1);
        Self {
            document_tokens,
            chunk_tokens: Some(self.chunk_tokens.unwrap_or_else(|| chunk_tokens(spec, document_tokens)).max(1)),
            ..self.clone()
        }
    }
}

/// How many tokens fit into [`CHUNK_BYTES`], if all documents are as long as they may be.
fn chunk_tokens(spec: &ModelSpec, document_tokens: usize) -> usize {
    let scores = (spec.d_model / HEAD_WIDTH).max(1).saturating_mul(document_tokens);
    let per_token = 4 * (LIVE_HIDDEN * spec.d_model + LIVE_KEYS * spec.d_mlp).saturating_add(LIVE_SCORES.saturating_mul(scores)).max(1);
    let fitting = CHUNK_BYTES / per_token / 128 * 128;
    fitting.clamp(*CHUNK_TOKENS.start(), *CHUNK_TOKENS.end())
}

#[cfg(test)]
mod tests {
    use easyedit_core::{ModelMap, ModuleNames};

    use super::*;

    fn spec(d_model: usize, d_mlp: usize) -> ModelSpec {
        let modules = ModuleNames {
            layer: String::new(),
            mlp: String::new(),
            mlp_out: String::new(),
            attention: String::new(),
            final_norm: String::new(),
            lm_head: String::new(),
        };
        ModelSpec {
            family: "x".into(),
            name: "x".into(),
            n_layers: 1,
            d_model,
            d_mlp,
            vocab_size: 1,
            max_positions: 2048,
            modules,
            tied_head: false,
            encoder: None,
            map: ModelMap::default(),
        }
    }

    #[test]
    fn wide_models_run_fewer_tokens_at_once() {
        let tokens = |d_model, d_mlp| MomentConfig::default().resolved(&spec(d_model, d_mlp)).chunk_tokens.unwrap();
        assert!(tokens(32, 64) == 4096 && tokens(576, 1536) >= 1024 && tokens(576, 1536) < 4096);
        assert!(tokens(4096, 11008) < tokens(576, 1536) && tokens(1 << 20, 1 << 22) == 256);
        assert_eq!(MomentConfig::default_tokens(&spec(576, 1536)), 15_360);
    }

    #[test]
    fn what_is_said_is_kept() {
        let config = MomentConfig { chunk_tokens: Some(7), document_tokens: 5000, ..MomentConfig::default() };
        let resolved = config.resolved(&spec(32, 64));
        assert_eq!((resolved.chunk_tokens, resolved.document_tokens), (Some(7), 2048));
        assert_eq!(resolved.resolved(&spec(4096, 11008)), resolved, "settled settings do not change");
    }
}
