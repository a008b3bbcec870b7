//! How a [`LanguageModel`](crate::LanguageModel) answers as a [`Predictor`](crate::Predictor): by running its layers. For those who implement
//! both traits; everyone else asks the predictor, which may answer in another way.

pub use crate::generate::{choose, generate};
pub use crate::score::score;
