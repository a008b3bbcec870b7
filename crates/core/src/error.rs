use std::path::PathBuf;

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the contracts. Messages name the thing (file, key, record, tensor, layer) and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read", "write", "create", ...
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
        /// What is wrong with it.
        message: String,
    },
    /// A device is not compiled in or not present.
    #[error("{0}")]
    Device(String),
    /// A request cannot be edited as it stands.
    #[error("request {case_id}: {message}")]
    Request {
        /// `case_id` of the request.
        case_id: usize,
        /// What is wrong with it.
        message: String,
    },
    /// A hyperparameter is missing, unknown, or out of range.
    #[error("hyperparameters{}: {message}", origin.as_deref().map(|o| format!(" in {o}")).unwrap_or_default())]
    Hparams {
        /// The file, or how the values were derived.
        origin: Option<String>,
        /// What is wrong with them.
        message: String,
    },
    /// A tensor is unknown, misshapen, or does not match an edit.
    #[error("tensor {name}: {message}")]
    Tensor {
        /// Name in the checkpoint.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// An edit cannot be used here.
    #[error("{0}")]
    Edit(String),
    /// A tokenizer failed or does not fit.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A batch or a cache does not fit the model.
    #[error("{0}")]
    Batch(String),
    /// No method of this name is registered.
    #[error("no editing method is called {name:?}{}; known: {known}", suggestion.as_deref().map(|s| format!(", did you mean {s}?")).unwrap_or_default())]
    UnknownMethod {
        /// The name asked for.
        name: String,
        /// The nearest registered name.
        suggestion: Option<String>,
        /// All registered names.
        known: String,
    },
    /// The method cannot do what was asked on this model.
    #[error("{method}: {message}")]
    Unsupported {
        /// The method.
        method: String,
        /// What it cannot do, and what to use instead.
        message: String,
    },
    /// The work was asked to end; what was finished before is kept.
    #[error("cancelled")]
    Cancelled,
    /// Numbers stopped being finite.
    #[error("{0}")]
    NotFinite(String),
    /// An error of another crate, carried through the contracts.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
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

    /// An [`Error::Tensor`] for `name`.
    pub fn tensor(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), message: message.into() }
    }

    /// An [`Error::Hparams`] without a file.
    pub fn hparams(message: impl Into<String>) -> Self {
        Self::Hparams { origin: None, message: message.into() }
    }

    /// Carries another crate's error.
    pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }
}
