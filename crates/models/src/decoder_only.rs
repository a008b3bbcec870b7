//! The decoder-only model of every family: embeddings, [`Block`]s, a final norm and a head.
//!
//! A family is a table of names and a [`Plan`].

use burn::tensor::{Int, Tensor, TensorData};
use easyedit_core::{LanguageModel, ModuleNames, NormRole, ParameterRole, Pass, Stack, WeightLayout};

use crate::alibi::Alibi;
use crate::attention::Attention;
use crate::block::{Biases, Block, BlockForm, BlockNames, BlockPlan, PositionTerms};
use crate::decoder::{Decoder, Network};
use crate::families::{ModelSource, check_tokenizer};
use crate::loader::Loader;
use crate::norm::{Norm, NormKind};
use crate::parameters::{ParamMut, ParamRef, Parameters, join};
use crate::rotary::Rotary;
use crate::weight::Weight;
use crate::{Result, Shape};

/// What a family calls its modules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecoderNames {
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

impl DecoderNames {
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

/// How a model tells positions apart.
pub(crate) enum PositionKind {
    /// By a table of one row a position, behind `unused` rows of no position.
    Learned { unused: usize },
    /// By rotating queries and keys. The rotations carry the scale of the scores.
    Rotary(Box<Rotary>),
    /// By a bias of the scores that falls with the distance.
    Alibi(Alibi),
}

/// The head of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadForm {
    /// Whether it is the embedding.
    pub(crate) tied: bool,
    pub(crate) bias: bool,
    /// Whether its rows count with length 1.
    pub(crate) unit_rows: bool,
}

impl HeadForm {
    /// A head without bias.
    pub(crate) fn plain(tied: bool) -> Self {
        Self { tied, bias: false, unit_rows: false }
    }
}

/// What a configuration says of a model, all that its loading needs.
pub(crate) struct Plan {
    pub(crate) names: DecoderNames,
    pub(crate) shape: Shape,
    /// One for each block.
    pub(crate) forms: Vec<BlockForm>,
    pub(crate) positions: PositionKind,
    pub(crate) layout: WeightLayout,
    pub(crate) biases: Biases,
    pub(crate) norms: NormKind,
    /// Whether there is a norm before the head.
    pub(crate) final_norm: bool,
    pub(crate) head: HeadForm,
}

impl Plan {
    /// Loads the model.
    pub(crate) fn load(self, source: ModelSource<'_>) -> Result<Box<dyn LanguageModel>> {
        let ModelSource { config, name, tensors, tokenizer, device } = source;
        let Self { names, shape, forms, positions, layout, biases, norms, final_norm, head: form } = self;
        let Shape { vocab_size, d_model, d_mlp, max_positions, .. } = shape;
        check_tokenizer(config, &tokenizer, vocab_size)?;
        let loader = Loader::new(tensors, device, names.base);
        let scope = loader.stack(Stack::Decoder);
        let weight = |module: &str| join(module, "weight");
        let logits = Some(WeightLayout::OutIn);
        let embedding_layout = if form.tied { logits } else { None };
        let tokens = scope.weight(&weight(names.tokens), [vocab_size, d_model], ParameterRole::TokenEmbedding, embedding_layout)?;
        let positions = match positions {
            PositionKind::Learned { unused } => {
                let rows = unused + max_positions;
                Positions::Learned { table: scope.table(&weight(names.positions), [rows, d_model], ParameterRole::PositionTable)?, unused }
            }
            PositionKind::Rotary(rotary) => Positions::Rotary { rotary: *rotary, query_scale: Attention::of(&shape).scale() },
            PositionKind::Alibi(alibi) => Positions::Alibi(alibi),
        };
        let block = |(layer, form): (usize, BlockForm)| {
            let plan = BlockPlan { names: names.block, d_model, d_mlp, layout, biases, norms, distances: None, form };
            plan.load(&scope.block(names.blocks, layer))
        };
        let blocks = forms.into_iter().enumerate().map(block).collect::<Result<_>>()?;
        let norm = if final_norm { Some(norms.load(&scope, names.norm, d_model, NormRole::Final)?) } else { None };
        let own_head = || scope.weight(&weight(names.head), [vocab_size, d_model], ParameterRole::Head, logits);
        let head = (!form.tied).then(own_head).transpose()?;
        let bias = || scope.vector(&join(names.head, "bias"), vocab_size, ParameterRole::HeadBias);
        let head_bias = form.bias.then(bias).transpose()?;
        let learned_positions = matches!(positions, Positions::Learned { .. });
        let network = DecoderOnly { names, tokens, positions, blocks, norm, head, head_bias, unit_rows: form.unit_rows };
        let spec = shape.spec(config, name, names.modules(form.tied), form.tied, loader.map(&network)?);
        Ok(Box::new(Decoder::new(spec, tokenizer, device, learned_positions, network)))
    }
}

