//! Second moments of MLP keys.
//!
//! ```text
//! text ─► plan: documents drawn, encoded, put into chunks ─► collect: one pass for all layers, chunk by chunk
//!                                                             │ products in f32, summed exactly (fixed point)
//!            merge ◄── partial: sums on disk (a checkpoint, a shard) ◄──┤
//!                                                                       ▼
//!                                      cache, EasyEdit's .npz ◄── SecondMoments
//! ```
//!
//! The sums are integers, so that neither the order of the chunks, nor their distribution over machines, nor an interruption can change
//! a bit of the result; what a chunk holds depends on the text and the settings alone.

mod cache;
mod collect;
mod config;
mod easyedit_npz;
mod fixed_sum;
mod needs;
mod npy;
mod partial;
mod plan;
mod provenance;
mod search;
mod self_text;
mod shards;
mod soundness;

pub use config::MomentConfig;
pub use easyedit_npz::{EasyEditStats, NpzMoments, read_npz, write_npz};
pub use needs::{MomentNeeds, needed_moments};
pub use partial::Shard;
pub use search::{FoundMoments, MomentQuery, find_moments, import_npz};
pub use shards::{MergedMoments, ShardReport, collect_shard, merge_shards};

use std::collections::BTreeMap;

use easyedit_core::{CorpusText, Error, LanguageModel, Progress, Result};

use self::collect::collect;
use self::partial::Partial;
use self::plan::Plan;

/// The uncentred second moment C = E\[k kᵀ\] of a layer's MLP keys, over every token of a text. Exactly symmetric.
#[derive(Clone, Debug, PartialEq)]
pub struct SecondMoments {
    size: usize,
    tokens: u64,
    mean: Vec<f32>,
}

impl SecondMoments {
    /// Collects the moments of several layers in one pass over `documents`, which stops at the key of the deepest of them.
    ///
    /// # Errors
    ///
    /// If there is no text, a layer is out of range, or the keys are not finite.
    ///
    /// # Source
    ///
    /// Meng et al., "Locating and Editing Factual Associations in GPT", section 3.1 and appendix E.
    pub fn collect(
        model: &dyn LanguageModel,
        layers: &[usize],
        documents: &[String],
        config: &MomentConfig,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<usize, Self>> {
        layers.iter().try_for_each(|layer| model.spec().check_layer(*layer))?;
        if layers.is_empty() {
            return Ok(BTreeMap::new());
        }
        let plan = Plan::new(model, &CorpusText::Documents(documents.to_vec()), config, None, progress)?;
        let mut partial = Partial::new(layers, model.spec().d_mlp, 0..plan.chunks());
        collect(model, &plan, &mut partial, None, progress)?;
        partial.finish()
    }

    /// Moments from their parts: `mean: [size, size]`, row by row; `None` if it has another number of entries.
    pub(crate) fn from_parts(size: usize, tokens: u64, mean: Vec<f32>) -> Option<Self> {
        (size.checked_mul(size) == Some(mean.len())).then_some(Self { size, tokens, mean })
    }

    /// Width of the keys.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of tokens counted.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The moment matrix, row by row: `[size, size]`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// An entry, as the average of both triangles: EasyEdit's sums of products differ by rounding.
    pub(crate) fn entry(&self, row: usize, column: usize) -> f64 {
        0.5 * (f64::from(self.mean[row * self.size + column]) + f64::from(self.mean[column * self.size + row]))
    }

    /// Factors the matrix, for solving with it; `layer` is named in warnings.
    ///
    /// # Errors
    ///
    /// As [`Cholesky::new`](crate::Cholesky::new).
    pub fn factor(&self, layer: usize) -> Result<crate::Cholesky> {
        self.factor_scaled(1.0, 0.0, layer)
    }

    /// Factors `scale` times the matrix, with `ridge` added to its diagonal; `layer` is named in warnings.
    ///
    /// # Errors
    ///
    /// As [`Cholesky::new`](crate::Cholesky::new).
    pub fn factor_scaled(&self, scale: f64, ridge: f64, layer: usize) -> Result<crate::Cholesky> {
        let entry = |r: usize, c: usize| scale * self.entry(r, c) + if r == c { ridge } else { 0.0 };
        crate::Cholesky::new(self.size, entry, &format!("the second moment of layer {layer} (over {} tokens)", self.tokens))
    }
}

/// The error for statistics that are not finite.
fn not_finite(layer: usize) -> Error {
    Error::NotFinite(format!("the second moments of layer {layer} are not finite; the weights are damaged"))
}
