//! One record of any format as an [`EditRequest`]. Errors name the key.

use std::collections::BTreeMap;

use easyedit_core::{EditRequest, EvaluationPrompt};
use serde_json::{Map, Value};

use crate::value::{first_of, list, optional, required, text};

type Record = Map<String, Value>;
type Prompts = BTreeMap<String, Vec<EvaluationPrompt>>;

/// Name of the locality prompts about neighbours of the subject, in EasyEdit's scripts.
const NEIGHBORHOOD: &str = "neighborhood";
/// Name of the portability prompts that need one more hop.
const ONE_HOP: &str = "one_hop";

/// The request of a record; `None` if its target is empty.
pub(crate) fn request(value: &Value, index: usize) -> Result<Option<EditRequest>, String> {
    let Value::Object(record) = value else { return Err("is not an object".into()) };
    let has = |key: &str| record.contains_key(key);
    let mut request = if has("requested_rewrite") {
        counterfact(record)?
    } else if has("src") && has("alt") {
        zsre(record)?
    } else if has("text") && has("labels") {
        wikibio(record)?
    } else if has("attribute") && !has("target_new") {
        known(record)?
    } else if has("prompt") || has("target_new") {
        flat(record)?
    } else {
        let keys: Vec<&str> = record.keys().map(String::as_str).take(12).collect();
        return Err(format!(
            "is of no known format: it has neither prompt and target_new, nor src and alt, nor requested_rewrite (its keys: {})",
            keys.join(", ")
        ));
    };
    request.case_id = case_id(record, index)?;
    Ok((!request.target_new.trim().is_empty()).then_some(request))
}

fn case_id(record: &Record, index: usize) -> Result<usize, String> {
    match record.get("case_id").or_else(|| record.get("known_id")) {
        None | Some(Value::Null) => Ok(index),
        Some(Value::Number(number)) => {
            number.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| format!("case_id: {number} is not a whole number from 0"))
        }
        Some(Value::String(digits)) => digits.trim().parse().map_err(|_| format!("case_id: {digits:?} is not a number")),
        Some(_) => Err("case_id: is not a number".into()),
    }
}

/// EasyEdit's counterfact, KnowEdit, and EasyEdit's own request dicts.
fn flat(record: &Record) -> Result<EditRequest, String> {
    let mut request = EditRequest {
        prompt: required(record, "prompt")?,
        target_new: target(record, "target_new")?,
        ground_truth: optional(record, "ground_truth")?,
        subject: optional(record, "subject")?,
        rephrase_prompt: first_of(record, &["rephrase_prompt", "rephrase"])?,
        locality: named_prompts(record, "locality")?,
        portability: named_prompts(record, "portability")?,
        ..EditRequest::default()
    };
    add(&mut request.locality, NEIGHBORHOOD, optional(record, "locality_prompt")?, optional(record, "locality_ground_truth")?);
    add(&mut request.portability, ONE_HOP, optional(record, "portability_prompt")?, optional(record, "portability_ground_truth")?);
    Ok(request)
}

/// A fact of the causal-tracing set: what is true is the answer, before an edit and after.
fn known(record: &Record) -> Result<EditRequest, String> {
    let attribute = target(record, "attribute")?;
    Ok(EditRequest {
        prompt: required(record, "prompt")?,
        ground_truth: Some(attribute.clone()),
        target_new: attribute,
        subject: optional(record, "subject")?,
        ..EditRequest::default()
    })
}

fn zsre(record: &Record) -> Result<EditRequest, String> {
    let target_new = target(record, "alt")?;
    let subject = optional(record, "subject")?;
    let mut request = EditRequest {
        prompt: required(record, "src")?,
        ground_truth: optional(record, "answers")?,
        rephrase_prompt: optional(record, "rephrase")?,
        ..EditRequest::default()
    };
    // The prefix "nq question: " stays: it is part of the prompt that EasyEdit evaluates.
    add(&mut request.locality, NEIGHBORHOOD, optional(record, "loc")?, optional(record, "loc_ans")?);
    one_hop(record, &mut request.portability)?;
    add(&mut request.portability, "inverse_relation", optional(record, "inverse question")?, subject.clone());
    add(&mut request.portability, "subject_replace", optional(record, "alter_subject_question")?, Some(target_new.clone()));
    request.target_new = target_new;
    request.subject = subject;
    Ok(request)
}

