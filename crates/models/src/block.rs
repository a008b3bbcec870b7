//! The transformer block of every family. What families differ in is data: names, how weights are stored, the kind and place of
//! norms, how projections are fused, and whether attention and MLP run side by side.
//!
//! [`Block::forward`] alone calls the probe at a block's sites, and every linear map of a block calls it for its output.

use burn::tensor::Tensor;
use easyedit_core::{LinearRole, Module, NormRole, ParameterRole, Pass, Probe, Site, Stack, Visibility, WeightLayout};

use crate::Result;
use crate::activation::Activation;
use crate::attention::Attention;
use crate::linear::Linear;
use crate::loader::{Scope, Storage};
use crate::mlp_in::{MlpIn, MlpInNames};
use crate::norm::{Norm, NormKind};
use crate::parameters::{ParamMut, ParamRef, Parameters, join};
use crate::projections::{ProjectionNames, Projections};
use crate::rotary::Rotations;

/// Names of a block's modules, relative to the block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockNames {
    pub(crate) attention_norm: &'static str,
    pub(crate) projections: ProjectionNames,
    pub(crate) attention_out: &'static str,
    /// The table of attention biases by distance, which the first block holds for all.
    pub(crate) relative_bias: Option<&'static str>,
    /// In blocks that attend to an encoder.
    pub(crate) cross_attention: Option<CrossAttentionNames>,
    /// `None` where attention and MLP share a norm.
    pub(crate) mlp_norm: Option<&'static str>,
    pub(crate) mlp_in: MlpInNames,
    pub(crate) mlp_out: &'static str,
    /// Whether the model lists the norm of a part behind the part's linear maps.
    pub(crate) norms_last: bool,
}

/// Names of the modules of an attention to an encoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrossAttentionNames {
    pub(crate) norm: &'static str,
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) output: &'static str,
}

/// Which linear maps of a block have a bias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Biases {
    /// Queries, keys and values.
    pub(crate) projections: bool,
    pub(crate) attention_out: bool,
    pub(crate) mlp: bool,
}

impl Biases {
    pub(crate) const NONE: Self = Self { projections: false, attention_out: false, mlp: false };
    pub(crate) const ALL: Self = Self { projections: true, attention_out: true, mlp: true };
}

/// Where a block's norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormPlace {
    /// Before attention and MLP. The block's output is the sum of its input and what its parts add.
    Before,
    /// Behind each sum with the residual stream, in text encoders. The block's output is not the sum that the contract of
    /// [`LanguageModel`](easyedit_core::LanguageModel) requires.
    Behind,
}

/// How a block computes; blocks of a model may differ in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockForm {
    pub(crate) attention: Attention,
    pub(crate) visibility: Visibility,
    /// Factor of the queries; 1 where rotations carry that of the scores.
    pub(crate) query_scale: f64,
    pub(crate) activation: Activation,
    pub(crate) norms: NormPlace,
    /// Whether the MLP reads what enters the block instead of what the attention leaves.
    pub(crate) parallel: bool,
}

/// All that the loading of a block needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockPlan {
    pub(crate) names: BlockNames,
    pub(crate) d_model: usize,
    pub(crate) d_mlp: usize,
    pub(crate) layout: WeightLayout,
    pub(crate) biases: Biases,
    pub(crate) norms: NormKind,
    /// Rows of the table of biases by distance, in the block that holds it.
    pub(crate) distances: Option<usize>,
    pub(crate) form: BlockForm,
}

impl BlockPlan {
    /// Loads the block of `scope`.
    pub(crate) fn load(&self, scope: &Scope<'_>) -> Result<Block> {
        let Self { names, d_model, d_mlp, layout, biases, norms, distances, form } = *self;
        let attention = form.attention;
        let [d_query, ..] = attention.widths();
        let storage = |bias| Storage { layout, bias };
        let norm = |name: &str, role: NormRole| norms.load(scope, name, d_model, role);
        let out = |name: &str, d_in: usize, bias: bool, role: LinearRole| scope.linear(name, [d_in, d_model], storage(bias), role);
        let table = |(name, rows): (&str, usize)| scope.table(name, [rows, attention.heads], ParameterRole::RelativeBias);
        Ok(Block {
            stack: scope.stack,
            layer: scope.layer(),
            names,
            form,
            attention_norm: norm(names.attention_norm, NormRole::Attention)?,
            projections: Projections::load(scope, &names.projections, &attention, d_model, storage(biases.projections))?,
            attention_out: out(names.attention_out, d_query, biases.attention_out, LinearRole::AttentionOut)?,
            relative_bias: names.relative_bias.zip(distances).map(table).transpose()?,
            cross_attention: names.cross_attention.map(|names| self.load_cross_attention(scope, &names)).transpose()?,
            mlp_norm: names.mlp_norm.map(|name| norm(name, NormRole::Mlp)).transpose()?,
            mlp_in: MlpIn::load(scope, &names.mlp_in, [d_model, d_mlp], storage(biases.mlp))?,
            mlp_out: out(names.mlp_out, d_mlp, biases.mlp, LinearRole::MlpOut)?,
        })
    }

