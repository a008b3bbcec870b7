use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::subject::fill;

/// A prompt and the answer it is evaluated with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationPrompt {
    /// The prompt.
    pub prompt: String,
    /// Its answer; for locality it only sets the span that is compared before and after.
    pub ground_truth: String,
}

/// One fact to change, with what it is evaluated on. The keys are EasyEdit's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditRequest {
    /// Number of the record.
    #[serde(default)]
    pub case_id: usize,
    /// The sentence to complete, with the subject in it (or `{}` in the subject's place).
    pub prompt: String,
    /// The wanted completion.
    pub target_new: String,
    /// The completion before the edit, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground_truth: Option<String>,
    /// The entity the fact is about; methods that locate facts need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The same question in other words (for generalization).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rephrase_prompt: Option<String>,
    /// Name -> prompts whose answers must stay.
    #[serde(default)]
    pub locality: BTreeMap<String, Vec<EvaluationPrompt>>,
    /// Name -> prompts whose answers must follow from the new fact.
    #[serde(default)]
    pub portability: BTreeMap<String, Vec<EvaluationPrompt>>,
}

impl EditRequest {
    /// A request with a prompt, its subject and the new target.
    pub fn new(prompt: impl Into<String>, subject: impl Into<String>, target_new: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), subject: Some(subject.into()), target_new: target_new.into(), ..Self::default() }
    }

    /// The prompt with the subject in the place of its `{}`, for showing it; [`CheckedRequest`](crate::CheckedRequest) holds the one to run.
    pub fn filled_prompt(&self) -> String {
        let filled = self.given_subject().and_then(|subject| fill(&self.prompt, subject));
        filled.map_or_else(|| self.prompt.clone(), |(prompt, _)| prompt)
    }

    /// The subject without surrounding spaces; `None` if it is absent or blank.
    pub(crate) fn given_subject(&self) -> Option<&str> {
        self.subject.as_deref().map(str::trim).filter(|subject| !subject.is_empty())
    }

    /// An error about this request.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::Request { case_id: self.case_id, message: message.into() }
    }
}
