use std::cmp::Reverse;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use sha2::Digest;

use super::ArtefactLabel;
use super::label::KEY;
use super::tensor::{PART, announce};
use crate::{Error, Result, open_input};

/// Longest header in bytes: what the safetensors library accepts.
pub(super) const LONGEST_HEADER: u64 = 100_000_000;

/// An artefact whose header is read, and whose tensors are not yet.
#[derive(Debug)]
pub struct ArtefactFile<R = BufReader<File>> {
    path: PathBuf,
    metadata: Metadata,
    /// Name and description, in the order of the file.
    tensors: Vec<(String, TensorInfo)>,
    /// At the first tensor.
    reader: R,
}

impl ArtefactFile {
    /// Opens a file whose tensors have at most `max_bytes` together, and reads its header.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read; [`Error::Format`] naming the file if it is too large, cut off, or not in the safetensors format.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self> {
        let (file, length) = open_input(path, max_bytes.saturating_add(LONGEST_HEADER))?;
        Self::new(path, BufReader::with_capacity(PART, file), length)
    }

    /// As [`open`](Self::open); `None` if there is no file.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn find(path: &Path, max_bytes: u64) -> Result<Option<Self>> {
        match Self::open(path, max_bytes) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }
}

impl<R: Read> ArtefactFile<R> {
    /// Reads the header of a file of `length` bytes; `path` is its name in errors.
    pub(crate) fn new(path: &Path, mut reader: R, length: u64) -> Result<Self> {
        let fault = |message: &str| Error::format(path, format!("is damaged, or not a safetensors file: {message}"));
        let mut prefix = [0; 8];
        reader.read_exact(&mut prefix).map_err(|_| fault("it is too short"))?;
        let head = u64::from_le_bytes(prefix);
        if head > LONGEST_HEADER.min(length) {
            return Err(fault("its header is too long"));
        }
        let mut json = vec![0; usize::try_from(head).map_err(|_| fault("its header is too long"))?];
        reader.read_exact(&mut json).map_err(|_| fault("it is cut off"))?;
        let metadata: Metadata = serde_json::from_slice(&json).map_err(|e| fault(&e.to_string()))?;
        if metadata.data_len() as u64 != length.saturating_sub(head + prefix.len() as u64) {
            return Err(fault("its length is not what its header says"));
        }
        let mut tensors: Vec<(String, TensorInfo)> = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        // Several empty tensors lie at the same place.
        tensors.sort_by(|(a, x), (b, y)| (x.data_offsets, Reverse(x.dtype), a).cmp(&(y.data_offsets, Reverse(y.dtype), b)));
        Ok(Self { path: path.to_owned(), metadata, tensors, reader })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The label.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if it has no label, or that of another kind.
    pub fn label(&self, kind: &str) -> Result<ArtefactLabel> {
        ArtefactLabel::parse(&self.path, self.entry(KEY), kind)
    }

    /// Whether the file has a label.
    pub(crate) fn has_label(&self) -> bool {
        self.entry(KEY).is_some()
    }

    /// An entry of the metadata.
    pub(crate) fn entry(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Names and descriptions of the tensors, in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// Reads the tensors in the order of the file. `take` is given the name of a tensor, the number of its bytes that came before, and the next
    /// part of them, which holds whole numbers. Only when all is read is it known whether it is what was written.
    ///
    /// # Errors
    ///
    /// Those of `take`; [`Error::Io`] if the file cannot be read; [`Error::Format`] naming the file if its contents do not fit the checksum of
    /// `label`.
    pub fn read_parts(self, label: &ArtefactLabel, take: impl FnMut(&str, usize, &[u8]) -> Result<()>) -> Result<()> {
        self.parts(Some(label), take)
    }

    /// As [`read_parts`](Self::read_parts); without a label nothing is checked.
    pub(super) fn parts(mut self, label: Option<&ArtefactLabel>, mut take: impl FnMut(&str, usize, &[u8]) -> Result<()>) -> Result<()> {
        let mut checksum = label.map(ArtefactLabel::checksum);
        let mut buffer = vec![0; PART.min(self.metadata.data_len())];
        for (name, info) in &self.tensors {
            if let Some(checksum) = &mut checksum {
                announce(checksum, name, info.dtype, &info.shape);
            }
            let (start, end) = info.data_offsets;
            for offset in (0..end - start).step_by(PART) {
                let length = PART.min(end - start - offset);
                let part = buffer.get_mut(..length).unwrap_or_default();
                self.reader.read_exact(part).map_err(|e| Error::io("read", &self.path, e))?;
                if let Some(checksum) = &mut checksum {
                    checksum.update(&*part);
                }
                take(name, offset, part)?;
            }
        }
        match (label, checksum) {
            (Some(label), Some(checksum)) => label.check(&self.path, checksum),
            _ => Ok(()),
        }
    }
}
