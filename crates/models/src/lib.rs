//! Language models of easyedit: architectures, checkpoints in and out, tokenizers, and names of models.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod activation;
mod alibi;
mod attention;
mod bert;
mod block;
mod chatglm;
mod checkpoint;
mod companions;
mod config;
mod decoder;
mod decoder_only;
mod distilbert;
mod elementwise;
mod error;
mod families;
mod fingerprints;
pub mod gguf;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod initial_weights;
mod json_file;
mod linear;
mod llama;
mod loader;
mod mlp_in;
mod norm;
mod opt;
mod parameters;
mod positioned_reads;
mod post_norm;
mod projections;
mod pytorch;
mod relative_position;
mod resolve;
mod rotary;
mod safetensors_source;
mod save;
mod sentencepiece;
mod shape;
mod shard_index;
mod source;
mod stored_values;
mod t5;
mod t5_stack;
mod tensor_checks;
mod text_encoder;
#[doc(hidden)]
pub mod tiny;
mod tokenizer_checks;
mod tokenizer_files;
mod tokenizer_parts;
mod trainable;
mod untrained;
mod verify;
mod weight;

pub use checkpoint::{Checkpoint, CheckpointFiles, HuggingFaceFolder};
pub use config::ModelConfig;
pub use easyedit_core::WeightType;
pub use error::{Error, Result};
pub use families::{Family, families, family, load_model, new_config, stored_name};
pub use gguf::GgufFile;
pub use initial_weights::InitialWeights;
pub use json_file::read_json_object;
pub use pytorch::{PYTORCH_FILE, PYTORCH_INDEX_FILE, PytorchFolder, PytorchSource};
pub use resolve::{ModelLocation, ModelSettings, ShortName, cache_folder, resolve_model, resolve_model_with, short_names};
pub use safetensors_source::{INDEX_FILE, SINGLE_FILE, SafetensorsSource, Shard, StoredTensor};
pub use save::{
    PROVENANCE_FILE, Restored, Reverted, SavedCheckpoint, SavedTensor, Way, check_output, check_output_folder, first_applied, revert,
    save_checkpoint, save_checkpoint_into, save_reverted_into,
};
pub use shape::Shape;
pub use source::TensorSource;
pub use stored_values::StoredValues;
pub use text_encoder::{TextEncoder, is_text_encoder, load_text_encoder, text_encoder_types};
pub use tokenizer_files::{SENTENCEPIECE_FILES, TOKENIZER_FILE, load_tokenizer};
pub use untrained::{open_untrained, untrained};
pub use verify::{NotCompared, TensorAgreement, Verification, verify, verify_text_encoder};
