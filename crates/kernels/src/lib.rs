//! The kernels that the locate-then-edit methods share.
//!
//! - [`FactStates`]: the keys and values of a fact at one layer, read from a batch of contexts in one pass, with everything that a
//!   change at the fact token cannot reach computed once;
//! - [`optimize_value`]: the value v* that makes the model say the target;
//! - [`SecondMoments`]: statistics of a layer's keys over a text, in one pass for all layers, cached with their provenance;
//! - [`Cholesky`]: solves with such a statistic, in f64;
//! - [`context_templates`]: short texts the fact is read in;
//! - [`trace`]: causal tracing, which states of a pass carry a fact.
//!
//! # Invariants
//!
//! No model family and no editing method is named here; weights never ask for gradients.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod adam;
mod contexts;
mod fact_states;
mod mean_rows;
mod model_fingerprint;
mod moments;
mod moments_cache;
mod preparation;
mod row_groups;
mod solver;
mod templates;
mod trace;
mod value;

pub use adam::{Adam, AdamConfig};
pub use contexts::Contexts;
pub use fact_states::{FactRow, FactStates};
pub use mean_rows::{half_bare_row, mean_row};
pub use model_fingerprint::{fingerprint_up_to, sampled_fingerprint};
pub use moments::{MomentConfig, SecondMoments};
pub use moments_cache::cached_moments;
pub use preparation::Preparation;
pub use solver::Cholesky;
pub use templates::{TemplateConfig, checked_templates, context_templates};
pub use trace::{Restoration, Trace, TraceConfig, TracePrompt, check_traceable, embedding_deviation, subject_noise, trace};
pub use value::{OptimizedValue, StepLoss, ValueConfig, ValueSite, ValueTargets, optimize_value};
