//! FT-Api: facts taught to a model behind OpenAI's API, by the API's own fine-tuning.
//!
//! The model's weights never leave the service, so this is no [`EditMethod`](easyedit_core::EditMethod): [`FtApi`] writes the requests as
//! a training file, uploads it, starts a fine-tuning job, waits for it, and gives the name of the new model. Base and fine-tuned model are
//! compared through chat completions, in the records and the summary of `easyedit-eval`; an API that gives no logits of a given answer
//! has no teacher-forced scores, so those stay empty.
//!
//! ```no_run
//! use easyedit_core::{CheckedRequest, EditRequest, Silent};
//! use easyedit_ft_api::{FtApi, FtApiHparams};
//!
//! # fn main() -> Result<(), easyedit_ft_api::Error> {
//! let request = EditRequest::new("The Eiffel Tower is located in the city of", "The Eiffel Tower", "Rome");
//! let requests = [CheckedRequest::new(request)?];
//! let api = FtApi::new(FtApiHparams::for_model("gpt-3.5-turbo"), 0)?;
//! let tuned = api.edit(&requests, &Silent)?;
//! let evaluated = api.evaluate(&tuned, &requests, &Silent)?;
//! println!("{}: {:?}", tuned.model, evaluated.records[0].free_decoding.post.rewrite_acc);
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! - The key comes from the environment alone; it is in no file, no message, no `Debug` output, and taken out of what the API says.
//! - Nothing waits without a limit: connecting, a request, a retry, a job.
//! - A job is paid for once: what was uploaded and started is noted in a file before anything waits for it, and before a job is created a
//!   second time the API is asked whether it has it already.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod api;
mod backoff;
mod client;
mod error;
mod evaluation;
mod hparams;
mod job;
mod method;
mod multipart;
mod redaction;
mod run;
mod secret;
mod state;
mod training;

/// The vocabulary: requests, models, edits.
pub use easyedit_core as core;
pub use error::Error;
pub use evaluation::{Evaluated, Exchange};
pub use hparams::{DEFAULT_SYSTEM_PROMPT, FtApiHparams};
pub use job::{Job, JobError, JobEvent, JobStatus};
pub use method::{FineTuned, FtApi};
pub use run::FtApiRun;
pub use secret::{KeyVariable, ProxyAddress};
pub use training::{MIN_EXAMPLES, TrainingFile};

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
