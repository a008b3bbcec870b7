use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use easyedit_core::tokens::{TargetTokens, encode_with_target};
use easyedit_core::{CheckedRequest, EvaluationPrompt, Predictor, Progress, Result, TargetScore, TokenSlice, Tokenizer};

use crate::Metrics;
use crate::continuations::continuations;
use crate::metrics::accuracy_key;

/// A continuation goes on for this many tokens behind the answer's: room for another tokenisation of the same words, and for seeing
/// that the last word ends.
const EXTRA_TOKENS: usize = 4;

/// The questions of some requests, encoded once; any predictor of the same kind with the same tokenizer can be asked them.
#[derive(Clone, Debug)]
pub struct Evaluation {
    tokenizer: Tokenizer,
    questions: Vec<Question>,
    requests: Vec<RequestQuestions>,
}

/// A prompt with the answer it is scored against.
#[derive(Clone, Debug)]
struct Question {
    case_id: usize,
    prompt: String,
    /// Its wordings; the first is the one that is scored token by token.
    answer: Vec<String>,
    /// Tokens of the longest wording.
    answer_tokens: usize,
    tokens: TargetTokens,
}

impl Question {
    fn target(&self) -> &str {
        self.answer.first().map(String::as_str).unwrap_or_default()
    }
}

/// Indices into [`Evaluation::questions`].
#[derive(Clone, Debug)]
struct RequestQuestions {
    rewrite: usize,
    rephrase: Vec<usize>,
    locality: BTreeMap<String, Vec<usize>>,
    portability: BTreeMap<String, Vec<usize>>,
}

impl RequestQuestions {
    fn all(&self) -> impl Iterator<Item = usize> {
        let named = self.locality.values().chain(self.portability.values()).flatten().copied();
        [self.rewrite].into_iter().chain(self.rephrase.iter().copied()).chain(named)
    }
}

/// What a model says to the questions of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    rewrite: Answer,
    rephrase: Vec<Answer>,
    locality: BTreeMap<String, Vec<Answer>>,
    portability: BTreeMap<String, Vec<Answer>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Answer {
    /// Ids of the answer it is scored against.
    target: Vec<u32>,
    /// Teacher-forced predictions, one per target token.
    predicted: Vec<u32>,
    /// Greedy continuation, as long as the target unless it ended before.
    continuation: Vec<u32>,
    /// Whether the longer continuation begins with the answer.
    says_answer: bool,
}

impl Evaluation {
    /// Encodes the questions of `requests` for `model`: prompt and rephrased prompt with the new target, locality and portability prompts with
    /// their ground truth. A question that several requests ask is kept once.
    ///
    /// # Errors
    ///
    /// [`Error::Request`](easyedit_core::Error::Request) naming the request and the prompt, if the tokenizer finds no token in a prompt or an answer.
    pub fn new(model: &dyn Predictor, requests: &[CheckedRequest]) -> Result<Self> {
        let mut evaluation =
            Self { tokenizer: model.tokenizer().clone(), questions: Vec::new(), requests: Vec::with_capacity(requests.len()) };
        let mut known = HashMap::new();
        for request in requests {
            let mut add = |role: &str, prompt: &str, answer: Vec<String>| evaluation.add(model, &mut known, request, role, prompt, answer);
            let target = || request.targets().map(str::to_owned).collect::<Vec<String>>();
            let rewrite = add("prompt", request.prompt(), target())?;
            let rephrase = request.rephrase_prompts().map(|prompt| add("rephrase_prompt", prompt, target())).collect::<Result<_>>()?;
            let mut named = |kind: &str, groups: &BTreeMap<String, Vec<EvaluationPrompt>>| {
                let mut indices = BTreeMap::new();
                for (name, prompts) in groups {
                    let role = format!("{kind} {name}");
                    let answer = |p: &EvaluationPrompt| std::iter::once(&p.ground_truth).chain(&p.aliases).cloned().collect();
                    let all: Result<Vec<usize>> = prompts.iter().map(|p| add(&role, &p.prompt, answer(p))).collect();
                    indices.insert(name.clone(), all?);
                }
                Ok::<_, easyedit_core::Error>(indices)
            };
            let locality = named("locality", request.locality())?;
            let portability = named("portability", request.portability())?;
            evaluation.requests.push(RequestQuestions { rewrite, rephrase, locality, portability });
        }
        Ok(evaluation)
    }

