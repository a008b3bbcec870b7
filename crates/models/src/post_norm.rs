//! The network of BERT and its kin: learned positions, attention in both directions, and blocks that normalise behind each sum.

use burn::tensor::{Int, Tensor, TensorData};
use easyedit_core::{Pass, Visibility, WeightLayout};

use crate::activation::Activation;
use crate::attention::Attention;
use crate::linear::Linear;
use crate::loader::Loader;
use crate::norm::LayerNorm;
use crate::parameters::{ParamMut, ParamRef, Parameters, join, parameters};
use crate::{Result, Shape};

/// What a family calls the parts of the network. Names inside a block are relative to `block`.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) tokens: &'static str,
    pub(crate) positions: &'static str,
    /// Embedding of the first and second segment, in families that have it; every text is a first one here.
    pub(crate) segments: Option<&'static str>,
    pub(crate) embedding_norm: &'static str,
    /// What a block's name is before its number.
    pub(crate) block: &'static str,
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) output_norm: &'static str,
}

#[derive(Clone)]
pub(crate) struct PostNormEncoder {
    names: &'static Names,
    tokens: Table,
    positions: Table,
    segments: Option<Table>,
    norm: LayerNorm,
    blocks: Vec<Block>,
    attention: Attention,
    activation: Activation,
}

/// An embedding.
#[derive(Clone)]
struct Table {
    rows: Tensor<2>,
}

parameters!(Table { "weight" => rows });

#[derive(Clone)]
struct Block {
    names: &'static Names,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
}

impl Parameters for PostNormEncoder {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        let names = self.names;
        self.tokens.visit(&join(path, names.tokens), see);
        self.positions.visit(&join(path, names.positions), see);
        self.segments.visit(&join(path, names.segments.unwrap_or_default()), see);
        self.norm.visit(&join(path, names.embedding_norm), see);
        self.blocks.visit(&join(path, names.block), see);
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        let names = self.names;
        self.tokens.visit_mut(&join(path, names.tokens), see);
        self.positions.visit_mut(&join(path, names.positions), see);
        self.segments.visit_mut(&join(path, names.segments.unwrap_or_default()), see);
        self.norm.visit_mut(&join(path, names.embedding_norm), see);
        self.blocks.visit_mut(&join(path, names.block), see);
    }
}

impl Parameters for Block {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        let names = self.names;
        self.query.visit(&join(path, names.query), see);
        self.key.visit(&join(path, names.key), see);
        self.value.visit(&join(path, names.value), see);
        self.output.visit(&join(path, names.attention_output), see);
        self.attention_norm.visit(&join(path, names.attention_norm), see);
        self.up.visit(&join(path, names.up), see);
        self.down.visit(&join(path, names.down), see);
        self.output_norm.visit(&join(path, names.output_norm), see);
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        let names = self.names;
        self.query.visit_mut(&join(path, names.query), see);
        self.key.visit_mut(&join(path, names.key), see);
        self.value.visit_mut(&join(path, names.value), see);
        self.output.visit_mut(&join(path, names.attention_output), see);
        self.attention_norm.visit_mut(&join(path, names.attention_norm), see);
        self.up.visit_mut(&join(path, names.up), see);
        self.down.visit_mut(&join(path, names.down), see);
        self.output_norm.visit_mut(&join(path, names.output_norm), see);
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
        let Shape { vocab_size, d_model, d_mlp, n_layers, heads, kv_heads, head_dim, max_positions } = *shape;
        let table = |name: &str, rows| loader.matrix(&format!("{name}.weight"), [rows, d_model]).map(|rows| Table { rows });
        let block = |layer: usize| -> Result<Block> {
            let at = |module: &str| format!("{}.{layer}.{module}", names.block);
            let linear = |module: &str, shape| loader.linear(&at(module), shape, true, WeightLayout::OutIn);
            let norm = |module: &str| LayerNorm::load(loader, &at(module), d_model, epsilon);
            Ok(Block {
                names,
                query: linear(names.query, [d_model, d_model])?,
                key: linear(names.key, [d_model, d_model])?,
                value: linear(names.value, [d_model, d_model])?,
                output: linear(names.attention_output, [d_model, d_model])?,
                attention_norm: norm(names.attention_norm)?,
                up: linear(names.up, [d_model, d_mlp])?,
                down: linear(names.down, [d_mlp, d_model])?,
                output_norm: norm(names.output_norm)?,
            })
        };
        Ok(Self {
            names,
            tokens: table(names.tokens, vocab_size)?,
            positions: table(names.positions, max_positions)?,
            segments: names.segments.map(|name| table(name, segments)).transpose()?,
            norm: LayerNorm::load(loader, names.embedding_norm, d_model, epsilon)?,
            blocks: (0..n_layers).map(block).collect::<Result<_>>()?,
            attention: Attention { heads, kv_heads, head_dim },
            activation,
        })
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
        for (layer, block) in self.blocks.iter().enumerate() {
            let query = block.query.forward(hidden.clone()).mul_scalar(self.attention.scale());
            let (key, value) = (block.key.forward(hidden.clone()), block.value.forward(hidden.clone()));
            let mask = pass.mask(Visibility::Bidirectional);
            let mixed = self.attention.attend(layer, query, key, value, mask, pass);
            hidden = block.attention_norm.forward(hidden + block.output.forward(mixed));
            let widened = self.activation.forward(block.up.forward(hidden.clone()));
            hidden = block.output_norm.forward(hidden + block.down.forward(widened));
        }
        Ok(hidden)
    }
}
