//! Datasets of model editing, in the formats that EasyEdit and the papers' authors publish, and text for statistics.
//!
//! [`read_requests`] reads a file of facts whatever its format; every record is recognised by its own keys:
//!
//! | records of | recognised by | becomes |
//! |---|---|---|
//! | CounterFact | `requested_rewrite` | the template filled in; neighbourhood prompts as locality `neighborhood` |
//! | zsRE | `src` and `alt` | `loc` as locality `neighborhood`; `New Question` as portability `one_hop` |
//! | ROME's facts for causal tracing | `attribute` | the attribute as ground truth and target; `known_id` as the number |
//! | WikiBio | `text` and `labels` | `concept` as the subject |
//! | EasyEdit's counterfact, KnowEdit, EasyEdit's request dicts | `prompt` and `target_new` | as they are; of alias lists the first |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod corpus;
mod file;
mod record;
mod value;

pub use corpus::{read_corpus, sample_text, split_documents};
pub use file::{Dataset, read_dataset, read_requests};