    fn add(
        &mut self,
        model: &dyn Predictor,
        known: &mut HashMap<(String, Vec<String>), usize>,
        request: &CheckedRequest,
        role: &str,
        prompt: &str,
        answer: Vec<String>,
    ) -> Result<usize> {
        let key = (prompt.to_owned(), answer);
        if let Some(index) = known.get(&key) {
            return Ok(*index);
        }
        let target = key.1.first().map(String::as_str).unwrap_or_default();
        let tokens = encode_with_target(model, prompt, target).map_err(|e| request.error(format!("{role}: {e}")))?;
        let wordings = key.1.iter().skip(1).filter_map(|wording| encode_with_target(model, prompt, wording).ok());
        let answer_tokens = wordings.map(|wording| wording.target().len()).fold(tokens.target().len(), usize::max);
        let index = self.questions.len();
        let (prompt, answer) = key.clone();
        self.questions.push(Question { case_id: request.case_id(), prompt, answer, answer_tokens, tokens });
        known.insert(key, index);
        Ok(index)
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there are no requests.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Asks the model the questions of all requests: [`Answers`] in the requests' order.
    ///
    /// # Errors
    ///
    /// [`Error::Request`](easyedit_core::Error::Request) naming the request if a question is longer than the model's positions allow,
    /// [`Error::NotFinite`](easyedit_core::Error::NotFinite) if the model's logits are not finite.
    pub fn ask(&self, model: &dyn Predictor, progress: &dyn Progress) -> Result<Vec<Answers>> {
        let all: Vec<usize> = (0..self.requests.len()).collect();
        self.ask_some(model, &all, progress)
    }

    /// Asks the model the questions of the requests at `indices`, in that order; indices beyond the last request are left out.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn ask_some(&self, model: &dyn Predictor, indices: &[usize], progress: &dyn Progress) -> Result<Vec<Answers>> {
        let requests: Vec<&RequestQuestions> = indices.iter().filter_map(|i| self.requests.get(*i)).collect();
        let mut wanted: Vec<usize> = requests.iter().flat_map(|r| r.all()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let asked: Vec<&Question> = wanted.iter().filter_map(|i| self.questions.get(*i)).collect();
        let answers: HashMap<usize, Answer> = wanted.iter().copied().zip(self.answer(model, &asked, progress)?).collect();
        let one = |index: &usize| answers.get(index).cloned();
        let named = |groups: &BTreeMap<String, Vec<usize>>| {
            groups.iter().map(|(name, indices)| (name.clone(), indices.iter().filter_map(one).collect())).collect()
        };
        Ok(requests
            .into_iter()
            .filter_map(|request| {
                Some(Answers {
                    rewrite: one(&request.rewrite)?,
                    rephrase: request.rephrase.iter().filter_map(one).collect(),
                    locality: named(&request.locality),
                    portability: named(&request.portability),
                })
            })
            .collect())
    }

    fn answer(&self, model: &dyn Predictor, asked: &[&Question], progress: &dyn Progress) -> Result<Vec<Answer>> {
        let limit = model.max_positions();
        // A model that reads its prompts in a context reads other tokens than those the questions were encoded to.
        let tokens = asked.iter().map(|question| match model.prompt_text(&question.prompt) {
            Cow::Borrowed(_) => Ok(Cow::Borrowed(&question.tokens)),
            Cow::Owned(_) => encode_with_target(model, &question.prompt, question.target()).map(Cow::Owned),
        });
        let tokens = tokens.collect::<Result<Vec<Cow<'_, TargetTokens>>>>()?;
        for (question, tokens) in asked.iter().zip(&tokens) {
            let length = tokens.longest();
            if length > limit {
                return Err(easyedit_core::Error::Request {
                    case_id: question.case_id,
                    message: format!(
                        "the prompt {:?} and its answer have {length} tokens, {} has {limit} positions",
                        shortened(&question.prompt),
                        model.name()
                    ),
                });
            }
        }
        let sequences: Vec<&TargetTokens> = tokens.iter().map(|tokens| &**tokens).collect();
        let lengths: Vec<usize> = asked.iter().map(|question| question.answer_tokens + EXTRA_TOKENS).collect();
        let (prompts, place_of) = shared_prompts(&sequences, &lengths, limit);
        progress.begin("evaluate", Some((asked.len() + prompts.len()) as u64));
        let heard = model.score(&sequences, progress).and_then(|scores| Ok((scores, continuations(model, &prompts, progress)?)));
        progress.end();
        let (scores, spoken) = heard?;
        let mut answers = Vec::with_capacity(asked.len());
        for ((question, score), place) in asked.iter().zip(scores).zip(place_of) {
            let TargetScore { target, predicted, .. } = score;
            let continuation = spoken.get(place).map(Vec::as_slice).unwrap_or_default();
            let read = continuation.len().min(question.answer_tokens + EXTRA_TOKENS);
            let text = self.tokenizer.decode(&continuation[..read])?;
            let says_answer = question.answer.iter().any(|wording| begins_with_words(&text, wording));
            let continuation = continuation[..continuation.len().min(target.len())].to_vec();
            answers.push(Answer { target, predicted, continuation, says_answer });
        }
        Ok(answers)
    }
}

impl Answers {
    /// Teacher-forced scores: the share of target tokens predicted. `before` are the same request's answers of the model before the
    /// edit; with them the locality is scored: the share of answer tokens at which both predict the same.
    pub fn metrics(&self, before: Option<&Self>) -> Metrics {
        self.score(before, |answer| share(&answer.predicted, &answer.target), |now, then| share(&now.predicted, &then.predicted))
    }

