//! BERT, and the MiniLM sentence encoders made of it.

use crate::post_norm::Names;
use crate::shape::ShapeKeys;
use crate::text_encoder::TextFamily;

pub(crate) static FAMILY: TextFamily = TextFamily {
    model_type: "bert",
    base: "bert.",
    keys: ShapeKeys {
        vocab_size: "vocab_size",
        d_model: "hidden_size",
        d_mlp: "intermediate_size",
        d_mlp_factor: None,
        n_layers: "num_hidden_layers",
        heads: "num_attention_heads",
        kv_heads: None,
        head_dim: None,
        max_positions: "max_position_embeddings",
    },
    activation: "hidden_act",
    epsilon: "layer_norm_eps",
    segments: "type_vocab_size",
    names: Names {
        tokens: "bert.embeddings.word_embeddings",
        positions: "bert.embeddings.position_embeddings",
        segments: Some("bert.embeddings.token_type_embeddings"),
        embedding_norm: "bert.embeddings.LayerNorm",
        block: "bert.encoder.layer",
        query: "attention.self.query",
        key: "attention.self.key",
        value: "attention.self.value",
        attention_output: "attention.output.dense",
        attention_norm: "attention.output.LayerNorm",
        up: "intermediate.dense",
        down: "output.dense",
        output_norm: "output.LayerNorm",
    },
};
