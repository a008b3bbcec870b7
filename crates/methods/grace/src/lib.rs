//! GRACE: edits kept in a codebook beside one MLP, for as many edits in a row as there are.
//!
//! The model's weights stay as they are. At the last token of a prompt, the input of one layer's MLP out-projection is looked up among
//! the keys of the [`Codebook`]: if it lies within the radius of the nearest one, that entry's value stands in for the MLP's output.
//! Every prompt that lies near no key is answered exactly as before. In an encoder-decoder the MLP may be the
//! decoder's or, as the paper's, the encoder's.
//!
//! ```text
//! h' = value of i  if d(h, key i) <= radius i for the nearest i,  else  MLP(h)
//! ```
//!
//! A new edit makes a key of its prompt and a value by gradient descent on the answer; where it meets an entry, radii are
//! widened (the same answer) or split (another one). [`Grace`] is the method; its edits are
//! [overlays](easyedit_core::Overlay), which are merged when one is laid over another.
//!
//! # Source
//!
//! Hartvigsen et al., "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors", 2023.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod codebook;
mod hparams;
mod lookup;
mod method;
mod start;
mod stored;
mod value;

pub use codebook::{Codebook, EditId, Entry, Expansion, Insertion, Outcome, Replacement, Rules};
/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use hparams::{GraceHparams, ValueStart};
pub use method::Grace;
