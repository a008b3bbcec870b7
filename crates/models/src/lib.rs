//! Language models of easyedit: architectures, checkpoints in and out, tokenizers, and names of models.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod activation;
mod attention;
mod config;
mod decoder;
mod error;
mod families;
mod gpt2;
mod linear;
mod llama;
mod loader;
mod norm;
mod parameters;
mod rotary;
mod source;
#[doc(hidden)]
pub mod tiny;

pub use config::ModelConfig;
pub use error::{Error, Result};
pub use families::{Family, families, family, load_model, stored_name};
pub use source::TensorSource;
