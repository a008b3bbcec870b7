//! The stack of blocks that T5's encoder and decoder both are: pre-norm, without biases and without scaling of the scores, with learned
//! biases by distance that layer 0 holds for all layers.

use burn::tensor::Tensor;
use easyedit_core::{Module, NormRole, Pass, Probe, Site, Stack, Visibility, WeightLayout};

use crate::Result;
use crate::activation::Activation;
use crate::attention::Attention;
use crate::block::{Biases, Block, BlockForm, BlockNames, BlockPlan, CrossAttentionNames, NormPlace, PositionTerms};
use crate::loader::Loader;
use crate::mlp_in::MlpInNames;
use crate::norm::{Norm, NormKind};
use crate::parameters::parameters;
use crate::projections::ProjectionNames;
use crate::relative_position::RelativePositions;

const ENCODER: BlockNames = BlockNames {
    attention_norm: "layer.0.layer_norm",
    projections: ProjectionNames::Separate(["layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"]),
    attention_out: "layer.0.SelfAttention.o",
    relative_bias: Some("layer.0.SelfAttention.relative_attention_bias.weight"),
    cross_attention: None,
    mlp_norm: Some("layer.1.layer_norm"),
    mlp_in: MlpInNames::Plain("layer.1.DenseReluDense.wi"),
    mlp_out: "layer.1.DenseReluDense.wo",
    norms_last: true,
};

const DECODER: BlockNames = BlockNames {
    cross_attention: Some(CrossAttentionNames {
        norm: "layer.1.layer_norm",
        query: "layer.1.EncDecAttention.q",
        key: "layer.1.EncDecAttention.k",
        value: "layer.1.EncDecAttention.v",
        output: "layer.1.EncDecAttention.o",
    }),
    mlp_norm: Some("layer.2.layer_norm"),
    mlp_in: MlpInNames::Plain("layer.2.DenseReluDense.wi"),
    mlp_out: "layer.2.DenseReluDense.wo",
    ..ENCODER
};

const ENCODER_GATE_AND_UP: [&str; 2] = ["layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1"];
const DECODER_GATE_AND_UP: [&str; 2] = ["layer.2.DenseReluDense.wi_0", "layer.2.DenseReluDense.wi_1"];

/// An encoder or a decoder.
#[derive(Clone)]
pub(crate) struct T5Stack {
    pub(crate) blocks: Vec<Block>,
    norm: Norm,
    positions: RelativePositions,
}

parameters!(T5Stack { "block" => blocks, "final_layer_norm" => norm });

/// What a stack is, without its weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StackPlan {
    pub(crate) stack: Stack,
    pub(crate) n_layers: usize,
    pub(crate) d_model: usize,
    pub(crate) d_mlp: usize,
    pub(crate) attention: Attention,
    pub(crate) positions: RelativePositions,
    pub(crate) activation: Activation,
    /// Whether the MLP has a gate.
    pub(crate) gated: bool,
    pub(crate) epsilon: f64,
}

impl StackPlan {
    /// Loads the stack.
    pub(crate) fn load(&self, loader: &Loader<'_>) -> Result<T5Stack> {
        let Self { stack, d_model, d_mlp, attention, activation, .. } = *self;
        let (names, gate_and_up, visibility, path) = match stack {
            Stack::Encoder => (ENCODER, ENCODER_GATE_AND_UP, Visibility::Bidirectional, "encoder"),
            _ => (DECODER, DECODER_GATE_AND_UP, Visibility::Causal, "decoder"),
        };
        let norms = NormKind::Rms { epsilon: self.epsilon };
        let plan = BlockPlan {
            names: if self.gated { BlockNames { mlp_in: MlpInNames::Gated(gate_and_up), ..names } } else { names },
            d_model,
            d_mlp,
            layout: WeightLayout::OutIn,
            biases: Biases::NONE,
            norms,
            distances: None,
            form: BlockForm { attention, visibility, query_scale: 1.0, activation, norms: NormPlace::Before, parallel: false },
        };
        let scope = loader.stack(stack).inside(path);
        let block = |layer: usize| {
            let distances = (layer == 0).then_some(self.positions.buckets);
            BlockPlan { distances, ..plan }.load(&scope.block("block", layer))
        };
        Ok(T5Stack {
            blocks: (0..self.n_layers).map(block).collect::<Result<_>>()?,
            norm: norms.load(&scope, "final_layer_norm", d_model, NormRole::Final)?,
            positions: self.positions,
        })
    }
}

impl T5Stack {
    /// The biases of all layers by distance.
    pub(crate) fn positions(&self, pass: &Pass) -> PositionTerms {
        match self.blocks.first().and_then(Block::relative_bias) {
            Some(table) => PositionTerms::Bias(self.positions.bias(table, pass)),
            None => PositionTerms::None,
        }
    }

    /// Runs all blocks of the encoder from the embeddings on, and the final norm.
    pub(crate) fn encode(&self, embeddings: Tensor<2>, pass: &mut Pass, probe: &mut dyn Probe) -> Tensor<2> {
        let mut hidden = probe.at(Site::in_stack(Stack::Encoder, 0, Module::Embedding), embeddings);
        let positions = self.positions(pass);
        for block in &self.blocks {
            hidden = block.forward(hidden, &positions, pass, probe);
        }
        self.finish(hidden)
    }

    /// The final norm.
    pub(crate) fn finish(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.norm.forward(hidden)
    }
}
