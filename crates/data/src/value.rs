//! Reading values whose form differs between datasets: texts, alias lists, `{"str": ...}`.

use serde_json::{Map, Value};

/// A text: as it is, the first of an alias list (however deep), the `str` of an entity, a number written out.
/// `None` if there is nothing: null, or an empty list.
pub(crate) fn text(value: &Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Array(aliases) => aliases.first().map_or(Ok(None), text),
        Value::Object(entity) => match entity.get("str") {
            Some(name) => text(name),
            None => Err("is an object without \"str\" where a text should be".into()),
        },
        Value::Bool(_) => Err("is true or false where a text should be".into()),
    }
}

/// The text under `key`; `None` if the key is missing or holds nothing.
pub(crate) fn optional(map: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    map.get(key).map_or(Ok(None), text).map_err(|e| format!("{key}: {e}"))
}

/// The text under `key`.
pub(crate) fn required(map: &Map<String, Value>, key: &str) -> Result<String, String> {
    match map.get(key) {
        None => Err(format!("the key {key} is missing")),
        Some(value) => text(value).map_err(|e| format!("{key}: {e}"))?.ok_or_else(|| format!("{key}: holds no text")),
    }
}

/// The texts of a list, or the one text.
pub(crate) fn list(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(values) => values.iter().filter_map(|v| text(v).transpose()).collect(),
        one => Ok(text(one)?.into_iter().collect()),
    }
}

/// The wordings of an answer: the text itself, or all texts of a list of aliases, however deep, without repetitions.
pub(crate) fn wordings(value: &Value) -> Result<Vec<String>, String> {
    fn collect(value: &Value, all: &mut Vec<String>) -> Result<(), String> {
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| collect(value, all)),
            one => {
                all.extend(text(one)?.filter(|text| !text.trim().is_empty() && !all.contains(text)));
                Ok(())
            }
        }
    }
    let mut all = Vec::new();
    collect(value, &mut all)?;
    Ok(all)
}

/// The wordings under `key`; none if the key is missing.
pub(crate) fn wordings_of(map: &Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    map.get(key).map_or(Ok(Vec::new()), wordings).map_err(|e| format!("{key}: {e}"))
}
