//! NEWMETHOD: one fact by the least change of one MLP.
//!
//! The out-projection W of a middle layer's MLP answers the key k of a fact's token with a value. The method finds what has to be added
//! to the value, δ, so that the model says the new object, and makes the smallest change of W (in the Frobenius norm) that adds it:
//!
//! ```text
//! W' = W + δ kᵀ / (kᵀ k)
//! ```
//!
//! # Source
//!
//! PAPER

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod hparams;
mod insertion;
mod method;

/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::NewMethodHparams;
pub use method::NewMethod;
