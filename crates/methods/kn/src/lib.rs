//! KN: the neurons that express a fact, found by integrated gradients, and changed.
//!
//! A neuron is one input of an MLP's out-projection. Its attribution to an answer is the integral of the answer's probability's derivative by
//! the neuron's activation, from 0 to what it is; over all neurons of a layer, attributions sum to what the layer's neurons add to the
//! probability. The neurons above a share of the largest attribution are the fact's. They are changed in one of three ways:
//!
//! - `edit`: the out-projection's column of each loses the old answer's embedding and gains the new one's, times the sign of the neuron's
//!   activation, and by no more than makes the model say the new answer;
//! - `suppress`, `enhance`: their activations are set to 0 or doubled, as an [overlay](easyedit_core::Overlay) that changes no weight.
//!
//! [`Kn`] is the method, [`attribute`] the integrated gradients.
//!
//! # Source
//!
//! Dai et al., "Knowledge Neurons in Pretrained Transformers", 2022.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod answer;
mod attribution;
mod embedding_change;
mod hparams;
mod line_search;
mod method;
mod neurons;
mod patch;

pub use attribution::{Attribution, attribute};
/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::{KnHparams, KnMode};
pub use method::Kn;
pub use neurons::Neuron;
