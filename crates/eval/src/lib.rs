//! What an edit did: metrics before and after it, one record per request, a summary, and the report file that holds them.
//!
//! Every question is answered two ways. *Teacher-forced token match* is EasyEdit's measure: the model reads prompt and answer, and the
//! share of the answer's tokens it would have predicted counts. *Free decoding* lets the model speak: its greedy continuation must begin
//! with the answer in whole words. The second is what a user of the edited model sees.
//!
//! An [`Evaluation`] encodes the questions of all requests once, asks each distinct one once per model in as few batched passes as
//! possible, and gives [`Answers`], from which [`Metrics`] are made. [`perplexity`] says whether the model as a whole still works.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod continuations;
mod evaluation;
mod memory;
mod metrics;
mod perplexity;
mod record;
mod report;
mod summary;

pub use evaluation::{Answers, Evaluation, begins_with_words};
pub use memory::PeakMemory;
pub use metrics::{MeanMetrics, Metrics};
pub use perplexity::{Perplexity, perplexity};
pub use record::{FreeDecoding, Record};
pub use report::ReportWriter;
pub use summary::{MeanPair, RunInfo, Seconds, Summary, Versions};
