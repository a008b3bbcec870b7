use std::collections::BTreeMap;

use easyedit_core::tokens::{TargetTokens, encode_with_target};
use easyedit_core::{CheckedRequest, Error, LanguageModel, Result};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::MendHparams;
use crate::measure::EditExample;

/// Tries to draw another fact.
const TRIES: usize = 32;

/// A fact to practise on: what the records of one prompt say.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
struct Fact {
    prompt: String,
    subject: Option<String>,
    /// The prompt without its subject; the same for all facts of a relation.
    template: Option<String>,
    rephrases: Vec<String>,
    /// New answers.
    targets: Vec<String>,
    /// The answer that the model gives, if it is known.
    truth: Option<String>,
    /// Prompts that stay, with their answers.
    loc: Vec<(String, String)>,
}

/// Records to train on, or to validate with; and how examples are drawn from them.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    facts: Vec<Fact>,
    /// By template: its facts, and all true answers.
    relations: BTreeMap<String, (Vec<usize>, Vec<String>)>,
}

impl Facts {
    /// The facts of these records: those of one prompt are one fact, with the rephrased prompts, targets and locality of all.
    pub(crate) fn new(records: &[CheckedRequest]) -> Self {
        let mut facts: Vec<Fact> = Vec::new();
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for record in records {
            let written = record.written();
            let number = *numbers.entry(record.prompt().to_owned()).or_insert_with(|| {
                let subject = written.subject.as_deref().map(str::trim).filter(|subject| !subject.is_empty()).map(str::to_owned);
                let template = subject.as_ref().map(|subject| without_last(record.prompt(), subject));
                facts.push(Fact {
                    prompt: record.prompt().to_owned(),
                    subject,
                    template,
                    rephrases: Vec::new(),
                    targets: Vec::new(),
                    truth: None,
                    loc: Vec::new(),
                });
                facts.len() - 1
            });
            let Some(fact) = facts.get_mut(number) else { continue };
            put(&mut fact.targets, written.target_new.trim());
            for rephrase in record.rephrase_prompts() {
                put(&mut fact.rephrases, rephrase);
            }
            let truth = written.ground_truth.as_deref().map(str::trim).filter(|truth| !truth.is_empty() && *truth != "<|endoftext|>");
            fact.truth = fact.truth.take().or_else(|| truth.map(str::to_owned));
            for prompt in written.locality.values().flatten() {
                let pair = (prompt.prompt.clone(), prompt.ground_truth.clone());
                if !fact.loc.contains(&pair) {
                    fact.loc.push(pair);
                }
            }
        }
        let mut relations: BTreeMap<String, (Vec<usize>, Vec<String>)> = BTreeMap::new();
        for (number, fact) in facts.iter().enumerate() {
            if let (Some(template), Some(truth)) = (&fact.template, &fact.truth) {
                let (members, answers) = relations.entry(template.clone()).or_default();
                members.push(number);
                put(answers, truth);
            }
        }
        Self { facts, relations }
    }

    pub(crate) fn len(&self) -> usize {
        self.facts.len()
    }

