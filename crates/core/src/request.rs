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
    /// Other wordings of the answer. An answer in the model's own words may be any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

impl EvaluationPrompt {
    /// A prompt with its only answer.
    pub fn new(prompt: impl Into<String>, ground_truth: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), ground_truth: ground_truth.into(), aliases: Vec::new() }
    }
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
    /// Other wordings of it. An answer in the model's own words may be any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_new_aliases: Vec<String>,
    /// The completion before the edit, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground_truth: Option<String>,
    /// The entity the fact is about; methods that locate facts need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The same question in other words (for generalization). Written as EasyEdit's `rephrase_prompt`: a text, or a list of several.
    #[serde(default, rename = "rephrase_prompt", with = "one_or_more", skip_serializing_if = "Vec::is_empty")]
    pub rephrase_prompts: Vec<String>,
    /// Name -> prompts whose answers must stay.
    #[serde(default)]
    pub locality: BTreeMap<String, Vec<EvaluationPrompt>>,
    /// Name -> prompts whose answers must follow from the new fact.
    #[serde(default)]
    pub portability: BTreeMap<String, Vec<EvaluationPrompt>>,
    /// Beginnings of texts about the subject, for judging how the model writes after the edit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generation_prompts: Vec<String>,
}

/// Texts as one text, a list, or nothing.
mod one_or_more {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        More(Vec<String>),
    }

    pub(super) fn serialize<S: Serializer>(texts: &Vec<String>, serializer: S) -> Result<S::Ok, S::Error> {
        match texts.as_slice() {
            [one] => one.serialize(serializer),
            more => more.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        Ok(match Option::<Texts>::deserialize(deserializer)? {
            None => Vec::new(),
            Some(Texts::One(text)) => vec![text],
            Some(Texts::More(texts)) => texts,
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rephrased_prompts_are_one_text_or_a_list() {
        let read = |text: &str| serde_json::from_str::<EditRequest>(text).unwrap();
        let request = |rest: &str| format!(r#"{{"prompt":"p","target_new":"t"{rest}}}"#);
        assert!(read(&request("")).rephrase_prompts.is_empty());
        assert!(read(&request(r#","rephrase_prompt":null"#)).rephrase_prompts.is_empty());
        let one = read(&request(r#","rephrase_prompt":"q""#));
        assert_eq!(one.rephrase_prompts, ["q"]);
        assert!(serde_json::to_string(&one).unwrap().contains(r#""rephrase_prompt":"q""#));
        let two = read(&request(r#","rephrase_prompt":["q","r"]"#));
        assert_eq!(two.rephrase_prompts, ["q", "r"]);
        assert_eq!(read(&serde_json::to_string(&two).unwrap()), two);
    }
}
