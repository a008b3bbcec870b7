use std::collections::BTreeMap;

use crate::tokens::SubjectPrompt;
use crate::{EditRequest, Error, EvaluationPrompt, Result};

/// An [`EditRequest`] with final texts, all of them checked: the prompt is filled in, and the subject is found in it.
///
/// Methods and metrics take these and check nothing again. The editor makes them; a program that calls a method by itself makes them with
/// [`new`](Self::new).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRequest {
    written: EditRequest,
    prompt: String,
    subject: Option<SubjectPrompt>,
}

impl CheckedRequest {
    /// Checks a request. A blank subject or rephrased prompt counts as absent.
    ///
    /// A `{}` in the prompt is the place of the subject. Without one, the subject is the last of its occurrences as a whole word.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] naming the record and the field: if the prompt, the new target, or the prompt or answer of an evaluation is blank, or if
    /// a subject is given that does not occur in the prompt.
    pub fn new(written: EditRequest) -> Result<Self> {
        tracing::trace!(target: "easyedit::work", case_id = written.case_id, "check request");
        if written.prompt.trim().is_empty() {
            return Err(written.error("the prompt is empty"));
        }
        if written.target_new.trim().is_empty() {
            let prompt = &written.prompt;
            return Err(written.error(format!("target_new is empty for the prompt {prompt:?}; give the answer the model should learn")));
        }
        for (kind, groups) in [("locality", &written.locality), ("portability", &written.portability)] {
            for (name, prompts) in groups {
                for EvaluationPrompt { prompt, ground_truth, .. } in prompts {
                    if prompt.trim().is_empty() {
                        return Err(written.error(format!("{kind} {name}: the prompt before the answer {ground_truth:?} is empty")));
                    }
                    if ground_truth.trim().is_empty() {
                        return Err(written.error(format!("{kind} {name}: the answer to {prompt:?} is empty")));
                    }
                }
            }
        }
        let subject = written.given_subject().map(|subject| SubjectPrompt::find(&written.prompt, subject)).transpose();
        let subject = subject.map_err(|message| written.error(message))?;
        let prompt = subject.as_ref().map_or_else(|| written.prompt.clone(), SubjectPrompt::text);
        Ok(Self { written, prompt, subject })
    }

    /// Checks requests, in their order.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), for the first request that has a fault.
    pub fn all(requests: impl IntoIterator<Item = EditRequest>) -> Result<Vec<Self>> {
        requests.into_iter().map(Self::new).collect()
    }

    /// The request as it was written.
    pub fn written(&self) -> &EditRequest {
        &self.written
    }

    /// Number of the record.
    pub fn case_id(&self) -> usize {
        self.written.case_id
    }

    /// The sentence to complete, with the subject in it.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The wanted completion.
    pub fn target_new(&self) -> &str {
        &self.written.target_new
    }

    /// The completion before the edit, if it is known.
    pub fn ground_truth(&self) -> Option<&str> {
        self.written.ground_truth.as_deref().filter(|answer| !answer.trim().is_empty())
    }

    /// The prompt split around its subject, for methods that locate facts.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] if the request names no subject.
    pub fn subject(&self) -> Result<&SubjectPrompt> {
        self.subject.as_ref().ok_or_else(|| {
            let prompt = &self.prompt;
            self.error(format!("no subject is given for the prompt {prompt:?}; name the entity the fact is about"))
        })
    }

    /// The same question in other words; blank ones are left out.
    pub fn rephrase_prompts(&self) -> impl Iterator<Item = &str> {
        self.written.rephrase_prompts.iter().map(String::as_str).filter(|prompt| !prompt.trim().is_empty())
    }

    /// All wordings of the wanted completion: [`target_new`](Self::target_new), and its aliases.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.target_new()).chain(self.written.target_new_aliases.iter().map(String::as_str))
    }

    /// Name -> prompts whose answers must stay.
    pub fn locality(&self) -> &BTreeMap<String, Vec<EvaluationPrompt>> {
        &self.written.locality
    }

    /// Name -> prompts whose answers must follow from the new fact.
    pub fn portability(&self) -> &BTreeMap<String, Vec<EvaluationPrompt>> {
        &self.written.portability
    }

    /// An error about this request.
    pub fn error(&self, message: impl Into<String>) -> Error {
        self.written.error(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(request: EditRequest) -> String {
        CheckedRequest::new(EditRequest { case_id: 7, ..request }).unwrap_err().to_string()
    }

    #[test]
    fn a_place_is_filled_even_if_the_text_names_the_subject_elsewhere() {
        let request = CheckedRequest::new(EditRequest::new("Unlike the name Rome, {} is in", "Rome", "Gaul")).unwrap();
        assert_eq!(request.prompt(), "Unlike the name Rome, Rome is in");
        assert_eq!(request.subject().unwrap().subject_range(), 22..26);
        let code = CheckedRequest::new(EditRequest::new("In Rust, {} and {} are", "Rust", "pairs")).unwrap();
        assert_eq!(code.prompt(), "In Rust, {} and {} are");
    }

    #[test]
    fn the_last_whole_word_is_the_subject() {
        let request = CheckedRequest::new(EditRequest::new("Green and the Greenhouse of", "Green", "blue")).unwrap();
        assert_eq!(request.subject().unwrap().subject_range(), 0..5);
        assert!(fault(EditRequest::new("The Greenhouse is", "Green", "x")).contains("only inside longer words"));
        assert!(fault(EditRequest::new("Paris is", "Rome", "x")).contains("does not occur"));
        assert!(fault(EditRequest::new("{} or {} is", "Rome", "x")).contains("2 places"));
    }

    #[test]
    fn faults_name_the_record_and_the_field() {
        assert!(fault(EditRequest::new(" ", "", "x")).contains('7'));
        assert!(fault(EditRequest::new("a", "a", " ")).contains("target_new"));
        let blank = EvaluationPrompt::new("who", "\n");
        let message = fault(EditRequest { locality: [("near".to_owned(), vec![blank])].into(), ..EditRequest::new("a", "a", "b") });
        assert!(message.contains("locality near") && message.contains("who"), "{message}");
    }

    #[test]
    fn blank_parts_are_absent() {
        let written = EditRequest { rephrase_prompts: vec![String::new()], ..EditRequest::new("{} is", " ", "x") };
        let request = CheckedRequest::new(written.clone()).unwrap();
        assert_eq!((request.prompt(), request.rephrase_prompts().count(), request.written()), ("{} is", 0, &written));
        assert!(request.subject().unwrap_err().to_string().contains("no subject"));
    }
}