    /// Identifies the facts: SHA-256 over all of them.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        let text = serde_json::to_vec(&self.facts).map_err(Error::other)?;
        Ok(format!("{:x}", Sha256::digest(text)))
    }

    /// An example of an edit of fact `number`. In training, target and wording are drawn; otherwise the record's own are taken.
    ///
    /// # Errors
    ///
    /// If a text has no tokens of its own.
    pub(crate) fn example(
        &self,
        model: &dyn LanguageModel,
        number: usize,
        hparams: &MendHparams,
        training: bool,
        rng: &mut ChaCha8Rng,
    ) -> Result<EditExample> {
        let mut edited = vec![self.fact(number)?];
        for _ in 1..hparams.n_edits {
            let another = self.draw(rng, |fact| edited.iter().all(|other| !is_same_subject(other, fact)));
            edited.extend(another);
        }
        let (mut inner, mut outer) = (Vec::new(), Vec::new());
        for fact in &edited {
            let target = self.target(fact, hparams, training, rng);
            let wants_other_words = training && fact.rephrases.len() > 1 && rng.random_bool(hparams.inner_rephrase);
            let wording = if wants_other_words { fact.rephrases.choose(rng) } else { None };
            inner.push(encode(model, wording.unwrap_or(&fact.prompt), target)?);
            let rephrase = match training {
                true if rng.random_bool(hparams.outer_rephrase) => fact.rephrases.choose(rng),
                true => None,
                false => fact.rephrases.first(),
            };
            outer.push(encode(model, rephrase.unwrap_or(&fact.prompt), target)?);
        }
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for fact in &edited {
            for _ in 0..hparams.n_loc {
                let neighbour = if rng.random_bool(hparams.hard_neg_prob) { self.neighbour(fact, &edited, rng) } else { None };
                match neighbour {
                    Some(neighbour) => near.extend(wording(neighbour, rng).map(|(prompt, answer)| encode(model, prompt, answer))),
                    None => far.extend(self.other(fact, &edited, rng).map(|(prompt, answer)| encode(model, prompt, answer))),
                }
            }
        }
        let near_count = near.len();
        let loc = near.into_iter().chain(far).collect::<Result<Vec<TargetTokens>>>()?;
        Ok(EditExample { inner, outer, loc, near: near_count })
    }

    fn fact(&self, number: usize) -> Result<&Fact> {
        self.facts.get(number).ok_or_else(|| Error::Batch(format!("there is no record number {number}")))
    }

    fn target<'a>(&'a self, fact: &'a Fact, hparams: &MendHparams, training: bool, rng: &mut ChaCha8Rng) -> &'a str {
        let own = if training { fact.targets.choose(rng) } else { fact.targets.first() };
        let own = own.map_or("", String::as_str);
        if !(training && rng.random_bool(hparams.random_target)) {
            return own;
        }
        let answers = fact.template.as_ref().and_then(|template| self.relations.get(template)).map(|(_, answers)| answers);
        let others: Vec<&String> = answers.into_iter().flatten().filter(|answer| fact.truth.as_ref() != Some(*answer)).collect();
        others.choose(rng).map_or(own, |answer| answer.as_str())
    }

    /// Another fact of the same template.
    fn neighbour(&self, fact: &Fact, edited: &[&Fact], rng: &mut ChaCha8Rng) -> Option<&Fact> {
        let (members, _) = self.relations.get(fact.template.as_ref()?)?;
        (0..TRIES).find_map(|_| {
            let neighbour = self.facts.get(*members.choose(rng)?)?;
            edited.iter().all(|fact| !is_same_subject(fact, neighbour)).then_some(neighbour)
        })
    }

    /// A text that stays: of the record, or another fact.
    fn other<'a>(&'a self, fact: &'a Fact, edited: &[&Fact], rng: &mut ChaCha8Rng) -> Option<(&'a str, &'a str)> {
        if let Some((prompt, answer)) = fact.loc.choose(rng) {
            return Some((prompt, answer));
        }
        let other = self.draw(rng, |other| {
            other.truth.is_some()
                && (other.template.is_none() || other.template != fact.template)
                && edited.iter().all(|fact| !is_same_subject(fact, other))
        });
        other.and_then(|other| wording(other, rng))
    }

    fn draw(&self, rng: &mut ChaCha8Rng, fits: impl Fn(&Fact) -> bool) -> Option<&Fact> {
        (0..TRIES).find_map(|_| self.facts.choose(rng).filter(|fact| fits(fact)))
    }
}

/// One of the wordings of a fact, with its true answer.
fn wording<'a>(fact: &'a Fact, rng: &mut ChaCha8Rng) -> Option<(&'a str, &'a str)> {
    let place = rng.random_range(0..=fact.rephrases.len());
    let prompt = fact.rephrases.get(place).unwrap_or(&fact.prompt);
    Some((prompt, fact.truth.as_deref()?))
}

fn is_same_subject(a: &Fact, b: &Fact) -> bool {
    a.prompt == b.prompt || (a.subject.is_some() && a.subject == b.subject)
}

fn put(list: &mut Vec<String>, text: &str) {
    if !list.iter().any(|known| known == text) {
        list.push(text.to_owned());
    }
}

/// `text` with a pair of braces in the place of the last `part`.
fn without_last(text: &str, part: &str) -> String {
    match text.rsplit_once(part) {
        Some((before, after)) => format!("{before}{{}}{after}"),
        None => text.to_owned(),
    }
}

/// Prompt and answer as rows. An encoder-decoder learns to end its answer, too.
fn encode(model: &dyn LanguageModel, prompt: &str, answer: &str) -> Result<TargetTokens> {
    let tokens = encode_with_target(model, prompt, answer)?;
    Ok(match (model.tokenizer().eos().first(), model.spec().encoder.is_some()) {
        (Some(end), true) => tokens.ending_in(*end),
        _ => tokens,
    })
}

/// The rows that define an edit of `requests`.
///
/// # Errors
///
/// [`Error::Request`] if prompt or target has no token of its own.
pub(crate) fn edit_rows(model: &dyn LanguageModel, requests: &[CheckedRequest]) -> Result<Vec<TargetTokens>> {
    let row = |request: &CheckedRequest| {
        encode(model, request.prompt(), request.target_new().trim_end()).map_err(|error| request.error(error.to_string()))
    };
    requests.iter().map(row).collect()
}