    /// Scores by free greedy decoding, 0 or 1: the continuation begins with the answer, in any of its wordings, in whole words. Locality: as many tokens as the
    /// ground truth has are continued as the model before the edit did.
    pub fn free_metrics(&self, before: Option<&Self>) -> Metrics {
        let sign = |yes: bool| if yes { 1.0 } else { 0.0 };
        self.score(before, |answer| sign(answer.says_answer), |now, then| sign(now.continuation == then.continuation))
    }

    fn score(&self, before: Option<&Self>, of: impl Fn(&Answer) -> f64, agreement: impl Fn(&Answer, &Answer) -> f64) -> Metrics {
        let locality = before.map(|before| {
            let pairs = self.locality.iter().filter_map(|(name, now)| Some((name, now, before.locality.get(name)?)));
            pairs.map(|(name, now, then)| (accuracy_key(name), now.iter().zip(then).map(|(a, b)| agreement(a, b)).collect())).collect()
        });
        let portability = self.portability.iter().map(|(name, answers)| (accuracy_key(name), answers.iter().map(&of).collect())).collect();
        Metrics {
            rewrite_acc: vec![of(&self.rewrite)],
            rephrase_acc: self.rephrase.iter().map(&of).collect(),
            locality,
            portability: Some(portability),
        }
    }
}

/// The prompts that differ, each with the number of tokens to continue it by, and for every sequence the place of its prompt: questions that
/// differ in the answer alone share a continuation, as long as the longest of their `lengths`. `limit` is the number of a model's positions.
fn shared_prompts<'a>(sequences: &[&'a TargetTokens], lengths: &[usize], limit: usize) -> (Vec<(TokenSlice<'a>, usize)>, Vec<usize>) {
    let mut prompts: Vec<(TokenSlice<'_>, usize)> = Vec::new();
    let mut places: HashMap<TokenSlice<'_>, usize> = HashMap::new();
    let mut place_of = Vec::with_capacity(sequences.len());
    for (tokens, length) in sequences.iter().zip(lengths) {
        let prompt = tokens.prompt();
        let new = (*length).min(limit.saturating_sub(tokens.start));
        let place = *places.entry(prompt).or_insert_with(|| {
            prompts.push((prompt, 0));
            prompts.len() - 1
        });
        if let Some((_, most)) = prompts.get_mut(place) {
            *most = new.max(*most);
        }
        place_of.push(place);
    }
    (prompts, place_of)
}

/// Share of places at which two lists hold the same id. Targets are never empty, so it is never NaN.
fn share(a: &[u32], b: &[u32]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / a.len().max(b.len()).max(1) as f64
}

/// Whether `text` begins with `answer`, blanks around them aside, and the answer's last word ends there.
pub fn begins_with_words(text: &str, answer: &str) -> bool {
    let answer = answer.trim();
    match text.trim_start().strip_prefix(answer) {
        Some(rest) => {
            let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            !(word(answer.chars().last()) && word(rest.chars().next()))
        }
        None => false,
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use easyedit_core::{EditRequest, Insert, LanguageModel, Matrix, Silent, TokenRow};
    use easyedit_models::tiny::tiny_model;

    use super::*;

    /// The same question with embeddings of the tokens themselves inserted before the answer, behind equal ids.
    fn with_inserts(model: &dyn LanguageModel, question: &Question, at: std::ops::Range<usize>) -> Question {
        let mut question = question.clone();
        let tokens = &mut question.tokens;
        let prompt = if tokens.source.is_empty() { &mut tokens.row } else { &mut tokens.source };
        // In these families the head is the embedding.
        let table = model.weight(&easyedit_core::ParamName::weight_of(&model.spec().modules.lm_head, 0)).unwrap();
        let rows: Vec<usize> = prompt.ids()[at.clone()].iter().map(|id| *id as usize).collect();
        let insert = Insert::new(at.start, Matrix::from_tensor(&model.rows_of(table, &rows)).unwrap()).unwrap();
        let mut ids = prompt.ids().to_vec();
        ids[at].fill(3);
        *prompt = TokenRow::with_inserts(ids, vec![insert]).unwrap();
        question
    }

    #[test]
    fn questions_share_a_continuation_only_if_their_inserts_are_equal() {
        for family in ["gpt2", "t5"] {
            let model = tiny_model(family, 3).unwrap();
            assert!(model.spec().tied_head);
            let requests =
                ["Peru", "Chad"].map(|name| CheckedRequest::new(EditRequest::new(format!("The seat of {name} is"), name, "Rome")).unwrap());
            let plain = Evaluation::new(&*model, &requests).unwrap();
            let other_answer = EditRequest { target_new: "Oslo".into(), ..requests[0].written().clone() };
            let other_answer = CheckedRequest::new(other_answer).unwrap();
            let questions: Vec<Question> = [&requests[..], &[other_answer]]
                .concat()
                .iter()
                .map(|request| {
                    let question = Evaluation::new(&*model, std::slice::from_ref(request)).unwrap().questions.remove(0);
                    with_inserts(&*model, &question, 12..16)
                })
                .collect();
            let [a, b, c] = [0, 1, 2].map(|index: usize| questions[index].tokens.prompt());
            assert!(a.ids() == b.ids() && a != b && a == c, "{family}");
            let tokens: Vec<&TargetTokens> = questions.iter().map(|question| &question.tokens).collect();
            let (prompts, place_of) = shared_prompts(&tokens, &[6; 3], model.spec().max_positions);
            assert_eq!((prompts.len(), place_of), (2, vec![0, 1, 0]), "{family}");

            let asked: Vec<&Question> = questions.iter().take(2).collect();
            let found = plain.answer(&*model, &asked, &Silent).unwrap();
            let wanted = plain.answer(&*model, &plain.questions.iter().collect::<Vec<_>>(), &Silent).unwrap();
            assert_eq!(found, wanted, "{family}");
            assert_ne!(found[0], found[1], "{family}");
        }
    }

    #[test]
    fn an_answer_is_whole_words_at_the_beginning() {
        for (text, says) in [(" Rome, Italy", true), ("Rome", true), (" Romeo", false), (" in Rome", false), ("", false)] {
            assert_eq!(begins_with_words(text, " Rome"), says, "{text:?}");
        }
        assert!(begins_with_words(" 42%!", "42%"));
    }

    #[test]
    fn shares_are_between_zero_and_one() {
        assert_eq!(share(&[1, 2, 3, 4], &[1, 9, 3, 9]), 0.5);
        assert_eq!(share(&[1], &[1, 2]), 0.5);
        assert_eq!(share(&[], &[]), 0.0);
    }
}
