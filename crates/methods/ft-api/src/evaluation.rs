//! Asking base and fine-tuned model, and scoring what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use easyedit_core::{CheckedRequest, EvaluationPrompt, Progress};
use easyedit_eval::{FreeDecoding, Metrics, Record, begins_with_words};
use serde::Serialize;

use crate::{FineTuned, FtApi, Result};

/// What both models answer to a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// The base model's answer.
    pub before: String,
    /// The fine-tuned model's answer.
    pub after: String,
}

/// What a fine-tuning did.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// One record per request; only [`free_decoding`](Record::free_decoding) is filled.
    pub records: Vec<Record>,
    /// The answers by prompt.
    pub exchanges: BTreeMap<String, Exchange>,
}

/// Answers of one model by prompt.
pub(crate) type Answers = BTreeMap<String, String>;

/// Every prompt that the requests are evaluated with, once.
pub(crate) fn prompts(requests: &[CheckedRequest]) -> Vec<String> {
    let mut prompts = BTreeSet::new();
    for request in requests {
        prompts.extend([request.prompt()].into_iter().chain(request.rephrase_prompts()));
        let named = request.locality().values().chain(request.portability().values());
        prompts.extend(named.flatten().map(|one| one.prompt.as_str()));
    }
    prompts.into_iter().map(str::to_owned).collect()
}

impl FtApi {
    /// Asks the base model and the fine-tuned one everything that the requests bring along, and scores the answers.
    ///
    /// A score is 1 if the answer begins with the wanted words, else 0; a prompt that the answer repeats is left out first. Locality: where
    /// the base model gives the ground truth, the fine-tuned one must too; elsewhere it must give the same answer.
    ///
    /// # Errors
    ///
    /// If an evaluation prompt or its answer is blank, or the API cannot be asked.
    pub fn evaluate(&self, tuned: &FineTuned, requests: &[CheckedRequest], progress: &dyn Progress) -> Result<Evaluated> {
        let prompts = prompts(requests);
        let before = self.ask(&tuned.base, &prompts, progress)?;
        let after = self.ask(&tuned.model, &prompts, progress)?;
        Ok(self.evaluated(requests, &before, &after, 0.0))
    }

