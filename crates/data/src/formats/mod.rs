//! The requests of a record of each format. Errors name the key.

mod columns;
mod counterfact;
mod mquake;
mod prompts;
mod relation;
mod requests;
mod zsre;

use easyedit_core::EditRequest;
use serde_json::{Map, Value};

use crate::Format;
use crate::value::{optional, required, wordings_of};

pub(crate) type Record = Map<String, Value>;

/// Name of the locality prompts about neighbours of the subject, in EasyEdit's scripts.
const NEIGHBORHOOD: &str = "neighborhood";
/// Name of the portability prompts that need one more hop.
const ONE_HOP: &str = "one_hop";

/// The format of a record, and its requests, those with an empty target among them. The requests of one record belong together, but for lists of
/// arguments and relations, whose requests stand for themselves.
pub(crate) fn requests(value: &Value, index: usize) -> Result<(Format, Vec<EditRequest>), String> {
    let Value::Object(record) = value else { return Err("is not an object".into()) };
    let Some(format) = Format::of(record) else {
        let keys: Vec<&str> = record.keys().map(String::as_str).take(12).collect();
        return Err(format!(
            "is of no known format: it has neither prompt and target_new, nor src and alt, nor requested_rewrite (its keys: {})",
            keys.join(", ")
        ));
    };
    if let Some(reason) = format.no_facts() {
        return Err(format!("is of {}, which {reason}", format.name()));
    }
    let requests = match format {
        Format::CounterFact => vec![counterfact::request(record)?],
        Format::Mquake => mquake::requests(record)?,
        Format::Zsre => vec![zsre::request(record)?],
        Format::WikiBio => vec![wikibio(record)?],
        Format::Known => vec![known(record)?],
        Format::Relation => return Ok((format, relation::requests(record)?)),
        Format::Columns => return Ok((format, columns::requests(record)?)),
        Format::Requests | Format::Pictures | Format::Piqa | Format::Questions | Format::Texts => vec![requests::request(record)?],
    };
    let case_id = case_id(record, index)?;
    Ok((format, requests.into_iter().map(|request| EditRequest { case_id, ..request }).collect()))
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

/// A fact of the causal-tracing set: what is true is the answer, before an edit and after.
fn known(record: &Record) -> Result<EditRequest, String> {
    let (target_new, target_new_aliases) = target(record, "attribute")?;
    Ok(EditRequest {
        prompt: required(record, "prompt")?,
        ground_truth: Some(target_new.clone()),
        target_new,
        target_new_aliases,
        subject: optional(record, "subject")?,
        ..EditRequest::default()
    })
}

/// KnowEdit's WikiBio: a passage, and the sentence that should follow.
fn wikibio(record: &Record) -> Result<EditRequest, String> {
    let (target_new, target_new_aliases) = target(record, "labels")?;
    Ok(EditRequest {
        prompt: required(record, "text")?,
        target_new,
        target_new_aliases,
        subject: optional(record, "concept")?,
        locality: prompts::named(record, "locality")?,
        portability: prompts::named(record, "portability")?,
        ..EditRequest::default()
    })
}

/// A target with its aliases. It may be empty (the record is left out then), but its key may not be missing.
fn target(record: &Record, key: &str) -> Result<(String, Vec<String>), String> {
    if !record.contains_key(key) {
        return Err(format!("the key {key} is missing"));
    }
    let mut wordings = wordings_of(record, key)?.into_iter();
    Ok((wordings.next().unwrap_or_default(), wordings.collect()))
}
