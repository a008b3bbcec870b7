//! PMET: as MEMIT, but with a change of the attention's output optimised beside that of the MLP's, so that the MLP need not store what
//! attention would; only MLPs are edited.
//!
//! # Source
//!
//! Li et al., "PMET: Precise Model Editing in a Transformer", 2024.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod hparams;
mod method;

/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::PmetHparams;
pub use method::Pmet;
