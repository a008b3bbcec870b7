//! Edit facts inside language models.
//!
//! ```no_run
//! use easyedit::models::Checkpoint;
//! use easyedit::{EditRequest, Editor, EditorOptions, Silent, TextCorpora, device};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Checkpoint::open("path/to/gpt2".as_ref())?.load(&device::select("cpu")?)?;
//! let registry = easyedit::registry();
//! let rome = registry.get("ROME")?;
//! let found = easyedit::hparams::find(rome, &model.spec().name.clone(), model.spec())?;
//! let mut editor = Editor::new(model, rome.build(&found.document)?, EditorOptions::default());
//! let request = EditRequest::new("The Eiffel Tower is located in the city of", "The Eiffel Tower", "Rome");
//! let session = editor.run(&[request], &TextCorpora::default(), &Silent, &mut |_| Ok(()))?;
//! println!("{:?}", session.records[0].post.rewrite_acc);
//! let edited = session.edited()?;
//! # Ok(())
//! # }
//! ```
//!
//! The crate ties together what the others do: it knows the built-in methods ([`registry`]), finds their hyperparameters
//! ([`hparams`]), gives them text for statistics ([`TextCorpora`]), and runs them over requests with evaluation before and after
//! ([`Editor`]).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod corpora;
mod edit_folder;
mod edit_store;
mod editor;
pub mod hparams;
mod sentences;
mod session;

pub use corpora::{SAMPLE_CORPUS, TextCorpora};
pub use easyedit_core::*;
pub use easyedit_data as data;
pub use easyedit_eval as eval;
#[cfg(feature = "ft-api")]
pub use easyedit_ft_api as ft_api;
#[cfg(feature = "ike")]
pub use easyedit_ike as ike;
pub use easyedit_kernels as kernels;
pub use easyedit_models as models;
#[cfg(feature = "peft")]
pub use easyedit_peft as peft;
#[cfg(feature = "trace")]
pub use easyedit_trace as trace;
pub use edit_folder::EditFolder;
pub use edit_store::EditStore;
pub use editor::{Editor, EditorOptions, Mode};
pub use sentences::open_sentence_encoder;
pub use session::EditSession;

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
    registry
}
