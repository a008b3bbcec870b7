//! LoRA and AdaLoRA: low-rank adaptation to the facts to change.
//!
//! Chosen weights W get a low-rank change that is trained by gradient descent while W itself stays:
//!
//! ```text
//! LoRA     W + α/r B A             A random, B zero
//! AdaLoRA  W + α/r P diag(λ) Q     P, Q random, λ zero; kept near orthonormal by a term of the loss
//! ```
//!
//! AdaLoRA begins with more ranks than it ends with: triplets (a column of P, a number of λ, a row of Q) of all weights compete by their
//! importance, and the least important are pruned while it trains, until the budget of r per weight is reached.
//!
//! [`Lora`] is the method; it gives an [`Edit`](easyedit_core::Edit) of the factors, pruned ranks left out.
//!
//! # Source
//!
//! Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; Zhang et al., "Adaptive Budget Allocation for
//! Parameter-Efficient Fine-Tuning", 2023.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod adapter;
mod allocation;
mod hparams;
mod method;
mod modules;
mod orthogonality;
mod training;

/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::{LoraHparams, LoraType, Sequential};
pub use method::Lora;
