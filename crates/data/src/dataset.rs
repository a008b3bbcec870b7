use std::path::Path;

use easyedit_core::{EditRequest, Error, Result, read_input_text};
use serde::Serialize;

use crate::{Format, formats, records};

/// No file of facts is larger; one that is holds something else.
const MAX_FILE_BYTES: u64 = 2 << 30;
/// Faults that a message names; the others are counted.
const NAMED_FAULTS: usize = 3;

/// The facts of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// What the file holds: the format of its first record.
    pub format: Format,
    /// The records with something to edit, in the file's order.
    pub records: Vec<DatasetRecord>,
    /// Number of facts left out because their target is empty, as EasyEdit leaves them out.
    pub without_target: usize,
    /// Records that could not be read.
    pub faults: Vec<Fault>,
}

/// A record of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetRecord {
    /// Its place in the file, from 0.
    pub index: usize,
    /// Its facts; more than one where facts belong together (MQuAKE), or the record is a list of facts.
    pub requests: Vec<EditRequest>,
}

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Its place in the file, from 0.
    pub record: usize,
    /// The key and what is wrong with it.
    pub reason: String,
}

impl Dataset {
    /// All facts, in the file's order.
    pub fn requests(&self) -> impl Iterator<Item = &EditRequest> {
        self.records.iter().flat_map(|record| &record.requests)
    }

    /// The error for the first record that could not be read, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file, the record and the key.
    pub fn strict(self, path: &Path) -> Result<Self> {
        match self.faults.first() {
            Some(Fault { record, reason }) => Err(Error::format(path, format!("record {record}: {reason}"))),
            None => Ok(self),
        }
    }
}

/// Reads the facts of a file: those of [`read_dataset`], one after the other. What was left out is logged as a warning.
///
/// # Errors
///
/// As [`read_dataset`].
pub fn read_requests(path: &Path) -> Result<Vec<EditRequest>> {
    let Dataset { records, without_target, faults, .. } = read_dataset(path)?;
    if without_target > 0 {
        tracing::warn!("{}: left out {without_target} facts with an empty target", path.display());
    }
    if !faults.is_empty() {
        let named = faults.iter().take(NAMED_FAULTS).map(|fault| format!("record {}: {}", fault.record, fault.reason));
        let named = named.collect::<Vec<_>>().join("; ");
        tracing::warn!("{}: left out {} records that cannot be read ({named})", path.display(), faults.len());
    }
    Ok(records.into_iter().flat_map(|record| record.requests).collect())
}

/// Reads a file of facts: a JSON array of records, an object with the array under `facts`, one record, JSON lines, or a table (`.csv`, `.tsv`).
/// A record that cannot be read is left out and listed, and the others are used; [`Dataset::strict`] makes an error of it. A record without a
/// `case_id` gets its index.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read; [`Error::Format`] naming the file, the first record and its key, if no record can be read; also if there
/// is no record, or every target is empty.
pub fn read_dataset(path: &Path) -> Result<Dataset> {
    dataset_of(path, &read_text(path)?)
}

/// The facts of a text; `path` names it in errors.
pub(crate) fn dataset_of(path: &Path, text: &str) -> Result<Dataset> {
    let mut format = None;
    let mut records = Vec::new();
    let (mut without_target, mut faults) = (0, Vec::new());
    let mut take = |index: usize, value: Result<serde_json::Value, String>| match value.and_then(|value| formats::requests(&value, index)) {
        Ok((found, requests)) => {
            format.get_or_insert(found);
            let all = requests.len();
            let requests: Vec<EditRequest> = requests.into_iter().filter(|request| !request.target_new.trim().is_empty()).collect();
            without_target += all - requests.len();
            if !requests.is_empty() {
                records.push(DatasetRecord { index, requests });
            }
        }
        Err(reason) => faults.push(Fault { record: index, reason }),
    };
    records::each_record(path, text, &mut take).map_err(|message| Error::format(path, message))?;
    match (format, faults.first()) {
        (Some(format), _) if !records.is_empty() => Ok(Dataset { format, records, without_target, faults }),
        (_, Some(Fault { record, reason })) => Err(Error::format(path, format!("record {record}: {reason}"))),
        (Some(_), None) if without_target > 0 => Err(Error::format(path, "holds only records with an empty target")),
        _ => Err(Error::format(path, "holds no records")),
    }
}

/// A text file that is neither a folder, nor endless, nor too large.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    read_input_text(path, MAX_FILE_BYTES)
}
