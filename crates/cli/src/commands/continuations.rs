//! What a model writes after prompts, before and after an edit.

use anyhow::Result;
use easyedit::tokens::encode_prompt;
use easyedit::{EditRequest, GenerationConfig, Predictor, Progress, TokenRow, generate_while};

use crate::output::{Continuation, Role};

/// How many tokens are shown of each continuation.
const TOKENS: usize = 10;

/// A prompt to look at.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) role: Role,
    pub(super) prompt: String,
    /// The new target, or for a neighbour its answer.
    pub(super) answer: String,
}

impl Watched {
    /// The prompts that a request brings along.
    pub(super) fn of(request: &EditRequest) -> Vec<Self> {
        let target = &request.target_new;
        let rephrased = request.rephrase_prompts.iter().filter(|prompt| !prompt.trim().is_empty());
        let mut watched = vec![Self { role: Role::Edited, prompt: request.filled_prompt(), answer: target.clone() }];
        watched.extend(rephrased.map(|p| Self { role: Role::Paraphrase, prompt: p.clone(), answer: target.clone() }));
        for one in request.locality.values().flatten() {
            watched.push(Self { role: Role::Neighbour, prompt: one.prompt.clone(), answer: one.ground_truth.clone() });
        }
        watched
    }
}

/// Greedy continuations by both models, side by side.
pub(super) fn compare(
    before: &dyn Predictor,
    after: &dyn Predictor,
    watched: &[Watched],
    progress: &dyn Progress,
) -> Result<Vec<Continuation>> {
    let (first, second) = (continue_all(before, watched, progress)?, continue_all(after, watched, progress)?);
    let rows = watched.iter().zip(first).zip(second);
    Ok(rows.map(|((one, before), after)| pair(one, before, after)).collect())
}

/// What was said to a prompt before and after, with a judgement.
pub(super) fn pair(one: &Watched, before: String, after: String) -> Continuation {
    let as_wanted = match one.role {
        Role::Neighbour if begins_with(&before, &one.answer) => begins_with(&after, &one.answer),
        Role::Neighbour => before == after,
        _ => begins_with(&after, &one.answer),
    };
    Continuation { role: one.role, prompt: one.prompt.clone(), before, after, as_wanted }
}

fn continue_all(predictor: &dyn Predictor, watched: &[Watched], progress: &dyn Progress) -> Result<Vec<String>> {
    let prompts: easyedit::Result<Vec<TokenRow>> = watched.iter().map(|one| encode_prompt(predictor, &one.prompt)).collect();
    let generated = generate_while(predictor, &prompts?, &GenerationConfig::greedy(TOKENS), progress)?;
    Ok(generated.iter().map(|one| one.text(predictor)).collect::<easyedit::Result<_>>()?)
}

/// Whether a continuation begins with the answer, in whole words.
fn begins_with(text: &str, answer: &str) -> bool {
    let rest = text.trim_start().strip_prefix(answer.trim());
    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_words() {
        assert!(begins_with(" Rome, Italy", "Rome"));
        assert!(!begins_with(" Romeo", "Rome"));
        assert!(!begins_with(" in Rome", "Rome"));
    }
}
