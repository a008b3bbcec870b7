//! Language models of easyedit: architectures, checkpoints in and out, tokenizers, and names of models.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod error;
pub mod gguf;
mod resolve;
mod source;

pub use error::{Error, Result};
pub use gguf::GgufFile;
pub use resolve::{ModelLocation, ModelSettings, ShortName, cache_folder, resolve_model, resolve_model_with, short_names};
pub use source::TensorSource;
