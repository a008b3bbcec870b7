use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The models, datasets or text are not where they should be.
    #[error("{} is not there; the tiny world lies in data/tiny-world of the repository, `cargo xtask tiny-world` makes it", .0.display())]
    Missing(PathBuf),
    /// No model of that name.
    #[error("there is no tiny-world model {name:?} (there are: {known})")]
    UnknownModel {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The tokenizer cannot be trained or used.
    #[error("tokenizer of the tiny world: {0}")]
    Tokenizer(String),
    /// Training went wrong.
    #[error("training {model}: {message}")]
    Training {
        /// The model.
        model: String,
        /// What went wrong.
        message: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {message}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// From the models.
    #[error(transparent)]
    Models(#[from] easyedit_models::Error),
    /// From the contracts.
    #[error(transparent)]
    Core(#[from] easyedit_core::Error),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
