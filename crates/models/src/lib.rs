//! Language models of easyedit: architectures, checkpoints in and out, tokenizers, and names of models.

mod error;
mod source;

pub use error::{Error, Result};
pub use source::TensorSource;
