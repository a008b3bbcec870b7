//! ROME: rank-one model editing.
//!
//! A transformer's MLP at a middle layer behaves like a linear memory: its out-projection W answers a key k (what the subject is) with
//! a value v (what is known of it). ROME reads the subject's key k*, optimises the value v* with which the model says the new
//! object, and makes the smallest change of W, measured by the keys' second moment C, after which W k* = v*:
//!
//! ```text
//! W' = W + (v* - W k*) (C⁻¹ k*)ᵀ / (C⁻¹ k*)ᵀ k*
//! ```
//!
//! [`Rome`] is the method; it gives an [`Edit`](easyedit_core::Edit) of rank one per request and layer, and leaves the model as it was.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod hparams;
mod insertion;
mod method;

/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::RomeHparams;
pub use method::Rome;
