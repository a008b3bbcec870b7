//! The network of BERT and its kin: learned positions, attention in both directions, and blocks that normalise behind each sum.

use burn::tensor::{Int, Tensor, TensorData};
use easyedit_core::{NormRole, ParameterRole, Pass, Stack, Visibility, WeightLayout};

use crate::activation::Activation;
use crate::attention::Attention;
use crate::block::{Biases, Block, BlockForm, BlockNames, BlockPlan, NormPlace, PositionTerms};
use crate::loader::Loader;
use crate::norm::{Norm, NormKind};
use crate::parameters::{ParamMut, ParamRef, Parameters, join, parameters};
use crate::{Result, Shape};

/// What a family calls the parts of the network.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) tokens: &'static str,
    pub(crate) positions: &'static str,
    /// Embedding of the first and second segment, in families that have it; every text is a first one here.
    pub(crate) segments: Option<&'static str>,
    pub(crate) embedding_norm: &'static str,
    /// The list of blocks.
    pub(crate) blocks: &'static str,
    pub(crate) block: BlockNames,
}

#[derive(Clone)]
pub(crate) struct PostNormEncoder {
    names: &'static Names,
    tokens: Table,
    positions: Table,
    segments: Option<Table>,
    norm: Norm,
    blocks: Vec<Block>,
}

/// An embedding.
#[derive(Clone)]
struct Table {
    rows: Tensor<2>,
}

parameters!(Table { "weight" => rows });

impl Parameters for PostNormEncoder {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        let names = self.names;
        self.tokens.visit(&join(path, names.tokens), see);
        self.positions.visit(&join(path, names.positions), see);
        self.segments.visit(&join(path, names.segments.unwrap_or_default()), see);
        self.norm.visit(&join(path, names.embedding_norm), see);
        self.blocks.visit(&join(path, names.blocks), see);
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        let names = self.names;
        self.tokens.visit_mut(&join(path, names.tokens), see);
        self.positions.visit_mut(&join(path, names.positions), see);
        self.segments.visit_mut(&join(path, names.segments.unwrap_or_default()), see);
        self.norm.visit_mut(&join(path, names.embedding_norm), see);
        self.blocks.visit_mut(&join(path, names.blocks), see);
    }
}

impl PostNormEncoder {
    /// Loads the network; `segments` is the number of rows of that table.
    pub(crate) fn load(
        loader: &Loader<'_>,
        names: &'static Names,
        shape: &Shape,
        segments: usize,
        activation: Activation,
        epsilon: f64,
    ) -> Result<Self> {
        let Shape { vocab_size, d_model, d_mlp, n_layers, max_positions, .. } = *shape;
        let scope = loader.stack(Stack::Encoder);
        let table = |name: &str, rows, role| scope.table(&join(name, "weight"), [rows, d_model], role).map(|rows| Table { rows });
        let norms = NormKind::Layer { epsilon, affine: true };
        let attention = Attention::of(shape);
        let form = BlockForm {
            attention,
            visibility: Visibility::Bidirectional,
            query_scale: attention.scale(),
            activation,
            norms: NormPlace::Behind,
            parallel: false,
        };
        let plan = BlockPlan {
            names: names.block,
            d_model,
            d_mlp,
            layout: WeightLayout::OutIn,
            biases: Biases::ALL,
            norms,
            distances: None,
            form,
        };
        Ok(Self {
            names,
            tokens: table(names.tokens, vocab_size, ParameterRole::TokenEmbedding)?,
            positions: table(names.positions, max_positions, ParameterRole::PositionTable)?,
            segments: names.segments.map(|name| table(name, segments, ParameterRole::SegmentTable)).transpose()?,
            norm: norms.load(&scope, names.embedding_norm, d_model, NormRole::Embedding)?,
            blocks: (0..n_layers).map(|layer| plan.load(&scope.block(names.blocks, layer))).collect::<Result<_>>()?,
        })
    }

    /// The block that the parameter `name` belongs to.
    pub(crate) fn layer_of(&self, name: &str) -> Option<usize> {
        let (layer, _) = name.strip_prefix(self.names.blocks)?.strip_prefix('.')?.split_once('.')?;
        layer.parse().ok().filter(|layer| *layer < self.blocks.len())
    }

    /// The last block's output for the rows of a pass, whose ids and positions are known to be inside the tables: `[tokens, d_model]`.
    ///
    /// # Errors
    ///
    /// As [`Pass::put_inserts`].
    pub(crate) fn run(&self, pass: &mut Pass) -> easyedit_core::Result<Tensor<2>> {
        let positions: Vec<i64> = pass.positions().iter().map(|position| *position as i64).collect();
        let count = positions.len();
        let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [count]), pass.device());
        let tokens = pass.put_inserts(self.tokens.rows.clone().select(0, pass.ids_tensor()))?;
        let mut embeddings = tokens + self.positions.rows.clone().select(0, positions);
        if let Some(segments) = &self.segments {
            embeddings = embeddings + segments.rows.clone().narrow(0, 0, 1);
        }
        let mut hidden = self.norm.forward(embeddings);
        for block in &self.blocks {
            hidden = block.forward(hidden, &PositionTerms::None, pass, &mut ());
        }
        Ok(hidden)
    }
}