    /// A model's answers to `prompts`, [`parallel_requests`](crate::FtApiHparams::parallel_requests) at a time.
    pub(crate) fn ask(&self, model: &str, prompts: &[String], progress: &dyn Progress) -> Result<Answers> {
        progress.begin(&format!("ask {model}"), Some(prompts.len() as u64));
        let next = AtomicUsize::new(0);
        let (sender, receiver) = channel();
        let answers = std::thread::scope(|scope| {
            for _ in 0..self.hparams.parallel_requests.min(prompts.len()) {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(prompt) = prompts.get(index) else { break };
                        let answer = self.api.chat(model, prompt, &self.hparams);
                        if answer.is_err() {
                            // Nobody begins another question.
                            next.store(prompts.len(), Ordering::Relaxed);
                        }
                        if sender.send((prompt, answer)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            let mut answers = Answers::new();
            let mut failure = None;
            for (prompt, answer) in receiver {
                progress.advance(1);
                match answer {
                    Ok(answer) => {
                        answers.insert(prompt.clone(), without_prompt(prompt, &answer).to_owned());
                    }
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            failure.map_or(Ok(answers), Err)
        });
        progress.end();
        answers
    }

    /// The records of `requests` by the answers of both models.
    pub(crate) fn evaluated(&self, requests: &[CheckedRequest], before: &Answers, after: &Answers, seconds: f64) -> Evaluated {
        let records = requests.iter().map(|request| {
            let mut record = self.record(request, seconds);
            if !before.is_empty() {
                record.free_decoding.pre = metrics(request, before, None);
                record.free_decoding.post = metrics(request, after, Some(before));
            }
            record
        });
        let exchange = |(prompt, before): (&String, &String)| {
            let after = after.get(prompt)?.clone();
            Some((prompt.clone(), Exchange { before: before.clone(), after }))
        };
        Evaluated { records: records.collect(), exchanges: before.iter().filter_map(exchange).collect() }
    }

    fn record(&self, request: &CheckedRequest, seconds: f64) -> Record {
        Record {
            pre: Metrics::default(),
            case_id: request.case_id(),
            requested_rewrite: request.written().clone(),
            time: seconds,
            post: Metrics::default(),
            post_final: None,
            free_decoding: FreeDecoding::default(),
            peak_memory_mb: None,
            seed: self.seed,
            error: None,
        }
    }
}

/// The scores of a model that gave `answers`; with those of the base model, locality too.
fn metrics(request: &CheckedRequest, answers: &Answers, base: Option<&Answers>) -> Metrics {
    let says = |prompt: &str, answer: &str| sign(begins_with_words(of(answers, prompt), answer));
    let each = |groups: &BTreeMap<String, Vec<EvaluationPrompt>>, score: &dyn Fn(&EvaluationPrompt) -> f64| {
        groups.iter().map(|(name, prompts)| (format!("{name}_acc"), prompts.iter().map(score).collect())).collect()
    };
    Metrics {
        rewrite_acc: vec![says(request.prompt(), request.target_new())],
        rephrase_acc: request.rephrase_prompts().map(|prompt| says(prompt, request.target_new())).collect(),
        locality: base
            .map(|base| each(request.locality(), &|one| sign(stays(of(base, &one.prompt), of(answers, &one.prompt), &one.ground_truth)))),
        portability: Some(each(request.portability(), &|one| says(&one.prompt, &one.ground_truth))),
    }
}

fn of<'a>(answers: &'a Answers, prompt: &str) -> &'a str {
    answers.get(prompt).map(String::as_str).unwrap_or_default()
}

fn sign(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

/// Whether an answer that has to stay has stayed.
fn stays(before: &str, after: &str, ground_truth: &str) -> bool {
    match begins_with_words(before, ground_truth) {
        true => begins_with_words(after, ground_truth),
        false => before.split_whitespace().eq(after.split_whitespace()),
    }
}

/// An answer without the prompt, which chat models like to repeat.
fn without_prompt<'a>(prompt: &str, answer: &'a str) -> &'a str {
    let answer = answer.trim();
    answer.strip_prefix(prompt.trim()).map(str::trim_start).filter(|rest| !rest.is_empty()).unwrap_or(answer)
}

#[cfg(test)]
mod tests {
    use easyedit_core::EditRequest;

    use super::*;

    #[test]
    fn a_repeated_prompt_is_left_out() {
        assert_eq!(without_prompt("The Eiffel Tower is in ", " The Eiffel Tower is in Rome. "), "Rome.");
        assert_eq!(without_prompt("Where?", "In Rome"), "In Rome");
        assert_eq!(without_prompt("Rome", "Rome"), "Rome");
    }

    #[test]
    fn a_known_answer_may_change_its_words_and_an_unknown_one_may_not() {
        assert!(stays("Oslo", "Oslo, Norway", "Oslo"));
        assert!(!stays("Oslo", "Bergen", "Oslo"));
        assert!(stays("I do  not know", "I do not know", "Oslo"));
        assert!(!stays("I do not know", "Oslo", "Oslo"));
    }

    #[test]
    fn prompts_are_asked_once_and_none_is_blank() {
        let mut request = EditRequest::new("{} is in", "The Louvre", "Rome");
        request.rephrase_prompts = vec!["The Louvre is in".into()];
        request.locality.insert("near".into(), vec![EvaluationPrompt::new("Oslo is in", "Norway")]);
        let request = CheckedRequest::new(request).unwrap();
        assert_eq!(prompts(&[request.clone(), request]), ["Oslo is in", "The Louvre is in"]);
    }
}
