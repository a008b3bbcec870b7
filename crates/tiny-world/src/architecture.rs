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
/// Width and depth of the small networks.
const SMALL_D_MODEL: usize = 64;
const SMALL_LAYERS: usize = 2;
/// Longest text of the encoder, in tokens.
const ENCODER_POSITIONS: usize = 64;
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
        self.config_of(&Shape {
            vocab_size: VOCABULARY,
            d_model: D_MODEL,
            d_mlp: if self.gated { D_MODEL * 8 / 3 } else { 4 * D_MODEL },
            n_layers: self.layers,
            heads: HEADS,
            kv_heads: self.kv_heads,
            head_dim: D_MODEL / HEADS,
            max_positions: MAX_POSITIONS,
        })
    }

    /// The `config.json` of a smaller model of the architecture, with the same vocabulary and one table for embedding and head.
    pub(crate) fn small_config(&self) -> Result<Value> {
        let mut config = self.config_of(&Shape {
            vocab_size: VOCABULARY,
            d_model: SMALL_D_MODEL,
            d_mlp: 2 * SMALL_D_MODEL,
            n_layers: SMALL_LAYERS,
            heads: HEADS,
            kv_heads: self.kv_heads,
            head_dim: SMALL_D_MODEL / HEADS,
            max_positions: MAX_POSITIONS,
        })?;
        if let Some(config) = config.as_object_mut() {
            config.insert("tie_word_embeddings".to_owned(), true.into());
        }
        Ok(config)
    }

    fn config_of(&self, shape: &Shape) -> Result<Value> {
        let mut config = new_config(self.model_type, shape)?;
        let special = json!({"bos_token_id": null, "eos_token_id": END_ID, "pad_token_id": PAD_ID});
        for more in [special, (self.settings)()] {
            if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
                config.extend(more);
            }
        }
        Ok(config)
    }
}

/// The `config.json` of a small encoder of texts, with the same vocabulary.
pub(crate) fn encoder_config() -> Value {
    json!({
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": VOCABULARY, "hidden_size": SMALL_D_MODEL,
        "intermediate_size": 2 * SMALL_D_MODEL, "num_hidden_layers": SMALL_LAYERS, "num_attention_heads": HEADS,
        "max_position_embeddings": ENCODER_POSITIONS, "type_vocab_size": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "pad_token_id": PAD_ID, "torch_dtype": "float32",
    })
}