#[derive(Clone)]
enum Positions {
    Learned { table: Tensor<2>, unused: usize },
    Rotary { rotary: Rotary, query_scale: f64 },
    Alibi(Alibi),
}

#[derive(Clone)]
struct DecoderOnly {
    names: DecoderNames,
    tokens: Weight,
    positions: Positions,
    blocks: Vec<Block>,
    norm: Option<Norm>,
    /// `None` when the head is the embedding.
    head: Option<Weight>,
    head_bias: Option<Tensor<1>>,
    unit_rows: bool,
}

impl Parameters for DecoderOnly {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        let DecoderNames { tokens, positions, blocks, norm, head, .. } = self.names;
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
        let DecoderNames { tokens, positions, blocks, norm, head, .. } = self.names;
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

impl Network for DecoderOnly {
    fn embed_ids(&self, pass: &Pass) -> Tensor<2> {
        self.tokens.rows(pass.ids_tensor())
    }

    fn add_positions(&self, embeddings: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let Positions::Learned { table, unused } = &self.positions else { return embeddings };
        let rows: Vec<i64> = pass.positions().iter().map(|position| (position + unused) as i64).collect();
        let count = rows.len();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), pass.device());
        embeddings + table.clone().select(0, rows)
    }

    fn positions(&self, pass: &Pass) -> PositionTerms {
        match &self.positions {
            Positions::Learned { .. } => PositionTerms::None,
            Positions::Rotary { rotary, query_scale } => PositionTerms::Rotations(rotary.for_attention(pass.positions(), *query_scale)),
            Positions::Alibi(alibi) => PositionTerms::MaskedBias(alibi.bias(pass)),
        }
    }

    fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let head = self.head.as_ref().unwrap_or(&self.tokens);
        let hidden = match &self.norm {
            Some(norm) => norm.forward(hidden),
            None => hidden,
        };
        let logits = head.product(hidden, WeightLayout::OutIn);
        let logits = match &self.head_bias {
            Some(bias) => logits + bias.clone().unsqueeze(),
            None => logits,
        };
        if self.unit_rows { logits / row_lengths(head).transpose() } else { logits }
    }
}

/// Lengths of a head's rows, `[vocab_size, 1]`. The parameter stays as it is stored; a column of the logits is divided by the length of
/// its row instead.
fn row_lengths(head: &Weight) -> Tensor<2> {
    /// Shortest length a row is divided by.
    const SHORTEST_ROW: f64 = 1e-12;
    /// Rows whose lengths are taken at once: squares of the whole head would take as much memory as the head.
    const ROWS_AT_ONCE: usize = 4096;
    let [rows, _] = head.dims();
    let parts = (0..rows).step_by(ROWS_AT_ONCE).map(|start| {
        let rows = head.narrow(0, start, ROWS_AT_ONCE.min(rows - start)).to_f32();
        (rows.clone() * rows).sum_dim(1).sqrt().clamp_min(SHORTEST_ROW)
    });
    Tensor::cat(parts.collect(), 0)
}
