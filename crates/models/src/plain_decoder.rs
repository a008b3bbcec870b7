//! The decoder that GPT-2 and its successors share: embeddings, [`PlainBlock`]s, a final layer norm and a head.
//!
//! A family is a table of names and a [`Plan`].

use burn::tensor::{Int, Tensor, TensorData};
use easyedit_core::{LanguageModel, ModuleNames, Pass, Probe, WeightLayout, weight_product};

use crate::attention::Attention;
use crate::decoder::{Decoder, Network};
use crate::families::{ModelSource, check_tokenizer};
use crate::loader::Loader;
use crate::norm::LayerNorm;
use crate::parameters::{ParamMut, ParamRef, Parameters, join};
use crate::plain_block::{BlockForm, BlockNames, PlainBlock, ProjectionNames};
use crate::rotary::{Rotary, Rotations};
use crate::{Result, Shape};

/// What a family calls its modules.
#[derive(Debug)]
pub(crate) struct PlainNames {
    /// What all names but the head's begin with, and some checkpoints leave out.
    pub(crate) base: &'static str,
    pub(crate) tokens: &'static str,
    /// The table of positions, where they are learned.
    pub(crate) positions: &'static str,
    /// The list of blocks.
    pub(crate) blocks: &'static str,
    pub(crate) block: BlockNames,
    /// The attention of a block, relative to it.
    pub(crate) attention: &'static str,
    /// The MLP of a block, relative to it; empty where the block itself holds the MLP's layers.
    pub(crate) mlp: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) head: &'static str,
}

impl PlainNames {
    /// Names of the modules.
    pub(crate) fn modules(&self, tied_head: bool) -> ModuleNames {
        let layer = join(self.blocks, "{}");
        ModuleNames {
            mlp: if self.mlp.is_empty() { layer.clone() } else { join(&layer, self.mlp) },
            mlp_out: join(&layer, self.block.mlp_out),
            attention: join(&layer, self.attention),
            final_norm: self.norm.into(),
            lm_head: if tied_head { self.tokens } else { self.head }.into(),
            layer,
        }
    }
}

/// Which affine maps have a bias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Biases {
    /// Queries, keys and values.
    pub(crate) projections: bool,
    pub(crate) attention_out: bool,
    pub(crate) mlp: bool,
    pub(crate) head: bool,
}

/// How a model tells positions apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PositionKind<'a> {
    /// By a table of one row a position, whose first rows, so many, are of no position.
    Learned { unused: usize },
    /// By rotating queries and keys.
    Rotary(&'a Rotary),
}

/// What a configuration says of a model, all that its loading needs.
pub(crate) struct Plan<'a> {
    pub(crate) names: &'static PlainNames,
    pub(crate) shape: Shape,
    /// One for each block.
    pub(crate) forms: Vec<BlockForm>,
    pub(crate) positions: PositionKind<'a>,
    pub(crate) layout: WeightLayout,
    pub(crate) biases: Biases,
    pub(crate) tied_head: bool,
    /// The ε of the norms.
    pub(crate) epsilon: f64,
    /// Whether the norms have weights and biases.
    pub(crate) affine_norms: bool,
}

