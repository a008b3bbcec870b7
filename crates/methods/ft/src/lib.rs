//! FT: fine-tuning of a few weights on the facts to change.
//!
//! Gradient descent (Adam) on the weights that a template names, usually an MLP's out-projection in one layer, until the model says the
//! targets. Two losses:
//!
//! - FT-M (`objective_optimization: target_new`): each token of the target is predicted behind those before it. The fair baseline.
//! - FT-L (`prompt_last`, the default for EasyEdit's files): all tokens of the target are predicted at the last token of the prompt, and a
//!   weight moves by at most `norm_constraint`. The baseline that the ROME paper published.
//!
//! [`Ft`] is the method; it gives an [`Edit`](easyedit_core::Edit) of full changes, or of single places where most of a weight stays.
//!
//! # Source
//!
//! Zhu et al., "Modifying Memories in Transformer Models", 2020; Meng et al., "Locating and Editing Factual Associations in GPT", 2022,
//! appendix E.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod hparams;
mod method;
mod training;
mod weights;

/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::{FtHparams, Objective};
pub use method::Ft;
