use easyedit_core::{ModelMap, ModelSpec, ModuleNames};
use serde_json::{Map, Value};

use crate::{ModelConfig, Result};

/// The sizes of a transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the MLP key.
    pub d_mlp: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; equal to `heads` unless groups of queries share theirs.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
}

/// Under which keys a family's `config.json` holds the sizes.
#[derive(Debug)]
pub(crate) struct ShapeKeys {
    pub(crate) vocab_size: &'static str,
    pub(crate) d_model: &'static str,
    pub(crate) d_mlp: &'static str,
    /// `d_mlp` is so many times `d_model` if its key is absent; `None` if it must be there.
    pub(crate) d_mlp_factor: Option<usize>,
    pub(crate) n_layers: &'static str,
    pub(crate) heads: &'static str,
    /// Absent in families whose heads all have their own keys and values.
    pub(crate) kv_heads: Option<&'static str>,
    /// Absent in families whose heads always divide `d_model` among them.
    pub(crate) head_dim: Option<&'static str>,
    pub(crate) max_positions: &'static str,
}

impl Shape {
    /// Reads the sizes and checks that the heads fit.
    pub(crate) fn read(config: &ModelConfig, keys: &ShapeKeys) -> Result<Self> {
        let d_model = config.dimension(keys.d_model)?;
        let d_mlp = match (config.optional_dimension(keys.d_mlp)?, keys.d_mlp_factor) {
            (Some(d_mlp), _) => d_mlp,
            (None, Some(factor)) => factor * d_model,
            (None, None) => config.dimension(keys.d_mlp)?,
        };
        let heads = config.dimension(keys.heads)?;
        let optional = |key: Option<&str>| key.map_or(Ok(None), |key| config.optional_dimension(key));
        let kv_heads = optional(keys.kv_heads)?.unwrap_or(heads);
        config.divide(keys.heads, heads, keys.kv_heads.unwrap_or(keys.heads), kv_heads)?;
        let head_dim = match optional(keys.head_dim)? {
            Some(head_dim) => head_dim,
            None => config.divide(keys.d_model, d_model, keys.heads, heads)?,
        };
        Ok(Self {
            vocab_size: config.table_rows(keys.vocab_size)?,
            d_model,
            d_mlp,
            n_layers: config.dimension(keys.n_layers)?,
            heads,
            kv_heads,
            head_dim,
            max_positions: config.table_rows(keys.max_positions)?,
        })
    }

