//! AlphaEdit: as MEMIT, with every change projected into the null space of what the model is to keep, so that many edits one after the other
//! leave it as it was.
//!
//! # Source
//!
//! Fang et al., "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models", 2025.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod history;
mod hparams;
mod method;

/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::AlphaEditHparams;
pub use method::AlphaEdit;
