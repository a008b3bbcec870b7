use burn::tensor::Tensor;
use easyedit_core::{LinearRole, Probe};

use crate::Result;
use crate::attention::Attention;
use crate::linear::Linear;
use crate::loader::{Scope, Storage};
use crate::parameters::{ParamMut, ParamRef, Parameters, join};

/// Names of the projections to queries, keys and values, relative to the block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProjectionNames {
    /// One each.
    Separate([&'static str; 3]),
    /// One for all three, side by side.
    Fused(&'static str),
    /// One for all three, in which every head has its query, key and value side by side.
    FusedByHead(&'static str),
}

impl ProjectionNames {
    fn all(&self) -> &[&'static str] {
        match self {
            Self::Separate(names) => names,
            Self::Fused(name) | Self::FusedByHead(name) => std::slice::from_ref(name),
        }
    }
}

/// The projections of a self-attention to queries, keys and values, as the checkpoint stores them.
#[derive(Clone, Debug)]
pub(crate) enum Projections {
    Separate(Box<[Linear; 3]>),
    Fused(Linear),
    FusedByHead(Linear),
}

impl Projections {
    pub(crate) fn load(
        scope: &Scope<'_>,
        names: &ProjectionNames,
        attention: &Attention,
        d_model: usize,
        storage: Storage,
    ) -> Result<Self> {
        let [d_query, d_key, d_value] = attention.widths();
        let linear = |name: &str, width: usize, role: LinearRole| scope.linear(name, [d_model, width], storage, role);
        let fused = |name: &str| linear(name, d_query + d_key + d_value, LinearRole::FusedQkv);
        Ok(match names {
            ProjectionNames::Separate([query, key, value]) => Self::Separate(Box::new([
                linear(query, d_query, LinearRole::Query)?,
                linear(key, d_key, LinearRole::Key)?,
                linear(value, d_value, LinearRole::Value)?,
            ])),
            ProjectionNames::Fused(name) => Self::Fused(fused(name)?),
            ProjectionNames::FusedByHead(name) => Self::FusedByHead(fused(name)?),
        })
    }

    /// Queries, keys and values.
    ///
    /// # Shapes
    ///
    /// `[tokens, d_model]` -> `[tokens, heads * head_dim]` and twice `[tokens, kv_heads * head_dim]`
    pub(crate) fn forward(&self, x: &Tensor<2>, attention: &Attention, probe: &mut dyn Probe) -> [Tensor<2>; 3] {
        match self {
            Self::Separate(projections) => projections.each_ref().map(|projection| projection.forward(x.clone(), probe)),
            Self::Fused(fused) => fused.forward_parts(x, attention.widths(), probe),
            Self::FusedByHead(fused) => {
                let Attention { heads, head_dim, .. } = *attention;
                let [tokens, _] = x.dims();
                // Reading a projection's rows out of the weight would copy the weight; here only the few activations are copied.
                let joint = fused.forward(x.clone(), probe).reshape([tokens, heads, 3, head_dim]);
                [0, 1, 2].map(|index| joint.clone().narrow(2, index, 1).reshape([tokens, heads * head_dim]))
            }
        }
    }

    fn all(&self) -> &[Linear] {
        match self {
            Self::Separate(projections) => &**projections,
            Self::Fused(fused) | Self::FusedByHead(fused) => std::slice::from_ref(fused),
        }
    }

    fn all_mut(&mut self) -> &mut [Linear] {
        match self {
            Self::Separate(projections) => &mut **projections,
            Self::Fused(fused) | Self::FusedByHead(fused) => std::slice::from_mut(fused),
        }
    }

    pub(crate) fn visit<'a>(&'a self, names: &ProjectionNames, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        for (name, projection) in names.all().iter().zip(self.all()) {
            projection.visit(&join(path, name), see);
        }
    }

    pub(crate) fn visit_mut(&mut self, names: &ProjectionNames, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        for (name, projection) in names.all().iter().zip(self.all_mut()) {
            projection.visit_mut(&join(path, name), see);
        }
    }
}
