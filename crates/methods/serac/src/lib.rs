//! SERAC: edits in a memory beside the model.
//!
//! No weight of the base model changes. An edit is an entry of a memory: its prompt, its target, and an embedding of the prompt. A *scope
//! classifier* compares every query with the entries. A query that is near none is answered by the base model, bit for bit as before; one that
//! is near an entry is answered by a *counterfactual model*, which reads the entry before the query. Both networks are trained once
//! ([`SeracLearner`]) and serve any number of edits.
//!
//! # Invariants
//!
//! - Scope is decided once per row, from the prompt alone: while an answer is scored or written, nothing changes.
//! - The memory holds the requests' own texts; embeddings are made of them, and can be made anew.
//! - A query that is an edit's prompt has a score of 1, exactly.
//!
//! # Source
//!
//! Mitchell, Lin, Bosselut, Manning, Finn: "Memory-Based Model Editing at Scale", ICML 2022.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod classifier;
mod examples;
mod head;
mod hparams;
mod learner;
mod losses;
mod memory;
mod method;
mod mixture;
mod negatives;
mod networks;
mod routed;
mod scope;
mod scope_counts;
mod scoped;
mod threshold;

pub use classifier::ScopeClassifier;
pub use hparams::{HardNegatives, Pooling, SeracHparams};
pub use learner::SeracLearner;
pub use memory::{Entry, Memory};
pub use method::Serac;
pub use mixture::mix;
pub use networks::{Identity, Networks, TrainedFacts};
pub use routed::{RoutedPredictor, Routing};
pub use scope::ScopeRules;
pub use scoped::{Nearest, ScopedMemory};
pub use threshold::Threshold;