    fn load_cross_attention(&self, scope: &Scope<'_>, names: &CrossAttentionNames) -> Result<CrossAttention> {
        let Self { d_model, layout, biases, .. } = *self;
        let [d_query, d_key, d_value] = self.form.attention.widths();
        let linear =
            |name: &str, widths: [usize; 2], bias: bool, role: LinearRole| scope.linear(name, widths, Storage { layout, bias }, role);
        Ok(CrossAttention {
            norm: self.norms.load(scope, names.norm, d_model, NormRole::CrossAttention)?,
            query: linear(names.query, [d_model, d_query], biases.projections, LinearRole::CrossQuery)?,
            key: linear(names.key, [d_model, d_key], biases.projections, LinearRole::CrossKey)?,
            value: linear(names.value, [d_model, d_value], biases.projections, LinearRole::CrossValue)?,
            output: linear(names.output, [d_query, d_model], biases.attention_out, LinearRole::CrossOut)?,
        })
    }
}

/// How the attention of a pass knows positions; the same for all layers.
#[allow(clippy::large_enum_variant, reason = "there is one per pass")]
pub(crate) enum PositionTerms {
    /// Positions are in the embeddings.
    None,
    /// Queries, with the scale of the scores, and keys are rotated.
    Rotations(Rotations),
    /// Added to the scores beside the mask: `[rows or 1, heads, width, slots]`.
    Bias(Tensor<4>),
    /// Added to the scores instead of the mask, which it holds: `[rows, heads, width, slots]`.
    MaskedBias(Tensor<4>),
}

impl PositionTerms {
    /// What is added to the scores.
    fn bias(&self, visibility: Visibility, pass: &mut Pass) -> Option<Tensor<4>> {
        match self {
            Self::MaskedBias(bias) => Some(bias.clone()),
            Self::Bias(bias) => Some(match pass.mask(visibility) {
                Some(mask) => bias.clone() + mask,
                None => bias.clone(),
            }),
            Self::None | Self::Rotations(_) => pass.mask(visibility),
        }
    }
}

/// A transformer block: self-attention, attention to an encoder where there is one, and an MLP.
#[derive(Clone)]
pub(crate) struct Block {
    stack: Stack,
    layer: usize,
    names: BlockNames,
    form: BlockForm,
    attention_norm: Norm,
    projections: Projections,
    attention_out: Linear,
    /// `[buckets, heads]`
    relative_bias: Option<Tensor<2>>,
    cross_attention: Option<CrossAttention>,
    /// `None` where the MLP reads the attention's norm.
    mlp_norm: Option<Norm>,
    mlp_in: MlpIn,
    mlp_out: Linear,
}

#[derive(Clone)]
struct CrossAttention {
    norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

impl Block {
    /// The table of attention biases by distance, if this block holds it: `[buckets, heads]`.
    pub(crate) fn relative_bias(&self) -> Option<&Tensor<2>> {
        self.relative_bias.as_ref()
    }

    /// Runs the block, from `BlockInput` to `BlockOutput`.
    ///
    /// # Shapes
    ///
    /// `[tokens, d_model]`, and so is the result.
    pub(crate) fn forward(&self, hidden: Tensor<2>, positions: &PositionTerms, pass: &mut Pass, probe: &mut dyn Probe) -> Tensor<2> {
        let Self { form, layer, .. } = self;
        let site = |module| Site::in_stack(self.stack, *layer, module);
        let hidden = probe.at(site(Module::BlockInput), hidden);

        let normed = form.before(&self.attention_norm, &hidden);
        let [query, key, value] = self.projections.forward(&normed, &form.attention, probe);
        let (query, key) = match positions {
            PositionTerms::Rotations(rotations) => (rotations.query.apply(query), rotations.key.apply(key)),
            _ => (query, key),
        };
        let query = if form.query_scale == 1.0 { query } else { query.mul_scalar(form.query_scale) };
        let mlp_input = |stream: &Tensor<2>| match &self.mlp_norm {
            Some(norm) => form.before(norm, stream),
            None => normed.clone(),
        };
        let beside = form.parallel.then(|| mlp_input(&hidden));

        let bias = positions.bias(form.visibility, pass);
        let mixed = form.attention.attend(*layer, query, key, value, bias, pass);
        let attended = self.attention_out.forward(mixed, probe);
        let attended = probe.at(site(Module::AttentionOutput), attended);
        let mut hidden = form.behind(Some(&self.attention_norm), hidden + attended);
        if let Some(cross) = &self.cross_attention
            && let Some(read) = cross.forward(*layer, &hidden, form, pass, probe)
        {
            let read = probe.at(site(Module::CrossAttentionOutput), read);
            hidden = form.behind(Some(&cross.norm), hidden + read);
        }

        let normed = beside.unwrap_or_else(|| mlp_input(&hidden));
        let key = self.mlp_in.key(normed, form.activation, probe);
        let key = probe.at(site(Module::MlpKey), key);
        if probe.ends_at(site(Module::MlpKey)) {
            return hidden;
        }
        let added = self.mlp_out.forward(key, probe);
        let added = probe.at(site(Module::MlpOutput), added);
        let hidden = form.behind(self.mlp_norm.as_ref(), hidden + added);
        probe.at(site(Module::BlockOutput), hidden)
    }
}

impl BlockForm {
    /// What a part of the block reads of the residual stream.
    fn before(&self, norm: &Norm, stream: &Tensor<2>) -> Tensor<2> {
        match self.norms {
            NormPlace::Before => norm.forward(stream.clone()),
            NormPlace::Behind => stream.clone(),
        }
    }

