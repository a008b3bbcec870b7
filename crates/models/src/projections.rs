use burn::tensor::Tensor;

use crate::attention::Attention;
use crate::linear::Linear;
use crate::parameters::{ParamMut, ParamRef, Parameters, join};

/// The projections of an attention onto queries, keys and values, as the checkpoint stores them.
#[derive(Clone, Debug)]
pub(crate) enum Projections {
    /// Three weights.
    Separate { query: Linear, key: Linear, value: Linear },
    /// One weight, the three below each other (Baichuan).
    Fused(Linear),
}

impl Projections {
    /// Queries, keys and values.
    ///
    /// # Shapes
    ///
    /// `[tokens, d_model]` -> `[tokens, heads * head_dim]` and twice `[tokens, kv_heads * head_dim]`
    pub(crate) fn forward(&self, x: Tensor<2>, attention: &Attention) -> [Tensor<2>; 3] {
        match self {
            Self::Separate { query, key, value } => [query.forward(x.clone()), key.forward(x.clone()), value.forward(x)],
            Self::Fused(linear) => attention.fused(linear, x),
        }
    }
}

impl Parameters for Projections {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        match self {
            Self::Separate { query, key, value } => {
                query.visit(&join(path, "q_proj"), see);
                key.visit(&join(path, "k_proj"), see);
                value.visit(&join(path, "v_proj"), see);
            }
            Self::Fused(linear) => linear.visit(&join(path, "W_pack"), see),
        }
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        match self {
            Self::Separate { query, key, value } => {
                query.visit_mut(&join(path, "q_proj"), see);
                key.visit_mut(&join(path, "k_proj"), see);
                value.visit_mut(&join(path, "v_proj"), see);
            }
            Self::Fused(linear) => linear.visit_mut(&join(path, "W_pack"), see),
        }
    }
}
