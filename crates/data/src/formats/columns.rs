use std::collections::BTreeMap;

use easyedit_core::{EditRequest, EvaluationPrompt};
use serde_json::{Map, Value};

use super::{Record, prompts, requests as rows};

/// The arguments of EasyEdit's `edit`: lists of one length, an entry for each fact.
pub(super) fn requests(record: &Record) -> Result<Vec<EditRequest>, String> {
    let count = column(record, "prompts")?.map_or(0, Vec::len);
    let mut rows: Vec<Record> = vec![Map::new(); count];
    for (name, key) in [
        ("prompts", "prompt"),
        ("target_new", "target_new"),
        ("ground_truth", "ground_truth"),
        ("subject", "subject"),
        ("rephrase_prompts", "rephrase_prompt"),
    ] {
        let Some(values) = column(record, name)? else { continue };
        check_length(name, values, count)?;
        rows.iter_mut().zip(values).for_each(|(row, value)| {
            row.insert(key.to_owned(), value.clone());
        });
    }
    let mut all = Vec::with_capacity(count);
    for (index, row) in rows.iter().enumerate() {
        let request = rows::request(row).map_err(|e| format!("entry {index}: {e}"))?;
        all.push(EditRequest { case_id: index, ..request });
    }
    for (name, of) in [("locality_inputs", Field::Locality), ("portability_inputs", Field::Portability)] {
        let Some(Value::Object(groups)) = record.get(name) else { continue };
        for (group, entry) in groups {
            let key = format!("{name}.{group}");
            let Value::Object(entry) = entry else { return Err(format!("{key}: is not an object")) };
            let (Some(prompts), Some(answers)) = (column(entry, "prompt")?, column(entry, "ground_truth")?) else {
                return Err(format!("{key}: has no lists prompt and ground_truth"));
            };
            check_length(&format!("{key}.prompt"), prompts, count)?;
            check_length(&format!("{key}.ground_truth"), answers, count)?;
            for ((request, prompt), answer) in all.iter_mut().zip(prompts).zip(answers) {
                // One prompt for a fact, or a list of several.
                let entry = Map::from_iter([("prompt".to_owned(), prompt.clone()), ("ground_truth".to_owned(), answer.clone())]);
                let one = Map::from_iter([("inputs".to_owned(), Value::Object(Map::from_iter([(group.clone(), Value::Object(entry))])))]);
                of.of(request).append(&mut prompts::named(&one, "inputs").map_err(|e| format!("{name}: {e}"))?);
            }
        }
    }
    Ok(all)
}

#[derive(Clone, Copy)]
enum Field {
    Locality,
    Portability,
}

impl Field {
    fn of(self, request: &mut EditRequest) -> &mut BTreeMap<String, Vec<EvaluationPrompt>> {
        match self {
            Self::Locality => &mut request.locality,
            Self::Portability => &mut request.portability,
        }
    }
}

/// The list under `key`; `None` if there is nothing.
fn column<'a>(record: &'a Record, key: &str) -> Result<Option<&'a Vec<Value>>, String> {
    match record.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(values)) => Ok(Some(values)),
        Some(_) => Err(format!("{key}: is not a list")),
    }
}

fn check_length(name: &str, values: &[Value], count: usize) -> Result<(), String> {
    match values.len() {
        length if length == count => Ok(()),
        length => Err(format!("{name}: has {length} entries for {count} prompts")),
    }
}
