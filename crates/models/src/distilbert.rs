//! DistilBERT: BERT with half of the layers, and without segments.

use easyedit_core::{HeadActivation, SequenceHead};

use crate::block::BlockNames;
use crate::mlp_in::MlpInNames;
use crate::post_norm::Names;
use crate::projections::ProjectionNames;
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
    head: SequenceHead { dense: "pre_classifier", out: "classifier", activation: HeadActivation::Relu },
    segments: "type_vocab_size",
    names: Names {
        tokens: "distilbert.embeddings.word_embeddings",
        positions: "distilbert.embeddings.position_embeddings",
        segments: None,
        embedding_norm: "distilbert.embeddings.LayerNorm",
        blocks: "distilbert.transformer.layer",
        block: BlockNames {
            attention_norm: "sa_layer_norm",
            projections: ProjectionNames::Separate(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
            attention_out: "attention.out_lin",
            relative_bias: None,
            cross_attention: None,
            mlp_norm: Some("output_layer_norm"),
            mlp_in: MlpInNames::Plain("ffn.lin1"),
            mlp_out: "ffn.lin2",
            norms_last: true,
        },
    },
};
