use std::path::{Path, PathBuf};

use easyedit_models::{Shape, new_config};
use serde_json::{Value, json};

use crate::tokenizer::{END_ID, PAD_ID, VOCABULARY};
use crate::{Error, Result};

/// A model of the tiny world: its name, and what is particular about its architecture.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// Name of its folder.
    pub(crate) name: &'static str,
    model_type: &'static str,
    /// Whether its MLP is gated, and so has three matrices instead of two.
    gated: bool,
    kv_heads: usize,
    /// Number of blocks; of each of encoder and decoder where there are both.
    layers: usize,
    /// Training steps it takes to know the world.
    pub(crate) steps: usize,
    /// What its configuration has beside the sizes and the family's defaults.
    settings: fn() -> Value,
}

/// Every model there is.
pub(crate) static ARCHITECTURES: &[Architecture] = &[
    plain("gpt2", "gpt2", || json!({})),
    gated("llama", "llama", 2, || json!({})),
    gated("mistral", "mistral", 2, || json!({"sliding_window": 16})),
    gated("qwen2", "qwen2", 2, || json!({})),
    plain("gptj", "gptj", || json!({"rotary_dim": 12})),
    plain("gpt_neox", "gpt_neox", || json!({"rotary_pct": 0.5})),
    plain("gpt_neo", "gpt_neo", || json!({"window_size": 16, "attention_types": [[["global", "local"], LAYERS / 2]]})),
    plain("opt", "opt", || json!({"word_embed_proj_dim": D_MODEL})),
    gated("baichuan", "baichuan", HEADS, || json!({})),
    gated("baichuan_13b", "baichuan", HEADS, || json!({"max_position_embeddings": null, "model_max_length": MAX_POSITIONS})),
    gated("internlm", "internlm", HEADS, || json!({"bias": true})),
    gated("chatglm2", "chatglm", 2, || json!({})),
    Architecture {
        layers: LAYERS / 2,
        steps: ANSWER_STEPS,
        ..plain("t5", "t5", || relative_positions(json!({"feed_forward_proj": "relu"})))
    },
    Architecture {
        layers: LAYERS / 2,
        steps: ANSWER_STEPS,
        ..gated("t5_v1_1", "t5", HEADS, || relative_positions(json!({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": false})))
    },
];

const fn plain(name: &'static str, model_type: &'static str, settings: fn() -> Value) -> Architecture {
    Architecture { name, model_type, gated: false, kv_heads: HEADS, layers: LAYERS, steps: STEPS, settings }
}

const fn gated(name: &'static str, model_type: &'static str, kv_heads: usize, settings: fn() -> Value) -> Architecture {
    Architecture { name, model_type, gated: true, kv_heads, layers: LAYERS, steps: STEPS, settings }
}

/// Relative positions in the range of these short texts.
fn relative_positions(mut settings: Value) -> Value {
    settings["relative_attention_num_buckets"] = 16.into();
    settings["relative_attention_max_distance"] = 32.into();
    settings["decoder_start_token_id"] = PAD_ID.into();
    settings
}

/// Training steps of a decoder-only model.
const STEPS: usize = 900;
/// Training steps of an encoder-decoder, which learns from the answers alone.
const ANSWER_STEPS: usize = 1500;
const D_MODEL: usize = 96;
const HEADS: usize = 4;
const LAYERS: usize = 4;
/// Longest text, in tokens.
pub(crate) const MAX_POSITIONS: usize = 128;

impl Architecture {
    pub(crate) fn named(name: &str) -> Result<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.name == name).ok_or_else(|| Error::UnknownModel {
            name: name.to_owned(),
            known: ARCHITECTURES.iter().map(|architecture| architecture.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// The model's folder in the folder of the tiny world.
    pub(crate) fn folder_in(&self, folder: &Path) -> PathBuf {
        folder.join("models").join(format!("tiny-world-{}", self.name))
    }

    /// Whether texts get an end token, because an encoder reads them.
    pub(crate) fn ends_texts(&self) -> bool {
        self.model_type == "t5"
    }

    /// The model's `config.json`.
    pub(crate) fn config(&self) -> Result<Value> {
        let shape = Shape {
            vocab_size: VOCABULARY,
            d_model: D_MODEL,
            d_mlp: if self.gated { D_MODEL * 8 / 3 } else { 4 * D_MODEL },
            n_layers: self.layers,
            heads: HEADS,
            kv_heads: self.kv_heads,
            head_dim: D_MODEL / HEADS,
            max_positions: MAX_POSITIONS,
        };
        let mut config = new_config(self.model_type, &shape)?;
        let special = json!({"bos_token_id": null, "eos_token_id": END_ID, "pad_token_id": PAD_ID});
        for more in [special, (self.settings)()] {
            if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
                config.extend(more);
            }
        }
        Ok(config)
    }
}
