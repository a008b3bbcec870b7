//! EMMET: facts written at once as exact constraints, where MEMIT weighs them against what is kept. A batch of one is ROME's edit.
//!
//! # Source
//!
//! Gupta, Sajnani and Anumanchipalli, "A Unified Framework for Model Editing", 2024.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod hparams;
mod method;

/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::EmmetHparams;
pub use method::Emmet;
