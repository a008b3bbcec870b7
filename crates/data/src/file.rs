use std::path::Path;

use easyedit_core::{EditRequest, Error, Result, read_input_text};
use serde_json::Value;

use crate::record;

/// No file of facts is larger; one that is holds something else.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// What a file of facts holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    /// The facts, in the file's order.
    pub requests: Vec<EditRequest>,
    /// Number of records left out because their target is empty, as EasyEdit leaves them out.
    pub skipped: usize,
}

/// Reads the facts of a file: as [`read_dataset`], without the number of records left out (a warning is logged).
///
/// # Errors
///
/// As [`read_dataset`].
pub fn read_requests(path: &Path) -> Result<Vec<EditRequest>> {
    Ok(read_dataset(path)?.requests)
}

/// Reads a file of facts: a JSON array of records, an object with the array under `facts`, one record, or JSON lines. A record without
/// a `case_id` gets its index.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read; [`Error::Format`] naming the file, the record's index and the key that is missing or wrong;
/// also if there is no record, or every record's target is empty.
pub fn read_dataset(path: &Path) -> Result<Dataset> {
    let text = read_text(path)?;
    let records = records(&text).map_err(|message| Error::format(path, message))?;
    let mut dataset = Dataset::default();
    for (index, value) in records.iter().enumerate() {
        match record::request(value, index).map_err(|message| Error::format(path, format!("record {index}: {message}")))? {
            Some(request) => dataset.requests.push(request),
            None => dataset.skipped += 1,
        }
    }
    if dataset.requests.is_empty() {
        let why = if dataset.skipped == 0 { "holds no records" } else { "holds only records with an empty target" };
        return Err(Error::format(path, why));
    }
    if dataset.skipped > 0 {
        tracing::warn!("{}: left out {} records with an empty target", path.display(), dataset.skipped);
    }
    Ok(dataset)
}

/// A text file that is neither a folder, nor endless, nor too large.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    read_input_text(path, MAX_FILE_BYTES)
}

/// The records of a JSON array, of an object with `facts`, of JSON lines, or the one object.
pub(crate) fn records(text: &str) -> Result<Vec<Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Array(records)) => Ok(records),
        Ok(Value::Object(mut map)) => match map.remove("facts") {
            Some(Value::Array(records)) => Ok(records),
            Some(_) => Err("facts: is not an array".into()),
            None => Ok(vec![Value::Object(map)]),
        },
        Ok(_) => Err("is neither a JSON array of records nor JSON lines".into()),
        Err(error) => lines(text).unwrap_or_else(|| Err(format!("is not JSON: {error}"))),
    }
}

/// The records of JSON lines; `None` if the first line is no record of its own, so that the file is something else.
fn lines(text: &str) -> Option<Result<Vec<Value>, String>> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let first: Value = serde_json::from_str(lines.next()?.1).ok()?;
    let mut records = vec![first];
    for (number, line) in lines {
        match serde_json::from_str(line) {
            Ok(record) => records.push(record),
            Err(error) => return Some(Err(format!("line {}: is not JSON: {error}", number + 1))),
        }
    }
    Some(Ok(records))
}
