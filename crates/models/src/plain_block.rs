//! The classic transformer block: layer norms, plain multi-head attention and an MLP of two layers.

use burn::tensor::Tensor;
use easyedit_core::{Module, Pass, Probe, Site, Visibility};

use crate::activation::Activation;
use crate::attention::Attention;
use crate::linear::Linear;
use crate::norm::LayerNorm;
use crate::parameters::{ParamMut, ParamRef, Parameters, join};
use crate::rotary::Rotations;

/// What a family calls the parameters of a block, relative to it.
#[derive(Debug)]
pub(crate) struct BlockNames {
    pub(crate) input_norm: &'static str,
    pub(crate) projections: ProjectionNames,
    pub(crate) attention_out: &'static str,
    /// `None` where attention and MLP share a norm.
    pub(crate) mlp_norm: Option<&'static str>,
    pub(crate) mlp_in: &'static str,
    pub(crate) mlp_out: &'static str,
}

/// What the projections to queries, keys and values are called.
#[derive(Debug)]
pub(crate) enum ProjectionNames {
    /// One each.
    Separate([&'static str; 3]),
    /// One for all three, side by side.
    Fused(&'static str),
    /// One for all three, in which every head has its query, key and value side by side.
    FusedByHead(&'static str),
}

impl ProjectionNames {
    /// The parameters that hold them, as the checkpoint has them: three or one.
    pub(crate) fn all(&self) -> &[&'static str] {
        match self {
            Self::Separate(names) => names,
            Self::Fused(name) | Self::FusedByHead(name) => std::slice::from_ref(name),
        }
    }
}

/// How a block computes; blocks of a model may differ in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockForm {
    pub(crate) attention: Attention,
    pub(crate) visibility: Visibility,
    /// Factor of the queries; 1 where rotations carry that of the scores.
    pub(crate) query_scale: f64,
    pub(crate) activation: Activation,
    /// Whether the MLP reads what enters the block instead of what the attention leaves.
    pub(crate) parallel: bool,
}

#[derive(Clone)]
pub(crate) struct PlainBlock {
    pub(crate) names: &'static BlockNames,
    pub(crate) form: BlockForm,
    pub(crate) input_norm: LayerNorm,
    /// As many as [`ProjectionNames::all`] has names.
    pub(crate) projections: Vec<Linear>,
    pub(crate) attention_out: Linear,
    /// `None` where the MLP reads the attention's norm.
    pub(crate) mlp_norm: Option<LayerNorm>,
    pub(crate) mlp_in: Linear,
    pub(crate) mlp_out: Linear,
}

impl Parameters for PlainBlock {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        let names = self.names;
        self.input_norm.visit(&join(path, names.input_norm), see);
        for (name, projection) in names.projections.all().iter().zip(&self.projections) {
            projection.visit(&join(path, name), see);
        }
        self.attention_out.visit(&join(path, names.attention_out), see);
        self.mlp_norm.visit(&join(path, names.mlp_norm.unwrap_or_default()), see);
        self.mlp_in.visit(&join(path, names.mlp_in), see);
        self.mlp_out.visit(&join(path, names.mlp_out), see);
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        let names = self.names;
        self.input_norm.visit_mut(&join(path, names.input_norm), see);
        for (name, projection) in names.projections.all().iter().zip(&mut self.projections) {
            projection.visit_mut(&join(path, name), see);
        }
        self.attention_out.visit_mut(&join(path, names.attention_out), see);
        self.mlp_norm.visit_mut(&join(path, names.mlp_norm.unwrap_or_default()), see);
        self.mlp_in.visit_mut(&join(path, names.mlp_in), see);
        self.mlp_out.visit_mut(&join(path, names.mlp_out), see);
    }
}

impl PlainBlock {
    /// Runs the block as layer `layer`, from `BlockInput` to `BlockOutput`; queries and keys are turned by `rotations`, if any.
    pub(crate) fn forward(
        &self,
        layer: usize,
        hidden: Tensor<2>,
        rotations: Option<&Rotations>,
        pass: &mut Pass,
        probe: &mut dyn Probe,
    ) -> Tensor<2> {
        let form = self.form;
        let site = |module| Site::new(layer, module);
        let hidden = probe.at(site(Module::BlockInput), hidden);
        let normed = self.input_norm.forward(hidden.clone());
        let (query, key, value) = self.project(&normed);
        let (query, key) = match rotations {
            Some(rotations) => (rotations.query.apply(query), rotations.key.apply(key)),
            None => (query, key),
        };
        let query = if form.query_scale == 1.0 { query } else { query.mul_scalar(form.query_scale) };
        let mlp_input = |stream: &Tensor<2>| self.mlp_norm.as_ref().map_or_else(|| normed.clone(), |norm| norm.forward(stream.clone()));
        let beside = form.parallel.then(|| mlp_input(&hidden));

        let mask = pass.mask(form.visibility);
        let mixed = form.attention.attend(layer, query, key, value, mask, pass);
        let hidden = hidden + probe.at(site(Module::AttentionOutput), self.attention_out.forward(mixed));
        let normed = beside.unwrap_or_else(|| mlp_input(&hidden));
        let key = probe.at(site(Module::MlpKey), form.activation.forward(self.mlp_in.forward(normed)));
        if probe.ends_at(site(Module::MlpKey)) {
            return hidden;
        }
        let hidden = hidden + probe.at(site(Module::MlpOutput), self.mlp_out.forward(key));
        probe.at(site(Module::BlockOutput), hidden)
    }

    /// Queries, keys and values of the normed input: `[tokens, heads * head_dim]` each.
    fn project(&self, normed: &Tensor<2>) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
        let Attention { heads, head_dim, .. } = self.form.attention;
        let width = heads * head_dim;
        match (&self.names.projections, self.projections.as_slice()) {
            (ProjectionNames::FusedByHead(_), [fused, ..]) => {
                // Reading a projection's rows out of the weight would copy the weight; here only the few activations are copied.
                let tokens = normed.dims()[0];
                let joint = fused.forward(normed.clone()).reshape([tokens, heads, 3, head_dim]);
                let part = |index: usize| joint.clone().narrow(2, index, 1).reshape([tokens, width]);
                (part(0), part(1), part(2))
            }
            (_, [query, key, value]) => (query.forward(normed.clone()), key.forward(normed.clone()), value.forward(normed.clone())),
            (_, projections) => {
                let [query, key, value] = self.form.attention.fused(&projections[0], normed.clone());
                (query, key, value)
            }
        }
    }
}
