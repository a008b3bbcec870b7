/// What can go wrong between here and a model behind an API. No message holds the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no key.
    #[error("the environment variable {variable} is not set: put the API's key there (`export {variable}=...`)")]
    NoKey {
        /// Variable that was looked up.
        variable: String,
    },
    /// A hyperparameter or an environment variable has a value that cannot be used.
    #[error("{name}: {message}")]
    Setting {
        /// Key of the hyperparameter, or name of the variable.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// The API answered that it will not do it; asking again would not help.
    #[error("cannot {action}: the API refused with status {status}: {message}")]
    Refused {
        /// What was asked for.
        action: String,
        /// HTTP status.
        status: u16,
        /// The API's message.
        message: String,
    },
    /// The API could not be reached, or was not able to answer, as often as it was tried.
    #[error("cannot {action}, given up after {attempts} attempt{}: {message}", if *attempts == 1 { "" } else { "s" })]
    GaveUp {
        /// What was asked for.
        action: String,
        /// How often it was tried.
        attempts: u32,
        /// What happened the last time.
        message: String,
    },
    /// The API gave an answer that is none.
    #[error("cannot {action}: {message}")]
    Answer {
        /// What was asked for.
        action: String,
        /// What is wrong with the answer.
        message: String,
    },
    /// The API cannot use the training file.
    #[error("the API cannot use the training file {file}: {message}")]
    File {
        /// Id of the file.
        file: String,
        /// The API's message.
        message: String,
    },
    /// The API did not read the training file in the time that was to be waited for.
    #[error("the API has not processed the training file {file} after {seconds:.0} s; give the same command again to wait further")]
    FileTimeout {
        /// Id of the file.
        file: String,
        /// How long it was waited for.
        seconds: f64,
    },
    /// A job ended without a model.
    #[error("fine-tuning job {job} {status}: {message}")]
    Job {
        /// Id of the job.
        job: String,
        /// `failed` or `cancelled`.
        status: String,
        /// The API's message.
        message: String,
    },
    /// A job took longer than was to be waited for; it goes on without us.
    #[error(
        "fine-tuning job {job} is still {status} after {seconds:.0} s; it goes on at the API: give the same command again, or call \
         FtApi::resume({job:?}), to wait further (job_timeout_seconds says how long)"
    )]
    Timeout {
        /// Id of the job.
        job: String,
        /// Its last status.
        status: String,
        /// How long it was waited for.
        seconds: f64,
    },
    /// The API could not be asked about a job any more; it goes on without us.
    #[error("{source}; fine-tuning job {job} goes on at the API: give the same command again, or call FtApi::resume({job:?})")]
    Interrupted {
        /// Id of the job.
        job: String,
        /// Why it could not be asked.
        source: Box<Error>,
    },
    /// Another run waits for the same fine-tuning.
    #[error("another run is at this very fine-tuning ({}); wait for it", folder.display())]
    Busy {
        /// Folder of the training file.
        folder: std::path::PathBuf,
    },
    /// An error of the contracts: a request that cannot be used, a file that cannot be written.
    #[error(transparent)]
    Core(#[from] easyedit_core::Error),
}

impl Error {
    pub(crate) fn setting(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Setting { name: name.into(), message: message.into() }
    }

    pub(crate) fn answer(action: &str, message: impl Into<String>) -> Self {
        Self::Answer { action: action.to_owned(), message: message.into() }
    }

    /// Whether the API said that it has no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}
