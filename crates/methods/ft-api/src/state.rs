//! What a run has already paid for, on disk: a run that was cut off goes on from it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use easyedit_core::{Error, read_input, write_atomically};
use serde::{Deserialize, Serialize};

use crate::{JobStatus, Result};

/// Version of the file's layout.
const FORMAT: u32 = 1;
/// Name of the file, beside the training file.
const FILE: &str = "job.json";
/// No such file is larger: it holds a few names.
const MAX_BYTES: u64 = 1 << 20;

/// The state of one fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) format_version: u32,
    /// Model that is fine-tuned.
    pub(crate) base: String,
    /// The API that has the file and the job.
    pub(crate) base_url: String,
    /// Id of the uploaded training file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// Id of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    /// Its last known status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<JobStatus>,
    /// Name of the fine-tuned model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fine_tuned_model: Option<String>,
    /// Tokens that were paid for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trained_tokens: Option<u64>,
}

impl State {
    /// Nothing done yet.
    pub(crate) fn new(base: &str, base_url: &str) -> Self {
        Self {
            format_version: FORMAT,
            base: base.to_owned(),
            base_url: base_url.to_owned(),
            file: None,
            job: None,
            status: None,
            fine_tuned_model: None,
            trained_tokens: None,
        }
    }

    /// The file in `folder`.
    pub(crate) fn path(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    /// Reads what is noted in `folder`; nothing where there is no such file, or its job ended without a model.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>> {
        let path = Self::path(folder);
        let bytes = match read_input(&path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let broken =
            |message: String| Error::format(&path, format!("{message}; delete the file to fine-tune anew, which is paid for again"));
        let state: Self = serde_json::from_slice(&bytes).map_err(|e| broken(format!("is no state of a job ({e})")))?;
        if state.format_version > FORMAT {
            return Err(broken(format!("is of version {}, this program knows {FORMAT}: update it", state.format_version)).into());
        }
        Ok(Some(state).filter(|state| !state.status.as_ref().is_some_and(JobStatus::is_lost)))
    }

    /// Notes the state in `folder`.
    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        write_atomically(&Self::path(folder), |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_back_and_a_lost_job_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), None);
        let mut state = State::new("gpt", "https://host/v1");
        state.job = Some("ftjob-1".into());
        state.status = Some(JobStatus::Running);
        state.save(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), Some(state.clone()));
        state.status = Some(JobStatus::Failed);
        state.save(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_broken_state_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["{", "[]", r#"{"format_version": 99, "base": "", "base_url": ""}"#] {
            std::fs::write(State::path(dir.path()), text).unwrap();
            let error = State::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("job.json") && error.contains("paid"), "{error}");
        }
    }
}
