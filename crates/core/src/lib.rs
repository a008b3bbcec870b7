//! Vocabulary and contracts of easyedit.
//!
//! Everything in the workspace speaks in the types of this crate: an [`EditRequest`] names a fact, a
//! [`LanguageModel`] is run layer by layer with a [`Probe`] at its [`Site`]s and linear maps, an [`EditMethod`] turns requests into an
//! [`Edit`], and an [`Edit`] is applied to a model, reverted bit for bit, or written to a small file.
//!
//! # Invariants
//!
//! - No model family and no editing method is named here.
//! - There is no padding: a [`TokenBatch`] lays its sequences end to end, and activations are `[tokens, width]`.
//! - A method never changes the model it is given; only [`Edit::apply`] does, and [`Applied::revert`] undoes it exactly.
//! - Which tokens are the subject and which the target is decided in [`tokens`] alone, from character offsets.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod apply;
mod artefact;
mod cache_folder;
mod caught;
mod checked_request;
mod delta;
pub mod device;
mod edit;
mod edit_file;
mod edit_order;
mod encoder;
mod error;
mod exp;
mod files;
mod fingerprint;
mod generate;
mod host_tensor;
mod hparams;
pub mod in_flight;
mod input;
mod insert;
mod kv_cache;
mod logits;
mod matrix;
mod method;
mod model;
mod model_map;
mod names;
mod overlay;
mod pass;
mod predictor;
mod probe;
mod progress;
mod publish;
mod registry;
mod request;
mod row_ops;
mod score;
mod sentence;
mod session;
mod subject;
mod token_batch;
mod token_row;
mod tokenizer;
mod tokenizer_limits;
pub mod tokens;
mod trainable_encoder;
mod trained;
mod weight_product;
mod weight_type;
pub mod white_box;

pub use apply::apply_all;
pub use artefact::{Artefact, ArtefactFile, ArtefactLabel, ArtefactTensor};
pub use cache_folder::{keep_in_cache, tidy_cache_folder};
pub use caught::catch_panic;
pub use checked_request::CheckedRequest;
pub use delta::{MAX_WEIGHT_VALUES, WeightDelta};
pub use edit::{Applied, Edit, TensorDelta};
pub use edit_file::EDIT_FILE_SUFFIX;
pub use edit_order::sort_by_fingerprints;
pub use encoder::{Encoder, EncoderOutput, EncoderSpec};
pub use error::{Error, Result};
pub use files::{OutputFolder, check_output_file, write_atomically, write_new_atomically};
pub use fingerprint::{Fingerprint, fingerprint_values};
pub use generate::{Generation, GenerationConfig, Sampling};
pub use host_tensor::HostTensor;
pub use hparams::{Hparams, HparamsDocument, nearest_name, number};
pub use input::{open_input, read_input, read_input_text};
pub use insert::Insert;
pub use kv_cache::{KeyValue, KvCache};
pub use matrix::{Matrix, tensor_values};
pub use method::{Corpora, CorpusText, EditMethod, Method, SELF_CORPUS, SelfWritten};
pub use model::{LanguageModel, ModelSpec, ModuleNames, WeightLayout};
pub use model_map::{LinearRole, ModelMap, NormRole, Parameter, ParameterRole, Stack};
pub use names::{Module, ParamName, Site};
pub use overlay::{EditedModel, ForwardChange, Overlaid, Overlay};
pub use pass::{MASKED_SCORE, Pass, Visibility};
pub use predictor::{Predictor, TargetScore, generate, generate_while};
pub use probe::{Capture, Probe};
pub use progress::{Progress, Silent};
pub use publish::{INCOMPLETE_FILE, Staging, unfinished_files};
pub use registry::{MethodEntry, Registry};
pub use request::{EditRequest, EvaluationPrompt};
pub use row_ops::{Norm, attention, row_norm};
pub use score::like_lengths;
pub use sentence::SentenceEncoder;
pub use session::Session;
pub use token_batch::TokenBatch;
pub use token_row::{AsTokens, TokenRow, TokenSlice};
pub use tokenizer::{Encoding, Tokenizer};
pub use tokenizer_limits::limit_patterns;
pub use trainable_encoder::{HeadActivation, SequenceHead, TrainableEncoder};
pub use trained::Trained;
pub use weight_product::{JointProducts, weight_product};
pub use weight_type::WeightType;