/// The original CounterFact, with the additions of EasyEdit's locality and portability sets.
fn counterfact(record: &Record) -> Result<EditRequest, String> {
    let inside = |e: String| format!("requested_rewrite: {e}");
    let rewrite = match record.get("requested_rewrite") {
        Some(Value::Object(rewrite)) => rewrite,
        Some(Value::Array(rewrites)) => match rewrites.as_slice() {
            [Value::Object(rewrite)] => rewrite,
            _ => return Err(inside(format!("holds {} rewrites where one should be", rewrites.len()))),
        },
        _ => return Err(inside("is not an object".into())),
    };
    let template = required(rewrite, "prompt").map_err(inside)?;
    let subject = required(rewrite, "subject").map_err(inside)?;
    let target_new = target(rewrite, "target_new").map_err(inside)?;
    let ground_truth = optional(rewrite, "target_true").map_err(inside)?;
    let fill = |subject: &str| template.replacen("{}", subject, 1);
    let mut request = EditRequest { prompt: fill(&subject), ..EditRequest::default() };
    request.rephrase_prompt = optional(record, "paraphrase_prompts")?;
    for (name, key) in [(NEIGHBORHOOD, "neighborhood_prompts"), ("distracting_neighbor", "distracting_neighborhood_prompts")] {
        let prompts = record.get(key).map_or(Ok(Vec::new()), list).map_err(|e| format!("{key}: {e}"))?;
        for prompt in prompts {
            add(&mut request.locality, name, Some(prompt), ground_truth.clone());
        }
    }
    if let Some(Value::Object(other)) = record.get("unrelated_relation") {
        let within = |e: String| format!("unrelated_relation: {e}");
        let (question, object) = (optional(other, "question").map_err(within)?, optional(other, "object").map_err(within)?);
        add(&mut request.locality, "other_attribution", question, object);
    }
    one_hop(record, &mut request.portability)?;
    let alternative = optional(record, "alternative_subject")?.map(|alternative| fill(&alternative));
    add(&mut request.portability, "subject_replace", alternative, Some(target_new.clone()));
    request.subject = Some(subject);
    request.target_new = target_new;
    request.ground_truth = ground_truth;
    Ok(request)
}

/// KnowEdit's WikiBio: a passage, and the sentence that should follow.
fn wikibio(record: &Record) -> Result<EditRequest, String> {
    Ok(EditRequest {
        prompt: required(record, "text")?,
        target_new: target(record, "labels")?,
        subject: optional(record, "concept")?,
        locality: named_prompts(record, "locality")?,
        portability: named_prompts(record, "portability")?,
        ..EditRequest::default()
    })
}

/// A target may be empty (the record is left out then), but its key may not be missing.
fn target(record: &Record, key: &str) -> Result<String, String> {
    match record.get(key) {
        None => Err(format!("the key {key} is missing")),
        Some(value) => Ok(text(value).map_err(|e| format!("{key}: {e}"))?.unwrap_or_default()),
    }
}

/// The `portability` of the `*_portability_gpt4` sets: a question that needs one more hop.
fn one_hop(record: &Record, portability: &mut Prompts) -> Result<(), String> {
    match record.get("portability") {
        Some(Value::Object(hop)) if hop.contains_key("New Question") => {
            let within = |e: String| format!("portability: {e}");
            let (question, answer) = (optional(hop, "New Question").map_err(within)?, optional(hop, "New Answer").map_err(within)?);
            add(portability, ONE_HOP, question, answer);
        }
        Some(Value::Object(_)) => portability.append(&mut named_prompts(record, "portability")?),
        _ => {}
    }
    Ok(())
}

/// Adds a prompt under `name` if both it and its answer hold text.
fn add(prompts: &mut Prompts, name: &str, prompt: Option<String>, ground_truth: Option<String>) {
    if let (Some(prompt), Some(ground_truth)) = (prompt, ground_truth)
        && !prompt.trim().is_empty()
        && !ground_truth.trim().is_empty()
    {
        prompts.entry(name.to_owned()).or_default().push(EvaluationPrompt { prompt, ground_truth });
    }
}

/// `locality` or `portability`: name -> `[{prompt, ground_truth}]`, or name -> `{prompt, ground_truth}` with texts or lists.
/// An entry without an answer cannot be scored and is left out.
fn named_prompts(record: &Record, key: &str) -> Result<Prompts, String> {
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
                    let prompt = required(entry, "prompt").map_err(|e| within(format!("entry {index}: {e}")))?;
                    let answer = optional(entry, "ground_truth").map_err(|e| within(format!("entry {index}: {e}")))?;
                    add(&mut prompts, name, Some(prompt), answer);
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
        add(prompts, name, prompt, text(answers).map_err(|e| format!("ground_truth: {e}"))?);
        return Ok(());
    };
    let Value::Array(answers) = answers else { return Err("prompt is a list and ground_truth is not".into()) };
    if questions.len() != answers.len() {
        return Err(format!("{} prompts and {} ground truths", questions.len(), answers.len()));
    }
    for (question, answer) in questions.iter().zip(answers) {
        let question = text(question).map_err(|e| format!("prompt: {e}"))?;
        let answer = text(answer).map_err(|e| format!("ground_truth: {e}"))?;
        add(prompts, name, question, answer);
    }
    Ok(())
}
