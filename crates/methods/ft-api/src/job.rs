use std::fmt;

use serde::{Deserialize, Serialize};

/// A fine-tuning job, as the API tells it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Job {
    /// Id of the job.
    pub id: String,
    /// How far it is.
    #[serde(default)]
    pub status: JobStatus,
    /// Model that is fine-tuned.
    #[serde(default)]
    pub model: Option<String>,
    /// Name of the new model, when it is there.
    #[serde(default)]
    pub fine_tuned_model: Option<String>,
    /// Id of the training file.
    #[serde(default)]
    pub training_file: Option<String>,
    /// Tokens that are paid for, when it is done.
    #[serde(default)]
    pub trained_tokens: Option<u64>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<JobError>,
}

/// Why a job failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct JobError {
    /// For machines.
    #[serde(default)]
    pub code: Option<String>,
    /// For people.
    #[serde(default)]
    pub message: Option<String>,
    /// The parameter that was wrong.
    #[serde(default)]
    pub param: Option<String>,
}

impl Job {
    /// What the API says about the end of the job.
    pub(crate) fn message(&self) -> String {
        let error = self.error.clone().unwrap_or_default();
        let text = error.message.or(error.code).filter(|text| !text.trim().is_empty());
        match (text, error.param) {
            (Some(text), Some(param)) => format!("{text} ({param})"),
            (Some(text), None) => text,
            (None, _) => "the API gives no reason".to_owned(),
        }
    }
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum JobStatus {
    /// The training file is read.
    ValidatingFiles,
    /// It waits for its turn.
    Queued,
    /// It trains.
    Running,
    /// The model is there.
    Succeeded,
    /// There will be no model.
    Failed,
    /// Somebody ended it.
    Cancelled,
    /// Something this version does not know; taken as not yet done.
    Other(String),
}

impl JobStatus {
    /// The API's word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::ValidatingFiles => "validating_files",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Other(word) => word,
        }
    }

    /// Whether there will be no model.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Failed | Self::Cancelled)
    }
}

impl Default for JobStatus {
    fn default() -> Self {
        Self::Other("in an unknown state".to_owned())
    }
}

impl From<String> for JobStatus {
    fn from(word: String) -> Self {
        match word.as_str() {
            "validating_files" => Self::ValidatingFiles,
            "queued" => Self::Queued,
            "running" => Self::Running,
            "succeeded" => Self::Succeeded,
            "failed" => Self::Failed,
            "cancelled" => Self::Cancelled,
            _ => Self::Other(word),
        }
    }
}

impl From<JobStatus> for String {
    fn from(status: JobStatus) -> Self {
        status.as_str().to_owned()
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct JobEvent {
    /// `info`, `warn` or `error`.
    #[serde(default)]
    pub level: String,
    /// What happened.
    #[serde(default)]
    pub message: String,
    /// When, in seconds since 1970.
    #[serde(default)]
    pub created_at: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written_alike() {
        for word in ["validating_files", "queued", "running", "succeeded", "failed", "cancelled", "paused"] {
            let status: JobStatus = serde_json::from_value(word.into()).unwrap();
            assert_eq!(serde_json::to_value(&status).unwrap(), word);
            assert_eq!(status.is_lost(), matches!(word, "failed" | "cancelled"));
        }
    }

    #[test]
    fn a_job_needs_no_more_than_an_id() {
        let job: Job = serde_json::from_str(r#"{"id":"ftjob-1","error":{"code":null,"message":null,"param":null}}"#).unwrap();
        assert_eq!(job.message(), "the API gives no reason");
        assert!(matches!(job.status, JobStatus::Other(_)));
        let job: Job = serde_json::from_str(r#"{"id":"j","error":{"message":"bad line 3","param":"training_file"}}"#).unwrap();
        assert_eq!(job.message(), "bad line 3 (training_file)");
    }
}
