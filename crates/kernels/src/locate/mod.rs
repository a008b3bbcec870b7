//! What the methods that locate and edit have in common: their hyperparameters, and facts spread over layers.

mod hparams;
mod mass_edit;
mod value_cache;

pub use hparams::{LocateSettings, hparams_defaults};
pub use mass_edit::{MassEdit, ResidualShare, SolveKeys};
pub use value_cache::cached_values;
