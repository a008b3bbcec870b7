use std::collections::BTreeMap;

use easyedit_core::EvaluationPrompt;
use serde_json::Value;

use super::{ONE_HOP, Record};
use crate::value::{optional, required, text, wordings, wordings_of};

pub(super) type Prompts = BTreeMap<String, Vec<EvaluationPrompt>>;

/// Adds a prompt under `name` if both it and its answer hold text. The answer is given in all its wordings.
pub(super) fn add(prompts: &mut Prompts, name: &str, prompt: Option<String>, answer: Vec<String>) {
    let mut answer = answer.into_iter().filter(|wording| !wording.trim().is_empty());
    if let (Some(prompt), Some(ground_truth)) = (prompt.filter(|prompt| !prompt.trim().is_empty()), answer.next()) {
        prompts.entry(name.to_owned()).or_default().push(EvaluationPrompt { prompt, ground_truth, aliases: answer.collect() });
    }
}

/// `locality` or `portability`: name -> `[{prompt, ground_truth}]`, or name -> `{prompt, ground_truth}` with texts or lists.
/// An entry without an answer cannot be scored and is left out.
pub(super) fn named(record: &Record, key: &str) -> Result<Prompts, String> {
    let mut prompts = Prompts::new();
    let groups = match record.get(key) {
        None | Some(Value::Null) => return Ok(prompts),
        Some(Value::Object(groups)) => groups,
        Some(_) => return Err(format!("{key}: is not a map from names to prompts")),
    };
    for (name, entry) in groups {
        let within = |e: String| format!("{key}.{name}: {e}");
        match entry {
            Value::Null => {}
            Value::Array(entries) => {
                for (index, entry) in entries.iter().enumerate() {
                    let Value::Object(entry) = entry else { return Err(within(format!("entry {index} is not an object"))) };
                    let within = |e: String| within(format!("entry {index}: {e}"));
                    let prompt = required(entry, "prompt").map_err(within)?;
                    add(&mut prompts, name, Some(prompt), wordings_of(entry, "ground_truth").map_err(within)?);
                }
            }
            Value::Object(entry) => pairs(&mut prompts, name, entry).map_err(within)?,
            _ => return Err(within("is neither a list nor an object".into())),
        }
    }
    Ok(prompts)
}

/// `{prompt, ground_truth}`: two texts, or two lists of one length. With one prompt, a list of answers is one of aliases.
fn pairs(prompts: &mut Prompts, name: &str, entry: &Record) -> Result<(), String> {
    let answers = entry.get("ground_truth").unwrap_or(&Value::Null);
    let Some(Value::Array(questions)) = entry.get("prompt") else {
        let prompt = match entry.get("prompt") {
            Some(Value::Null) => None,
            _ => Some(required(entry, "prompt")?),
        };
        add(prompts, name, prompt, wordings(answers).map_err(|e| format!("ground_truth: {e}"))?);
        return Ok(());
    };
    let Value::Array(answers) = answers else { return Err("prompt is a list and ground_truth is not".into()) };
    if questions.len() != answers.len() {
        return Err(format!("{} prompts and {} ground truths", questions.len(), answers.len()));
    }
    for (question, answer) in questions.iter().zip(answers) {
        let question = text(question).map_err(|e| format!("prompt: {e}"))?;
        add(prompts, name, question, wordings(answer).map_err(|e| format!("ground_truth: {e}"))?);
    }
    Ok(())
}

/// The `portability` of the `*_portability_gpt4` sets: a question that needs one more hop.
pub(super) fn one_hop(record: &Record, portability: &mut Prompts) -> Result<(), String> {
    match record.get("portability") {
        Some(Value::Object(hop)) if hop.contains_key("New Question") => {
            let within = |e: String| format!("portability: {e}");
            let question = optional(hop, "New Question").map_err(within)?;
            add(portability, ONE_HOP, question, wordings_of(hop, "New Answer").map_err(within)?);
        }
        Some(Value::Object(_)) => portability.append(&mut named(record, "portability")?),
        _ => {}
    }
    Ok(())
}
