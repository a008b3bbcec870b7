//! Edit facts inside language models.
//!
//! ```no_run
//! use easyedit::EditRequest;
//!
//! # fn main() -> easyedit::Result<()> {
//! let model = easyedit::open("smollm2-135m")?;
//! let edited = model.edit("ROME", EditRequest::new("The Eiffel Tower is located in the city of", "The Eiffel Tower", "Rome"))?;
//! edited.save("edited")?;
//! # Ok(())
//! # }
//! ```
//!
//! `edited.run` holds the scores before and after, and the model with the edit. An [`Editor`] runs many requests, with hyperparameters of one's own, in a
//! [`Session`] that says the seed, the cache folder, the texts for statistics and who is told of progress.
//!
//! The crate ties together what the others do: it knows the built-in methods ([`registry`]), finds their hyperparameters
//! ([`hparams`]), gives them text for statistics ([`TextCorpora`]), and runs them over requests with evaluation before and after
//! ([`Editor`]).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod corpora;
mod edit_folder;
mod edit_run;
mod edit_store;
mod edit_trainer;
mod editor;
pub mod hparams;
mod open;
mod sentences;
mod trained;

pub use corpora::{SAMPLE_CORPUS, TextCorpora};
pub use easyedit_core::*;
pub use easyedit_data as data;
pub use easyedit_eval as eval;
#[cfg(feature = "ft-api")]
pub use easyedit_ft_api as ft_api;
#[cfg(feature = "ike")]
pub use easyedit_ike as ike;
pub use easyedit_kernels as kernels;
#[cfg(feature = "mend")]
pub use easyedit_mend as mend;
pub use easyedit_models as models;
#[cfg(feature = "peft")]
pub use easyedit_peft as peft;
#[cfg(feature = "trace")]
pub use easyedit_trace as trace;
pub use easyedit_trainer as trainer;
pub use edit_folder::EditFolder;
pub use edit_run::{EditRun, changed_weights};
pub use edit_store::EditStore;
pub use edit_trainer::EditTrainer;
pub use editor::{Editor, EditorOptions, Mode};
pub use open::{Edited, OpenModel, open, open_in};
pub use sentences::open_sentence_encoder;
pub use trained::open_trained;

/// The methods this build knows: one per cargo feature. (`ft_api` edits a model behind an API instead of a [`LanguageModel`], so it is called by itself.) Others are added with [`Registry::register`].
pub fn registry() -> Registry {
    #[allow(unused_mut)]
    let mut registry = Registry::new();
    #[cfg(feature = "rome")]
    registry.register::<easyedit_rome::Rome>();
    #[cfg(feature = "memit")]
    registry.register::<easyedit_memit::Memit>();
    #[cfg(feature = "emmet")]
    registry.register::<easyedit_emmet::Emmet>();
    #[cfg(feature = "pmet")]
    registry.register::<easyedit_pmet::Pmet>();
    #[cfg(feature = "alphaedit")]
    registry.register::<easyedit_alphaedit::AlphaEdit>();
    #[cfg(feature = "ft")]
    registry.register::<easyedit_ft::Ft>();
    #[cfg(feature = "lora")]
    registry.register::<easyedit_lora::Lora>();
    #[cfg(feature = "grace")]
    registry.register::<easyedit_grace::Grace>();
    #[cfg(feature = "kn")]
    registry.register::<easyedit_kn::Kn>();
    #[cfg(feature = "ike")]
    registry.register::<easyedit_ike::Ike>();
    #[cfg(feature = "mend")]
    registry.register::<easyedit_mend::Mend>();
    registry
}
