//! The stack of blocks that T5's encoder and decoder both are: pre-norm, without biases and without scaling of the scores, with learned
//! biases by distance that layer 0 holds for all layers.

use burn::tensor::Tensor;
use easyedit_core::{Module, Pass, Probe, Site, Visibility, WeightLayout};

use crate::Result;
use crate::activation::Activation;
use crate::attention::Attention;
use crate::linear::Linear;
use crate::loader::Loader;
use crate::norm::RmsNorm;
use crate::parameters::{ParamMut, ParamRef, Parameters, join, parameters};
use crate::relative_position::RelativePositions;

/// An encoder or a decoder.
#[derive(Clone)]
pub(crate) struct Stack {
    blocks: Vec<Block>,
    norm: RmsNorm,
    layout: StackLayout,
}

parameters!(Stack { "block" => blocks, "final_layer_norm" => norm });

/// What a stack is, without its weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StackLayout {
    pub(crate) n_layers: usize,
    pub(crate) d_model: usize,
    pub(crate) d_mlp: usize,
    pub(crate) attention: Attention,
    pub(crate) positions: RelativePositions,
    /// Whether the blocks attend to an encoder: it is a decoder.
    pub(crate) reads: bool,
    pub(crate) activation: Activation,
    /// Whether the MLP has a gate.
    pub(crate) gated: bool,
    pub(crate) epsilon: f64,
}

impl StackLayout {
    fn visibility(&self) -> Visibility {
        if self.reads { Visibility::Causal } else { Visibility::Bidirectional }
    }
}

#[derive(Clone)]
struct Block {
    attention: SelfAttention,
    /// In a decoder.
    cross_attention: Option<CrossAttention>,
    mlp: Mlp,
}

impl Block {
    /// The MLP is the last of the block's numbered sublayers.
    fn mlp_name(&self) -> &'static str {
        if self.cross_attention.is_some() { "layer.2" } else { "layer.1" }
    }
}

impl Parameters for Block {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        self.attention.visit(&join(path, "layer.0"), see);
        self.cross_attention.visit(&join(path, "layer.1"), see);
        self.mlp.visit(&join(path, self.mlp_name()), see);
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        let mlp = join(path, self.mlp_name());
        self.attention.visit_mut(&join(path, "layer.0"), see);
        self.cross_attention.visit_mut(&join(path, "layer.1"), see);
        self.mlp.visit_mut(&mlp, see);
    }
}

#[derive(Clone)]
struct SelfAttention {
    projections: Projections,
    /// `[buckets, heads]`, in layer 0 alone.
    distances: Option<Tensor<2>>,
    norm: RmsNorm,
}

parameters!(SelfAttention {
    "SelfAttention" => projections,
    "SelfAttention.relative_attention_bias.weight" => distances,
    "layer_norm" => norm,
});

#[derive(Clone)]
struct CrossAttention {
    projections: Projections,
    norm: RmsNorm,
}

parameters!(CrossAttention { "EncDecAttention" => projections, "layer_norm" => norm });

#[derive(Clone)]
struct Projections {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

parameters!(Projections { "q" => query, "k" => key, "v" => value, "o" => output });

#[derive(Clone)]
struct Mlp {
    /// The one projection of an MLP without a gate.
    plain: Option<Linear>,
    gate: Option<Linear>,
    up: Option<Linear>,
    down: Linear,
    norm: RmsNorm,
    activation: Activation,
}

parameters!(Mlp {
    "DenseReluDense.wi" => plain,
    "DenseReluDense.wi_0" => gate,
    "DenseReluDense.wi_1" => up,
    "DenseReluDense.wo" => down,
    "layer_norm" => norm,
});

impl Mlp {
    /// The input of the out-projection.
    fn key(&self, normed: Tensor<2>) -> Tensor<2> {
        match (&self.plain, &self.gate, &self.up) {
            (Some(plain), ..) => self.activation.forward(plain.forward(normed)),
            (None, Some(gate), Some(up)) => self.activation.gated(gate.forward(normed.clone()), up.forward(normed)),
            _ => normed,
        }
    }
}

impl Stack {
    /// Loads the stack called `name`.
    pub(crate) fn load(loader: &Loader<'_>, name: &str, layout: StackLayout) -> Result<Self> {
        let blocks: Result<Vec<Block>> =
            (0..layout.n_layers).map(|layer| layout.load_block(loader, &format!("{name}.block.{layer}"), layer == 0)).collect();
        let norm = RmsNorm::load(loader, &join(name, "final_layer_norm"), layout.d_model, layout.epsilon)?;
        Ok(Self { blocks: blocks?, norm, layout })
    }

