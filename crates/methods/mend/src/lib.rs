//! MEND: a small network turns the gradient of one fact into an edit.
//!
//! The gradient of a weight is a sum over tokens of outer products δ xᵀ. A network that was trained for the model maps each pair (x, δ) to
//! another (x̃, δ̃), so that `W − α Σ δ̃ x̃ᵀ` says the new fact in other words, too, and leaves other facts as they are. An edit is one backward
//! pass and a few products, with no optimisation: milliseconds.
//!
//! [`Mend`] edits with a trained network; [`MendLearner`] is the network in training, for the loop of `easyedit-trainer`.
//!
//! # Source
//!
//! Mitchell et al., "Fast Model Editing at Scale", 2022.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod archive;
mod edited_pass;
mod factors;
mod facts;
mod hparams;
mod inner;
mod learner;
mod losses;
mod measure;
mod method;
mod network;
mod normalizer;
mod rows;
mod transform;

/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
/// The loop that trains the network.
pub use easyedit_trainer as trainer;
pub use hparams::{Init, KlPositions, MendHparams, ScheduleKind};
pub use learner::MendLearner;
pub use measure::EditExample;
pub use method::Mend;
