use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use easyedit_core::{Error, Result};
use prost::Message;

/// A file of scalars that TensorBoard shows: records of protocol buffers, each with its length and two masked checksums.
///
/// A run that is resumed begins a file of its own beside the others; TensorBoard reads them in the order of their names.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `tensorflow.Summary.Value` of one number.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

impl EventFile {
    /// A new file in `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        let now = seconds();
        let mut number = 0;
        let (path, file) = loop {
            let path = folder.join(format!("events.out.tfevents.{:010}.easyedit.{number}", now as u64));
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(Error::io("create", path, error)),
            }
        };
        let mut events = Self { path, file };
        events.put(&Event { wall_time: now, step: 0, file_version: Some("brain.Event:2".to_owned()), summary: None })?;
        Ok(events)
    }

    /// Adds the values of one iteration.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if they cannot be written.
    pub fn scalars(&mut self, iteration: u64, values: &BTreeMap<String, f64>) -> Result<()> {
        let value = values.iter().map(|(tag, value)| Scalar { tag: tag.clone(), simple_value: Some(*value as f32) }).collect();
        let step = i64::try_from(iteration).unwrap_or(i64::MAX);
        self.put(&Event { wall_time: seconds(), step, file_version: None, summary: Some(Summary { value }) })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn put(&mut self, event: &Event) -> Result<()> {
        self.file.write_all(&record(&event.encode_to_vec())).map_err(|e| Error::io("write", &self.path, e))
    }
}

/// A record of TensorFlow's: length, its checksum, data, their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_checksum(&length), data, &masked_checksum(data)].concat()
}

/// CRC-32C turned and shifted, so that a checksum of data that hold checksums is sound.
fn masked_checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_record_is_laid_out_as_tensorboard_reads_it() {
        // The version record that begins every file, laid out by hand: field 1 as a double, field 3 as a string; step 0 is left out.
        let event = Event { wall_time: 1.0, step: 0, file_version: Some("brain.Event:2".into()), summary: None };
        let data = event.encode_to_vec();
        assert_eq!(data, [&[0x09][..], &1f64.to_le_bytes(), &[0x1a, 13], b"brain.Event:2"].concat());
        let record = record(&data);
        assert_eq!(record.len(), 8 + 4 + data.len() + 4);
        assert_eq!(record[..8], 24u64.to_le_bytes());
        // The check value of CRC-32C.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_checksum(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
    }

    #[test]
    fn records_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(dir.path()).unwrap();
        events.scalars(7, &BTreeMap::from([("loss/total_val".to_owned(), 0.25)])).unwrap();
        let other = EventFile::create(dir.path()).unwrap();
        assert_ne!(events.path(), other.path());
        let bytes = std::fs::read(events.path()).unwrap();
        let (mut rest, mut read) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked_checksum(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked_checksum(data));
            read.push(Event::decode(data).unwrap());
            rest = &rest[16 + length..];
        }
        assert_eq!((read.len(), read[1].step), (2, 7));
        let value = &read[1].summary.as_ref().unwrap().value[0];
        assert_eq!((value.tag.as_str(), value.simple_value), ("loss/total_val", Some(0.25)));
    }
}
