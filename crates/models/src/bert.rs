//! BERT, and the MiniLM sentence encoders made of it.

use easyedit_core::{HeadActivation, SequenceHead};

use crate::block::BlockNames;
use crate::mlp_in::MlpInNames;
use crate::post_norm::Names;
use crate::projections::ProjectionNames;
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
    head: SequenceHead { dense: "bert.pooler.dense", out: "classifier", activation: HeadActivation::Tanh },
    segments: "type_vocab_size",
    names: Names {
        tokens: "bert.embeddings.word_embeddings",
        positions: "bert.embeddings.position_embeddings",
        segments: Some("bert.embeddings.token_type_embeddings"),
        embedding_norm: "bert.embeddings.LayerNorm",
        blocks: "bert.encoder.layer",
        block: BlockNames {
            attention_norm: "attention.output.LayerNorm",
            projections: ProjectionNames::Separate(["attention.self.query", "attention.self.key", "attention.self.value"]),
            attention_out: "attention.output.dense",
            relative_bias: None,
            cross_attention: None,
            mlp_norm: Some("output.LayerNorm"),
            mlp_in: MlpInNames::Plain("intermediate.dense"),
            mlp_out: "output.dense",
            norms_last: true,
        },
    },
};
