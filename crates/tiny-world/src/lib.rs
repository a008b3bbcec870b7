//! A small synthetic world of facts, and small language models of every family that know them: so that any editing method can be
//! tried on any family in seconds, without a network.
//!
//! The models, the datasets and the text lie in `data/tiny-world` of the repository. They are made from a seed by
//! `cargo xtask tiny-world`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod accuracy;
mod architecture;
mod dataset;
mod entity;
mod error;
mod files;
mod names;
mod practice;
mod relation;
mod tokenizer;
mod training;
mod world;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use easyedit_core::{EditRequest, LanguageModel};
use easyedit_models::Checkpoint;

pub use accuracy::{Accuracy, accuracy};
pub use error::{Error, Result};
pub use files::{save_model, save_untrained, save_world, tokenizer};
pub use practice::Practice;
pub use relation::{RELATIONS, Relation};
pub use training::{TrainingConfig, train};
pub use world::{Fact, Sentence, World};

/// Seed of the world that the models know.
pub const SEED: u64 = 1;

static WORLD: LazyLock<World> = LazyLock::new(|| World::new(SEED));

/// The world that the models know.
pub fn world() -> &'static World {
    &WORLD
}

/// Its facts.
pub fn facts() -> &'static [Fact] {
    WORLD.facts()
}

/// One edit for each of its facts, in a shuffled order.
pub fn requests() -> Vec<EditRequest> {
    WORLD.requests()
}

/// Names of the models.
pub fn model_names() -> impl Iterator<Item = &'static str> {
    architecture::ARCHITECTURES.iter().map(|architecture| architecture.name)
}

/// Whether a model reads its prompts with an encoder and answers with a decoder.
pub fn is_encoder_decoder(name: &str) -> bool {
    architecture::Architecture::named(name).is_ok_and(architecture::Architecture::ends_texts)
}

/// The folder of models, datasets and text: what the environment variable `EASYEDIT_TINY_WORLD` says, else that of the repository this
/// crate was compiled in.
pub fn folder() -> PathBuf {
    match std::env::var_os("EASYEDIT_TINY_WORLD") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-world"),
    }
}

/// Folder of a model in another folder of the tiny world than [`folder`], whether it is there or not.
///
/// # Errors
///
/// [`Error::UnknownModel`].
pub fn model_folder_in(name: &str, folder: &Path) -> Result<PathBuf> {
    Ok(architecture::Architecture::named(name)?.folder_in(folder))
}

/// Folder of a model.
///
/// # Errors
///
/// [`Error::UnknownModel`]; [`Error::Missing`] if it has not been trained.
pub fn model_folder(name: &str) -> Result<PathBuf> {
    let folder = model_folder_in(name, &folder())?;
    if folder.is_dir() { Ok(folder) } else { Err(Error::Missing(folder)) }
}

/// A model that knows the world, on the CPU: `gpt2`, `llama`, ... ([`model_names`]).
///
/// # Errors
///
/// As [`model_folder`], and if the files are damaged.
pub fn model(name: &str) -> Result<Box<dyn LanguageModel>> {
    let device = easyedit_core::device::select("cpu")?;
    Ok(Checkpoint::open(&model_folder(name)?)?.load(&device)?)
}
