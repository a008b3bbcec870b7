//! The kernels that the locate-then-edit methods share.
//!
//! - [`Contexts`]: the texts a fact is optimised in;
//! - [`optimize_values`]: the values v* that make the model say the targets, for many requests at once, with everything that a change at
//!   the fact token cannot reach computed once;
//! - [`MassEdit`]: facts spread over layers, and [`locate_hparams!`], the hyperparameters of the methods that do so;
//! - [`LayerWalk`]: the keys of many facts, layer after layer, while the layers are edited;
//! - [`SecondMoments`]: statistics of a layer's keys over a text, in one pass for all layers, in shards, resumed, cached with their
//!   provenance ([`find_moments`]), read from and written as EasyEdit's files;
//! - [`TargetLoss`]: the loss of targets for methods that train weights, with what training cannot change computed once;
//! - [`Cholesky`]: solves with such a statistic, in f64; [`NullSpace`]: what such a statistic does not see;
//! - [`target_likelihood`]: the likelihood of wanted tokens with its derivative by the logits;
//! - [`SideBySide`]: parts of a work on threads of their own;
//! - [`context_templates`]: short texts the fact is read in;
//! - [`WordVectors`]: how many rare words texts have in common;
//! - [`trace`]: causal tracing, which states of a pass carry a fact.
//!
//! # Invariants
//!
//! No model family and no editing method is named here; no weight of a model asks for gradients, only those a method puts in its place.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod adam;
mod contexts;
mod fact_states;
mod fine_tune;
mod hparams_checks;
mod key_weight;
mod layer_walk;
mod locate;
mod mean_rows;
mod model_fingerprint;
mod moments;
mod null_space;
mod parallelism;
mod prefixes;
mod preparation;
mod row_groups;
mod side_by_side;
mod solver;
mod target_likelihood;
mod templates;
mod trace;
mod value;
mod word_vectors;

pub use adam::{Adam, AdamConfig};
pub use contexts::Contexts;
pub use fact_states::{FactActivations, FactRow};
pub use fine_tune::{LossPass, TargetLoss, TensorAdam, TrainingRow};
pub use hparams_checks::{
    Ceiling, above_zero, at_least_one, at_most, below_one, ceilings, inside_one, layers_within, templates_within, zero_or_more, zero_to_one,
};
pub use key_weight::{KeyWeight, auto_or_number};
pub use layer_walk::LayerWalk;
pub use locate::{LocateSettings, MassEdit, ResidualShare, SolveKeys, cached_values, hparams_defaults};
pub use mean_rows::{half_bare_row, mean_row};
pub use model_fingerprint::{fingerprint_up_to, fingerprints_up_to, sampled_fingerprint};
pub use moments::{
    EasyEditStats, FoundMoments, MergedMoments, MomentConfig, MomentNeeds, MomentQuery, NpzMoments, SecondMoments, Shard, ShardReport,
    collect_shard, find_moments, import_npz, merge_shards, needed_moments, read_npz, write_npz,
};
pub use null_space::NullSpace;
pub use preparation::{Preparation, second_moments};
pub use side_by_side::SideBySide;
pub use solver::{Cholesky, SolvedKeys};
pub use target_likelihood::{TargetLikelihood, target_likelihood};
pub use templates::{TemplateConfig, checked_templates, context_templates};
pub use trace::{Restoration, Trace, TraceConfig, TracePrompt, check_traceable, embedding_deviation, subject_noise, trace};
pub use value::{OncePredicted, OptimizedValue, StepLoss, ValueConfig, ValueSite, ValueTargets, optimize_values};
pub use word_vectors::WordVectors;
