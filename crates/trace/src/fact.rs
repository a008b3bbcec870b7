//! A fact as tokens, and which answer is measured.

use std::ops::Range;

use easyedit_core::tokens::{FactToken, SubjectPrompt, join_target};
use easyedit_core::{EditRequest, Error, GenerationConfig, LanguageModel, Result, TokenRow, generate};
use easyedit_kernels::TracePrompt;

use crate::TraceOptions;

/// Facts whose predictions are asked for at once.
const PROMPTS_AT_ONCE: usize = 32;

/// A fact to trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceRequest {
    /// Number of the record.
    pub case_id: usize,
    /// The sentence the model completes, with the subject in it (or `{}` in its place).
    pub prompt: String,
    /// The entity the fact is about.
    pub subject: String,
    /// The completion, of which the first token is measured; `None`: the token the model itself predicts.
    pub answer: Option<String>,
}

impl TraceRequest {
    /// The fact behind an edit: its answer is the one before the edit, the ground truth.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] if it names no subject, or the subject is not in the prompt.
    pub fn of(request: &EditRequest) -> Result<Self> {
        let fact = Self {
            case_id: request.case_id,
            prompt: request.prompt.clone(),
            subject: request.subject.clone().unwrap_or_default(),
            answer: request.ground_truth.clone().filter(|answer| !answer.trim().is_empty()),
        };
        fact.split()?;
        Ok(fact)
    }

    /// Checks that there are a prompt, a subject in it, and no blank answer.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] naming what is missing.
    pub fn check(&self) -> Result<()> {
        self.split().map(|_| ())
    }

    fn split(&self) -> Result<SubjectPrompt> {
        let Self { prompt, subject, answer, .. } = self;
        if prompt.trim().is_empty() {
            return Err(self.error("the prompt is empty"));
        }
        if subject.trim().is_empty() {
            return Err(self.error(format!("no subject is given for the prompt {prompt:?}; name the entity the fact is about")));
        }
        if answer.as_ref().is_some_and(|answer| answer.trim().is_empty()) {
            return Err(self.error(format!("the target for the prompt {prompt:?} is empty; leave it out to trace the model's own answer")));
        }
        SubjectPrompt::find(prompt, subject).map_err(|message| self.error(message))
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::Request { case_id: self.case_id, message: message.into() }
    }
}

/// A fact made ready.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    pub(crate) case_id: usize,
    pub(crate) text: String,
    pub(crate) subject: String,
    /// The prompt's tokens as text.
    pub(crate) tokens: Vec<String>,
    /// Tokens and subject; the answer is the predicted token where none was given.
    pub(crate) prompt: TracePrompt,
    /// The token that the model itself predicts.
    pub(crate) predicted: u32,
}

/// Encodes the facts, asks the model for its own answers, and parts the facts to trace from those it does not know.
pub(crate) fn prepare(model: &dyn LanguageModel, requests: &[TraceRequest], options: &TraceOptions) -> Result<(Vec<Fact>, Vec<Fact>)> {
    let encoded: Vec<Encoded> = requests.iter().map(|request| encode(model, request)).collect::<Result<_>>()?;
    let most = options.most.unwrap_or(usize::MAX);
    let (mut traced, mut left_out) = (Vec::new(), Vec::new());
    for (requests, encoded) in requests.chunks(PROMPTS_AT_ONCE).zip(encoded.chunks(PROMPTS_AT_ONCE)) {
        let prompts: Vec<&TokenRow> = encoded.iter().map(|one| &one.row).collect();
        let predictions = generate(model, &prompts, &GenerationConfig::greedy(1))?;
        for ((request, encoded), prediction) in requests.iter().zip(encoded).zip(predictions) {
            if traced.len() >= most {
                return Ok((traced, left_out));
            }
            let predicted = *prediction.ids.first().ok_or_else(|| request.error("the model predicts no token"))?;
            let Encoded { text, tokens, row, subject, answer } = encoded.clone();
            let prompt = TracePrompt { row, subject, answer: answer.unwrap_or(predicted) };
            let known = prompt.answer == predicted || !options.only_known;
            let fact = Fact { case_id: request.case_id, text, subject: request.subject.clone(), tokens, prompt, predicted };
            if known { traced.push(fact) } else { left_out.push(fact) }
        }
    }
    Ok((traced, left_out))
}