impl Plan<'_> {
    /// Loads the model.
    pub(crate) fn load(self, source: ModelSource<'_>) -> Result<Box<dyn LanguageModel>> {
        let ModelSource { config, name, tensors, tokenizer, device } = source;
        let Self { names, shape, tied_head, layout, .. } = self;
        let Shape { vocab_size, d_model, max_positions, .. } = shape;
        check_tokenizer(config, &tokenizer, vocab_size)?;
        let loader = Loader::new(tensors, device, names.base);
        let weight = |module: &str| join(module, "weight");
        let tokens = loader.matrix(&weight(names.tokens), [vocab_size, d_model])?;
        let positions = match self.positions {
            PositionKind::Learned { unused } => {
                Positions::Learned { table: loader.matrix(&weight(names.positions), [unused + max_positions, d_model])?, unused }
            }
            PositionKind::Rotary(rotary) => Positions::Rotary { rotary: rotary.clone(), query_scale: Attention::of(&shape).scale() },
        };
        let blocks = self.forms.iter().enumerate().map(|(layer, form)| self.block(&loader, layer, *form)).collect::<Result<_>>()?;
        let norm = self.norm(&loader, names.norm)?;
        let head = if tied_head { None } else { Some(loader.matrix(&weight(names.head), [vocab_size, d_model])?) };
        let head_bias = if self.biases.head { Some(loader.vector(&join(names.head, "bias"), vocab_size)?) } else { None };
        let spec = shape.spec(config, name, names.modules(tied_head), layout, tied_head);
        let learned_positions = matches!(positions, Positions::Learned { .. });
        let network = PlainDecoder { names, tokens, positions, blocks, norm, head, head_bias };
        Ok(Box::new(Decoder { spec, tokenizer, device: device.clone(), learned_positions, network }))
    }

    fn block(&self, loader: &Loader<'_>, layer: usize, form: BlockForm) -> Result<PlainBlock> {
        let Shape { d_model, d_mlp, heads, head_dim, .. } = self.shape;
        let names = &self.names.block;
        let path = join(self.names.blocks, &layer.to_string());
        let linear = |module: &str, shape, bias| loader.linear(&join(&path, module), shape, bias, self.layout);
        let width = heads * head_dim;
        let projected = if matches!(names.projections, ProjectionNames::Separate(_)) { width } else { 3 * width };
        let project = |name: &&str| linear(name, [d_model, projected], self.biases.projections);
        Ok(PlainBlock {
            names,
            form,
            input_norm: self.norm(loader, &join(&path, names.input_norm))?,
            projections: names.projections.all().iter().map(project).collect::<Result<_>>()?,
            attention_out: linear(names.attention_out, [width, d_model], self.biases.attention_out)?,
            mlp_norm: names.mlp_norm.map(|name| self.norm(loader, &join(&path, name))).transpose()?,
            mlp_in: linear(names.mlp_in, [d_model, d_mlp], self.biases.mlp)?,
            mlp_out: linear(names.mlp_out, [d_mlp, d_model], self.biases.mlp)?,
        })
    }

    fn norm(&self, loader: &Loader<'_>, name: &str) -> Result<LayerNorm> {
        let d_model = self.shape.d_model;
        if self.affine_norms {
            LayerNorm::load(loader, name, d_model, self.epsilon)
        } else {
            Ok(LayerNorm::without_parameters(loader.device(), d_model, self.epsilon))
        }
    }
}

#[derive(Clone)]
enum Positions {
    Learned { table: Tensor<2>, unused: usize },
    Rotary { rotary: Rotary, query_scale: f64 },
}

#[derive(Clone)]
struct PlainDecoder {
    names: &'static PlainNames,
    tokens: Tensor<2>,
    positions: Positions,
    blocks: Vec<PlainBlock>,
    norm: LayerNorm,
    /// `None` when the head is the embedding.
    head: Option<Tensor<2>>,
    head_bias: Option<Tensor<1>>,
}

impl Parameters for PlainDecoder {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        let PlainNames { tokens, positions, blocks, norm, head, .. } = self.names;
        let at = |module: &str, parameter: &str| join(path, &join(module, parameter));
        self.tokens.visit(&at(tokens, "weight"), see);
        if let Positions::Learned { table, .. } = &self.positions {
            table.visit(&at(positions, "weight"), see);
        }
        self.blocks.visit(&join(path, blocks), see);
        self.norm.visit(&join(path, norm), see);
        self.head.visit(&at(head, "weight"), see);
        self.head_bias.visit(&at(head, "bias"), see);
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        let PlainNames { tokens, positions, blocks, norm, head, .. } = self.names;
        let at = |module: &str, parameter: &str| join(path, &join(module, parameter));
        self.tokens.visit_mut(&at(tokens, "weight"), see);
        if let Positions::Learned { table, .. } = &mut self.positions {
            table.visit_mut(&at(positions, "weight"), see);
        }
        self.blocks.visit_mut(&join(path, blocks), see);
        self.norm.visit_mut(&join(path, norm), see);
        self.head.visit_mut(&at(head, "weight"), see);
        self.head_bias.visit_mut(&at(head, "bias"), see);
    }
}

impl Network for PlainDecoder {
    type Shared = Option<Rotations>;

    fn embed_ids(&self, pass: &Pass) -> Tensor<2> {
        self.tokens.clone().select(0, pass.ids_tensor())
    }

    fn add_positions(&self, embeddings: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let Positions::Learned { table, unused } = &self.positions else { return embeddings };
        let rows: Vec<i64> = pass.positions().iter().map(|position| (position + unused) as i64).collect();
        let count = rows.len();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), pass.device());
        embeddings + table.clone().select(0, rows)
    }

    fn shared(&self, pass: &Pass) -> Option<Rotations> {
        match &self.positions {
            Positions::Learned { .. } => None,
            Positions::Rotary { rotary, query_scale } => Some(rotary.for_attention(pass.positions(), *query_scale)),
        }
    }

    fn block(&self, layer: usize, hidden: Tensor<2>, shared: &Option<Rotations>, pass: &mut Pass, probe: &mut dyn Probe) -> Tensor<2> {
        self.blocks[layer].forward(layer, hidden, shared.as_ref(), pass, probe)
    }

    fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let head = self.head.as_ref().unwrap_or(&self.tokens);
        let logits = weight_product(self.norm.forward(hidden), head, WeightLayout::OutIn);
        match &self.head_bias {
            Some(bias) => logits + bias.clone().unsqueeze(),
            None => logits,
        }
    }
}
