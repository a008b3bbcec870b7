use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use easyedit_core::{Error, Result, read_input_text};
use serde::{Deserialize, Serialize};

/// File of a run's curve: one JSON object a line.
pub const LOG_FILE: &str = "log.jsonl";

/// Longest log that is read.
const MOST_BYTES: u64 = 1 << 30;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Iterations done.
    pub iteration: u64,
    /// Optimiser steps done.
    pub step: u64,
    /// Batches skipped in all, because their gradients were not finite.
    #[serde(default)]
    pub skipped: u64,
    /// Averages since the last such line, by key (`loss/total_train`), or of a validation (`loss/total_val`). What is not finite is null.
    pub values: BTreeMap<String, Option<f64>>,
}

/// Reads a run's log.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be read, [`Error::Format`] naming a line that is none of a log.
pub fn read_log(path: &Path) -> Result<Vec<LogLine>> {
    let text = read_input_text(path, MOST_BYTES)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::format(path, format!("line {} is no line of a training log: {e}", number + 1)))
    };
    lines.map(read).collect()
}

/// The log of a run under way.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    /// Opens the log behind its first `bytes`; the rest, which a run wrote after its last checkpoint, is cut off.
    pub(crate) fn open(path: &Path, bytes: u64) -> Result<Self> {
        let failed = |e| Error::io("write", path, e);
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        let there = file.metadata().map_err(failed)?.len();
        if there < bytes {
            return Err(Error::format(path, format!("has {there} bytes, but {bytes} were written before the checkpoint; put it back")));
        }
        file.set_len(bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    pub(crate) fn write(&mut self, line: &LogLine) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(Error::other)?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|e| Error::io("write", &self.path, e))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes through to the disk: a checkpoint counts on what is before it.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("write", &self.path, e))
    }
}

/// Values as the log keeps them.
pub(crate) fn finite(values: &BTreeMap<String, f64>) -> BTreeMap<String, Option<f64>> {
    values.iter().map(|(key, value)| (key.clone(), value.is_finite().then_some(*value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_where_its_checkpoint_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOG_FILE);
        let line = |iteration: u64, value: f64| LogLine {
            iteration,
            step: iteration,
            skipped: 0,
            values: finite(&BTreeMap::from([("loss/total_train".to_owned(), value)])),
        };
        let mut log = Log::open(&path, 0).unwrap();
        log.write(&line(1, 0.1)).unwrap();
        let kept = log.bytes();
        log.write(&line(2, 0.2)).unwrap();
        let mut log = Log::open(&path, kept).unwrap();
        log.write(&line(2, f64::NAN)).unwrap();
        assert_eq!(read_log(&path).unwrap(), [line(1, 0.1), line(2, f64::NAN)]);
        assert_eq!(read_log(&path).unwrap()[1].values["loss/total_train"], None);
        assert!(Log::open(&path, 1 << 20).unwrap_err().to_string().contains("log.jsonl"));
        std::fs::write(&path, "{}\n").unwrap();
        assert!(read_log(&path).unwrap_err().to_string().contains("line 1"));
    }
}