#[derive(Clone)]
struct Encoded {
    text: String,
    tokens: Vec<String>,
    row: TokenRow,
    subject: Range<usize>,
    answer: Option<u32>,
}

fn encode(model: &dyn LanguageModel, request: &TraceRequest) -> Result<Encoded> {
    let named = |error: Error| match error {
        own @ Error::Request { .. } => own,
        other => request.error(other.to_string()),
    };
    let tokenizer = model.tokenizer();
    let split = request.split()?;
    let text = split.text();
    let (fact, answer, whole) = match &request.answer {
        None => (split.encode(tokenizer, FactToken::SubjectLast).map_err(named)?, None, text.clone()),
        Some(answer) => {
            let (fact, target) = split.encode_with_target(tokenizer, FactToken::SubjectLast, answer).map_err(named)?;
            let first = target.target().first().copied();
            (fact, first, join_target(&text, answer))
        }
    };
    let spans = tokenizer.encode(&whole).map_err(named)?.spans;
    let row = fact.row.prefix(fact.prompt_tokens).to_row();
    let tokens = row.ids().iter().zip(&spans).map(|(id, span)| label(model, &whole, *id, span.clone())).collect();
    Ok(Encoded { text, tokens, row, subject: fact.subject, answer })
}

/// A token as people read it: its piece of the text, or its own name if it stands for none (a start of text, part of a letter).
fn label(model: &dyn LanguageModel, text: &str, id: u32, span: Range<usize>) -> String {
    let piece = text.get(span).filter(|piece| !piece.is_empty()).map(str::to_owned);
    let piece = piece.or_else(|| model.tokenizer().inner().id_to_token(id)).unwrap_or_else(|| "\u{fffd}".to_owned());
    piece.replace('\n', "\u{23ce}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(prompt: &str, subject: &str, answer: Option<&str>) -> TraceRequest {
        TraceRequest { case_id: 7, prompt: prompt.into(), subject: subject.into(), answer: answer.map(str::to_owned) }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (bad, part) in [
            (request(" ", "Rome", None), "prompt is empty"),
            (request("Rome is in", " ", None), "no subject"),
            (request("Rome is in", "Paris", None), "\"Paris\" does not occur"),
            (request("Rome is in", "Rome", Some(" ")), "target"),
        ] {
            let message = bad.check().unwrap_err().to_string();
            assert!(message.contains("request 7") && message.contains(part), "{message}");
        }
        request("{} is in", "Rome", None).check().unwrap();
    }

    #[test]
    fn an_edit_is_traced_by_what_is_true_before_it() {
        let mut edit = EditRequest::new("The Louvre is in", "The Louvre", "Rome");
        assert_eq!(TraceRequest::of(&edit).unwrap().answer, None);
        edit.ground_truth = Some("Paris".into());
        assert_eq!(TraceRequest::of(&edit).unwrap().answer.as_deref(), Some("Paris"));
    }

    #[test]
    fn tokens_subject_and_answer_are_those_of_the_joint_text() {
        let model = easyedit_tiny_world::model("gpt2").unwrap();
        let fact = easyedit_tiny_world::facts().iter().find(|fact| fact.subject.contains(' ')).unwrap();
        let requests = [request(&fact.prompt, &fact.subject, Some(&fact.object)), request(&fact.prompt, &fact.subject, None)];
        let (facts, left_out) = prepare(&*model, &requests, &TraceOptions::default()).unwrap();
        assert!(left_out.is_empty());
        let [given, own] = facts.as_slice() else { panic!() };
        assert_eq!(given.prompt, own.prompt, "the model knows the fact");
        assert_eq!(given.prompt.answer, given.predicted);
        let subject: String = given.tokens[given.prompt.subject.clone()].concat();
        assert_eq!(subject.trim().replace(' ', ""), fact.subject.replace(' ', ""));
        assert_eq!(given.tokens.len(), given.prompt.row.len());
    }
}
