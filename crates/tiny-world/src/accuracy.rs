use easyedit_core::tokens::encode_prompt;
use easyedit_core::{GenerationConfig, LanguageModel, generate};
use serde::Serialize;

use crate::{Fact, Result};

/// Prompts that are continued at once.
const BATCH: usize = 256;
/// New tokens per answer, more than the longest object has.
const NEW_TOKENS: usize = 8;

/// How many of the world's questions a model answers by greedy decoding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Share of the facts answered in the words of their prompts.
    pub facts: f64,
    /// Share of the paraphrases answered that no model has seen of their subject.
    pub held_out: f64,
}

/// Asks a model all facts and all held-out paraphrases.
///
/// # Errors
///
/// If the model cannot be run.
pub fn accuracy(model: &dyn LanguageModel, facts: &[Fact]) -> Result<Accuracy> {
    let trained: Vec<(&str, &str)> = facts.iter().map(|fact| (fact.prompt.as_str(), fact.object.as_str())).collect();
    let held_out: Vec<(&str, &str)> =
        facts.iter().flat_map(|fact| fact.held_out.iter().map(|prompt| (prompt.as_str(), fact.object.as_str()))).collect();
    Ok(Accuracy { facts: answered(model, &trained)?, held_out: answered(model, &held_out)? })
}

/// Share of the questions whose greedy answer is the object and then something that ends the word.
fn answered(model: &dyn LanguageModel, questions: &[(&str, &str)]) -> Result<f64> {
    let mut right = 0;
    for batch in questions.chunks(BATCH) {
        let prompts = batch.iter().map(|(prompt, _)| Ok(encode_prompt(model, prompt)?)).collect::<Result<Vec<_>>>()?;
        let answers = generate(model, &prompts, &GenerationConfig::greedy(NEW_TOKENS))?;
        for ((_, object), answer) in batch.iter().zip(answers) {
            let text = answer.text(model)?;
            let rest = text.trim_start().strip_prefix(object);
            right += usize::from(rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric)));
        }
    }
    Ok(right as f64 / questions.len().max(1) as f64)
}
