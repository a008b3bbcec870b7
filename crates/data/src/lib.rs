//! Datasets of model editing, in the formats that EasyEdit and the papers' authors publish, and text for statistics.
//!
//! [`read_dataset`] reads a file of facts whatever its format; every record is recognised by its own keys ([`Format`]):
//!
//! | records of | recognised by | becomes |
//! |---|---|---|
//! | EasyEdit's request dicts and flat CounterFact, KnowEdit | `prompt` and `target_new` (or `target`) | as they are; of an answer's wordings the first is the answer, the others its aliases |
//! | CounterFact | `requested_rewrite` | the template filled in; paraphrases as rephrased prompts; neighbourhood prompts as locality `neighborhood`, prompts about others of whom the new answer is true as locality `attribute` |
//! | MQuAKE | several `requested_rewrite`, and `questions` | a request for each; the last has the questions as portability `multi_hop`, and their hops as `single_hop` |
//! | zsRE | `src` and `alt` | `loc` as locality `neighborhood`; `New Question` as portability `one_hop` |
//! | ROME's facts for causal tracing | `attribute` | the attribute as ground truth and target; `known_id` as the number |
//! | relations of LRE | `prompt_templates` and `samples` | a request for each sample, what is true being the target |
//! | WikiBio | `text` and `labels` | `concept` as the subject |
//! | EasyEdit's lists of arguments | `prompts` and `target_new` as lists | a request for each entry |
//!
//! PIQA, Natural Questions, E-VQA and E-IC, and files of texts are recognised, and refused with what they are.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod corpus;
mod dataset;
mod format;
mod formats;
mod inspection;
mod records;
mod value;

pub use corpus::{read_corpus, sample_text, split_documents};
pub use dataset::{Dataset, DatasetRecord, Fault, read_dataset, read_requests};
pub use format::Format;
pub use inspection::{FactCounts, Inspection, inspect};
