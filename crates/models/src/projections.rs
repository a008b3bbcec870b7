use burn::tensor::Tensor;

use crate::attention::Attention;
use crate::linear::Linear;
use crate::parameters::{ParamMut, ParamRef, Parameters, join};

/// Names of separate projections.
const SEPARATE: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// The projections of an attention onto queries, keys and values, as the checkpoint stores them.
#[derive(Clone, Debug)]
pub(crate) enum Projections {
    /// Three weights: of queries, keys and values.
    Separate(Box<[Linear; 3]>),
    /// One weight, the three below each other (Baichuan).
    Fused(Box<Linear>),
}

impl Projections {
    /// Queries, keys and values.
    ///
    /// # Shapes
    ///
    /// `[tokens, d_model]` -> `[tokens, heads * head_dim]` and twice `[tokens, kv_heads * head_dim]`
    pub(crate) fn forward(&self, x: Tensor<2>, attention: &Attention) -> [Tensor<2>; 3] {
        match self {
            Self::Separate(projections) => projections.each_ref().map(|projection| projection.forward(x.clone())),
            Self::Fused(linear) => attention.fused(linear, x),
        }
    }
}

impl Parameters for Projections {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        match self {
            Self::Separate(projections) => {
                for (projection, name) in projections.iter().zip(SEPARATE) {
                    projection.visit(&join(path, name), see);
                }
            }
            Self::Fused(linear) => linear.visit(&join(path, "W_pack"), see),
        }
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        match self {
            Self::Separate(projections) => {
                for (projection, name) in projections.iter_mut().zip(SEPARATE) {
                    projection.visit_mut(&join(path, name), see);
                }
            }
            Self::Fused(linear) => linear.visit_mut(&join(path, "W_pack"), see),
        }
    }
}
