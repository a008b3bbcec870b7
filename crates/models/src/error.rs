use std::path::PathBuf;

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with checkpoints, tokenizers and model names.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read", "write", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what its format asks for.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the way out.
        message: String,
    },
    /// A tensor is missing, misshapen or damaged.
    #[error("tensor {name} in {}: {message}", path.display())]
    Tensor {
        /// The tensor.
        name: String,
        /// The file it should be in.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The model is of a kind that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// A model name leads nowhere.
    #[error("{0}")]
    NotFound(String),
    /// An error of the contracts.
    #[error(transparent)]
    Core(easyedit_core::Error),
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// An [`Error::Format`] for `path`.
    pub fn format(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Format { path: path.into(), message: message.into() }
    }

    /// An [`Error::Tensor`].
    pub fn tensor(name: impl Into<String>, path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), path: path.into(), message: message.into() }
    }
}

impl From<easyedit_core::Error> for Error {
    fn from(error: easyedit_core::Error) -> Self {
        match error {
            easyedit_core::Error::Io { action, path, source } => Self::Io { action, path, source },
            easyedit_core::Error::Format { path, message } => Self::Format { path, message },
            other => Self::Core(other),
        }
    }
}

impl From<Error> for easyedit_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Core(core) => core,
            Error::Io { action, path, source } => Self::Io { action, path, source },
            Error::Format { path, message } => Self::Format { path, message },
            other => Self::other(other),
        }
    }
}
