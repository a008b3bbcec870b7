//! DistilBERT: BERT with half of the layers, and without segments.

use crate::post_norm::Names;
use crate::shape::ShapeKeys;
use crate::text_encoder::TextFamily;

pub(crate) static FAMILY: TextFamily = TextFamily {
    model_type: "distilbert",
    base: "distilbert.",
    keys: ShapeKeys {
        vocab_size: "vocab_size",
        d_model: "dim",
        d_mlp: "hidden_dim",
        d_mlp_factor: None,
        n_layers: "n_layers",
        heads: "n_heads",
        kv_heads: None,
        head_dim: None,
        max_positions: "max_position_embeddings",
    },
    activation: "activation",
    epsilon: "layer_norm_eps",
    segments: "type_vocab_size",
    names: Names {
        tokens: "distilbert.embeddings.word_embeddings",
        positions: "distilbert.embeddings.position_embeddings",
        segments: None,
        embedding_norm: "distilbert.embeddings.LayerNorm",
        block: "distilbert.transformer.layer",
        query: "attention.q_lin",
        key: "attention.k_lin",
        value: "attention.v_lin",
        attention_output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        up: "ffn.lin1",
        down: "ffn.lin2",
        output_norm: "output_layer_norm",
    },
};