    /// The biases of all layers by distance.
    ///
    /// # Shapes
    ///
    /// `[rows or 1, heads, width, slots]`
    pub(crate) fn distances(&self, pass: &Pass) -> Option<Tensor<4>> {
        let table = self.blocks.first().and_then(|block| block.attention.distances.as_ref());
        table.map(|table| self.layout.positions.bias(table, pass))
    }

    /// Runs block `layer`; `distances` are the stack's for this pass.
    pub(crate) fn block(
        &self,
        layer: usize,
        hidden: Tensor<2>,
        distances: Option<&Tensor<4>>,
        pass: &mut Pass,
        probe: &mut dyn Probe,
    ) -> Tensor<2> {
        let block = &self.blocks[layer];
        let attention = self.layout.attention;
        let site = |module| Site::new(layer, module);
        let mut hidden = probe.at(site(Module::BlockInput), hidden);
        let normed = block.attention.norm.forward(hidden.clone());
        let Projections { query, key, value, output } = &block.attention.projections;
        let bias = [distances.cloned(), pass.mask(self.layout.visibility())].into_iter().flatten().reduce(|a, b| a + b);
        let mixed = attention.attend(layer, query.forward(normed.clone()), key.forward(normed.clone()), value.forward(normed), bias, pass);
        hidden = hidden + probe.at(site(Module::AttentionOutput), output.forward(mixed));
        if let Some(cross) = &block.cross_attention {
            let Projections { query, key, value, output } = &cross.projections;
            let normed = query.forward(cross.norm.forward(hidden.clone()));
            let project = |source: Tensor<2>| (key.forward(source.clone()), value.forward(source));
            // A pass that reads no encoder is refused before any block is run.
            if let Some(mixed) = attention.attend_to_source(layer, normed, project, pass) {
                hidden = hidden + probe.at(site(Module::CrossAttentionOutput), output.forward(mixed));
            }
        }
        let key = probe.at(site(Module::MlpKey), block.mlp.key(block.mlp.norm.forward(hidden.clone())));
        if probe.ends_at(site(Module::MlpKey)) {
            return hidden;
        }
        let hidden = hidden + probe.at(site(Module::MlpOutput), block.mlp.down.forward(key));
        probe.at(site(Module::BlockOutput), hidden)
    }

    /// Runs all blocks from the embeddings on, and the final norm.
    pub(crate) fn run(&self, embeddings: Tensor<2>, pass: &mut Pass, probe: &mut dyn Probe) -> Tensor<2> {
        let mut hidden = probe.at(Site::new(0, Module::Embedding), embeddings);
        let distances = self.distances(pass);
        for layer in 0..self.blocks.len() {
            hidden = self.block(layer, hidden, distances.as_ref(), pass, probe);
        }
        self.finish(hidden)
    }

    /// The final norm.
    pub(crate) fn finish(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.norm.forward(hidden)
    }
}

impl StackLayout {
    fn load_block(&self, loader: &Loader<'_>, name: &str, first: bool) -> Result<Block> {
        let Self { d_model, d_mlp, attention: Attention { heads, head_dim, .. }, .. } = *self;
        let linear = |name: String, shape| loader.linear(&name, shape, false, WeightLayout::OutIn);
        let norm = |sublayer: &str| RmsNorm::load(loader, &format!("{name}.{sublayer}.layer_norm"), d_model, self.epsilon);
        let projections = |module: &str| -> Result<Projections> {
            let project = |which: &str| linear(format!("{name}.{module}.{which}"), [d_model, heads * head_dim]);
            let output = linear(format!("{name}.{module}.o"), [heads * head_dim, d_model])?;
            Ok(Projections { query: project("q")?, key: project("k")?, value: project("v")?, output })
        };
        let distances = || {
            let name = format!("{name}.layer.0.SelfAttention.relative_attention_bias.weight");
            loader.matrix(&name, [self.positions.buckets, heads])
        };
        let attention = SelfAttention {
            projections: projections("layer.0.SelfAttention")?,
            distances: first.then(distances).transpose()?,
            norm: norm("layer.0")?,
        };
        let cross_attention = match self.reads {
            true => Some(CrossAttention { projections: projections("layer.1.EncDecAttention")?, norm: norm("layer.1")? }),
            false => None,
        };
        let sublayer = if self.reads { "layer.2" } else { "layer.1" };
        let widen = |wanted: bool, which: &str| {
            wanted.then(|| linear(format!("{name}.{sublayer}.DenseReluDense.{which}"), [d_model, d_mlp])).transpose()
        };
        let mlp = Mlp {
            plain: widen(!self.gated, "wi")?,
            gate: widen(self.gated, "wi_0")?,
            up: widen(self.gated, "wi_1")?,
            down: linear(format!("{name}.{sublayer}.DenseReluDense.wo"), [d_mlp, d_model])?,
            norm: norm(sublayer)?,
            activation: self.activation,
        };
        Ok(Block { attention, cross_attention, mlp })
    }
}
