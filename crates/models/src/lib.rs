//! Language models of easyedit: architectures, checkpoints in and out, tokenizers, and names of models.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod checkpoint;
mod companions;
mod error;
mod json_file;
mod safetensors_source;
mod save;
mod source;
mod tokenizer_files;
mod weight_type;

pub use checkpoint::{Checkpoint, CheckpointFiles, HuggingFaceFolder};
pub use error::{Error, Result};
pub use safetensors_source::{INDEX_FILE, SINGLE_FILE, SafetensorsSource, Shard, StoredTensor};
pub use save::{PROVENANCE_FILE, SavedCheckpoint, SavedTensor, check_output, save_checkpoint, save_checkpoint_into};
pub use source::TensorSource;
pub use tokenizer_files::{TOKENIZER_FILE, load_tokenizer};
pub use weight_type::WeightType;