    /// What a part of the block leaves in the residual stream.
    fn behind(&self, norm: Option<&Norm>, sum: Tensor<2>) -> Tensor<2> {
        match (self.norms, norm) {
            (NormPlace::Behind, Some(norm)) => norm.forward(sum),
            _ => sum,
        }
    }
}

impl CrossAttention {
    /// What the attention adds; `None` if the pass reads no encoder, which is refused before any block is run.
    fn forward(&self, layer: usize, hidden: &Tensor<2>, form: &BlockForm, pass: &mut Pass, probe: &mut dyn Probe) -> Option<Tensor<2>> {
        let query = self.query.forward(form.before(&self.norm, hidden), probe);
        let query = if form.query_scale == 1.0 { query } else { query.mul_scalar(form.query_scale) };
        let project = |source: Tensor<2>| (self.key.forward(source.clone(), probe), self.value.forward(source, probe));
        let mixed = form.attention.attend_to_source(layer, query, project, pass)?;
        Some(self.output.forward(mixed, probe))
    }
}

impl Parameters for Block {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        let names = &self.names;
        let (first, last) = (!names.norms_last, names.norms_last);
        let norm = |norm: &'a Norm, name: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)| norm.visit(&join(path, name), see);
        if first {
            norm(&self.attention_norm, names.attention_norm, see);
        }
        self.projections.visit(&names.projections, path, see);
        self.attention_out.visit(&join(path, names.attention_out), see);
        self.relative_bias.visit(&join(path, names.relative_bias.unwrap_or_default()), see);
        if last {
            norm(&self.attention_norm, names.attention_norm, see);
        }
        if let (Some(cross), Some(names)) = (&self.cross_attention, &names.cross_attention) {
            if first {
                norm(&cross.norm, names.norm, see);
            }
            cross.query.visit(&join(path, names.query), see);
            cross.key.visit(&join(path, names.key), see);
            cross.value.visit(&join(path, names.value), see);
            cross.output.visit(&join(path, names.output), see);
            if last {
                norm(&cross.norm, names.norm, see);
            }
        }
        let mlp_norm = join(path, names.mlp_norm.unwrap_or_default());
        if first {
            self.mlp_norm.visit(&mlp_norm, see);
        }
        self.mlp_in.visit(&names.mlp_in, path, see);
        self.mlp_out.visit(&join(path, names.mlp_out), see);
        if last {
            self.mlp_norm.visit(&mlp_norm, see);
        }
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        let names = self.names;
        self.attention_norm.visit_mut(&join(path, names.attention_norm), see);
        self.projections.visit_mut(&names.projections, path, see);
        self.attention_out.visit_mut(&join(path, names.attention_out), see);
        self.relative_bias.visit_mut(&join(path, names.relative_bias.unwrap_or_default()), see);
        if let (Some(cross), Some(names)) = (&mut self.cross_attention, &names.cross_attention) {
            cross.norm.visit_mut(&join(path, names.norm), see);
            cross.query.visit_mut(&join(path, names.query), see);
            cross.key.visit_mut(&join(path, names.key), see);
            cross.value.visit_mut(&join(path, names.value), see);
            cross.output.visit_mut(&join(path, names.output), see);
        }
        self.mlp_norm.visit_mut(&join(path, names.mlp_norm.unwrap_or_default()), see);
        self.mlp_in.visit_mut(&names.mlp_in, path, see);
        self.mlp_out.visit_mut(&join(path, names.mlp_out), see);
    }
}
