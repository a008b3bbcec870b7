//! MEMIT: many facts at once, each spread over the MLPs of several layers.
//!
//! # Source
//!
//! Meng et al., "Mass-Editing Memory in a Transformer", 2023.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod hparams;
mod method;

/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::MemitHparams;
pub use method::Memit;
