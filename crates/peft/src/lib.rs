//! Adapters of Hugging Face `peft`: edits out as LoRA adapters, LoRA and AdaLoRA adapters in as edits.
//!
//! [`export`] writes the low-rank changes of edits as `adapter_config.json` and `adapter_model.safetensors`; [`import`] makes an
//! [`Edit`](easyedit_core::Edit) of such a folder, fingerprints included, so that an adapter can be inspected, stacked, applied and
//! reverted like any other edit. No method is known here: a change is a change, whoever made it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod config;
mod error;
mod export;
mod import;
mod low_rank;
mod patterns;
mod target;
mod weights;

pub use config::CONFIG_FILE;
pub use error::{Error, Result};
pub use export::{ExportOptions, ExportedAdapter, ExportedWeight, PROVENANCE_FILE, export};
pub use import::{IMPORTED_METHOD, import};
pub use weights::{PYTORCH_WEIGHTS_FILE, WEIGHTS_FILE};
