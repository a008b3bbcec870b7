use std::path::PathBuf;

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with adapters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of an adapter does not hold what it should, or asks for something that edits cannot be.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and the way out.
        message: String,
    },
    /// A module of an adapter does not fit.
    #[error("module {module} in {}: {message}", path.display())]
    Module {
        /// The module, as the adapter names it.
        module: String,
        /// The file of weights.
        path: PathBuf,
        /// What is wrong, and the way out.
        message: String,
    },
    /// The change of a weight cannot be an adapter.
    #[error("tensor {name}: {message}")]
    Weight {
        /// The weight.
        name: String,
        /// What is wrong, and the way out.
        message: String,
    },
    /// There is nothing to export.
    #[error("{0}")]
    Nothing(String),
    /// An error of reading files.
    #[error(transparent)]
    Models(#[from] easyedit_models::Error),
    /// An error of the contracts.
    #[error(transparent)]
    Core(#[from] easyedit_core::Error),
}

impl Error {
    pub(crate) fn format(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Format { path: path.into(), message: message.into() }
    }

    pub(crate) fn weight(name: impl ToString, message: impl Into<String>) -> Self {
        Self::Weight { name: name.to_string(), message: message.into() }
    }
}
