//! IKE: no weight is changed. A prompt is read behind the new fact, and behind demonstrations that show what a new fact means: it is to be
//! repeated (*copy*), said in other words (*update*), and has no say in other facts (*retain*).
//!
//! The demonstrations come from records of other facts: every record makes up to three [`Demonstration`]s, and those nearest to the new
//! fact are put before it. [`DemonstrationIndex`] finds them, by the embeddings of a
//! [`SentenceEncoder`](easyedit_core::SentenceEncoder) or, without one, by the words they have in common. Without records the new fact stands
//! alone.
//!
//! What an [`Edit`](easyedit_core::Edit) holds are the demonstrations and the facts, as text. Laid over a model they become one context; one of an edit
//! that lies directly beneath is merged with it, and the later fact about a prompt wins.
//!
//! # Source
//!
//! Zheng et al., "Can We Edit Factual Knowledge by In-Context Learning?", 2023.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod context;
mod demonstration;
mod hparams;
mod index;
mod index_file;
mod method;
mod selection;

pub use demonstration::{Demonstration, Kind, demonstrations_of};
/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::{IkeHparams, Retrieval, Selection};
pub use index::DemonstrationIndex;
pub use method::Ike;
pub use selection::{Selected, by_ratio, nearest};