    /// The part of a `config.json` that holds the sizes.
    pub(crate) fn write(&self, keys: &ShapeKeys) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |key: Option<&str>, value: usize| key.and_then(|key| map.insert(key.to_owned(), value.into()));
        put(Some(keys.vocab_size), self.vocab_size);
        put(Some(keys.d_model), self.d_model);
        put(Some(keys.d_mlp), self.d_mlp);
        put(Some(keys.n_layers), self.n_layers);
        put(Some(keys.heads), self.heads);
        put(keys.kv_heads, self.kv_heads);
        // An absent `head_dim` means a share of the width; families that call it otherwise have a default of their own.
        put(keys.head_dim.filter(|key| *key != "head_dim" || self.heads * self.head_dim != self.d_model), self.head_dim);
        put(Some(keys.max_positions), self.max_positions);
        map
    }

    /// What a model of this shape is.
    pub(crate) fn spec(&self, config: &ModelConfig, name: &str, modules: ModuleNames, tied_head: bool, map: ModelMap) -> ModelSpec {
        ModelSpec {
            family: config.model_type().to_owned(),
            name: name.to_owned(),
            n_layers: self.n_layers,
            d_model: self.d_model,
            d_mlp: self.d_mlp,
            vocab_size: self.vocab_size,
            max_positions: self.max_positions,
            modules,
            tied_head,
            encoder: None,
            map,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::family;

    #[test]
    fn chatglm2_has_groups_of_queries() {
        let config = json!({
            "model_type": "chatglm", "add_bias_linear": false, "add_qkv_bias": true, "ffn_hidden_size": 13696, "hidden_size": 4096,
            "kv_channels": 128, "layernorm_epsilon": 1e-5, "multi_query_attention": true, "multi_query_group_num": 2,
            "num_attention_heads": 32, "num_layers": 28, "padded_vocab_size": 65024, "post_layer_norm": true, "rmsnorm": true,
            "seq_length": 32768,
        });
        let config = ModelConfig::new(config, "config.json").unwrap();
        let want = Shape {
            vocab_size: 65024,
            d_model: 4096,
            d_mlp: 13696,
            n_layers: 28,
            heads: 32,
            kv_heads: 2,
            head_dim: 128,
            max_positions: 32768,
        };
        assert_eq!(Shape::read(&config, &family("chatglm").unwrap().keys).unwrap(), want);
    }

    #[test]
    fn configurations_of_public_models_give_their_sizes() {
        let gpt_neox = |layers: usize, width: usize, heads: usize, vocabulary: usize| {
            json!({"model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": width, "intermediate_size": 4 * width,
                   "layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "num_attention_heads": heads, "num_hidden_layers": layers,
                   "rotary_emb_base": 10000, "rotary_pct": 0.25, "use_parallel_residual": true, "vocab_size": vocabulary})
        };
        // vocab_size, d_model, d_mlp, n_layers, heads, head_dim, max_positions
        let cases = [
            (
                "GPT-J 6B",
                json!({"model_type": "gptj", "n_embd": 4096, "n_head": 16, "n_inner": null, "n_layer": 28, "n_positions": 2048,
                       "rotary": true, "rotary_dim": 64, "vocab_size": 50400, "tie_word_embeddings": false}),
                [50400, 4096, 16384, 28, 16, 256, 2048],
            ),
            ("Pythia 70M", gpt_neox(6, 512, 8, 50304), [50304, 512, 2048, 6, 8, 64, 2048]),
            ("GPT-NeoX 20B", gpt_neox(44, 6144, 64, 50432), [50432, 6144, 24576, 44, 64, 96, 2048]),
            (
                "GPT-Neo 125M",
                json!({"model_type": "gpt_neo", "attention_types": [[["global", "local"], 6]], "hidden_size": 768,
                       "intermediate_size": null, "max_position_embeddings": 2048, "num_heads": 12, "num_layers": 12,
                       "vocab_size": 50257, "window_size": 256}),
                [50257, 768, 3072, 12, 12, 64, 2048],
            ),
            (
                "OPT 125M",
                json!({"model_type": "opt", "do_layer_norm_before": true, "ffn_dim": 3072, "hidden_size": 768,
                       "max_position_embeddings": 2048, "num_attention_heads": 12, "num_hidden_layers": 12, "vocab_size": 50272,
                       "word_embed_proj_dim": 768}),
                [50272, 768, 3072, 12, 12, 64, 2048],
            ),
            (
                "InternLM 7B",
                json!({"model_type": "internlm", "bias": true, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
                       "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 32, "rms_norm_eps": 1e-6,
                       "tie_word_embeddings": false, "vocab_size": 103168}),
                [103168, 4096, 11008, 32, 32, 128, 2048],
            ),
            (
                "Baichuan 7B",
                json!({"model_type": "baichuan", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
                       "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "rms_norm_eps": 1e-6,
                       "tie_word_embeddings": false, "vocab_size": 64000}),
                [64000, 4096, 11008, 32, 32, 128, 4096],
            ),
        ];
        for (name, config, [vocab_size, d_model, d_mlp, n_layers, heads, head_dim, max_positions]) in cases {
            let config = ModelConfig::new(config, "config.json").unwrap();
            let got = Shape::read(&config, &family(config.model_type()).unwrap().keys).unwrap();
            let want = Shape { vocab_size, d_model, d_mlp, n_layers, heads, kv_heads: heads, head_dim, max_positions };
            assert_eq!(got, want, "{name}");
        }
    }
}
