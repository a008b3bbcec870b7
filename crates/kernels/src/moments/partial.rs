use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use easyedit_core::{Artefact, ArtefactFile, ArtefactLabel, ArtefactTensor, Error, Result};
use safetensors::tensor::{Dtype, TensorInfo};
use serde::{Deserialize, Serialize};

use super::fixed_sum::FixedSum;
use super::provenance::{Provenance, digest};
use super::{SecondMoments, not_finite};

/// The kind of artefact.
const KIND: &str = "partial-moments/2";
/// The sums of no file are larger, in bytes; what is read of them at once is small.
const LARGEST: u64 = 1 << 40;
/// Bytes of an entry.
const ENTRY_BYTES: usize = 16;

/// One of several equal parts of the work: part `index` of `of`, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// All of the work.
    pub const WHOLE: Self = Self { index: 1, of: 1 };

    /// Shard `index` of `of`; `None` unless `1 <= index <= of`.
    pub fn new(index: usize, of: usize) -> Option<Self> {
        (1..=of).contains(&index).then_some(Self { index, of })
    }

    /// Which one it is, from 1 on.
    pub fn index(self) -> usize {
        self.index
    }

    /// How many there are.
    pub fn of(self) -> usize {
        self.of
    }

    /// The chunks of the shard, of `chunks` in all; none if there are more shards than chunks.
    pub(super) fn chunks(self, chunks: usize) -> Range<usize> {
        let border = |shard: usize| (chunks as u128 * shard as u128 / self.of as u128) as usize;
        border(self.index - 1)..border(self.index)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// Sums over a part of the chunks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Partial {
    /// The chunks it is to be of.
    pub(super) range: Range<usize>,
    /// The next chunk to add.
    pub(super) next: usize,
    /// Tokens counted.
    pub(super) tokens: u64,
    pub(super) sums: BTreeMap<usize, FixedSum>,
}

impl Partial {
    pub(super) fn new(layers: &[usize], size: usize, range: Range<usize>) -> Self {
        let sums = layers.iter().map(|layer| (*layer, FixedSum::new(size))).collect();
        Self { next: range.start, range, tokens: 0, sums }
    }

    /// The means.
    pub(super) fn finish(self) -> Result<BTreeMap<usize, SecondMoments>> {
        let tokens = self.tokens;
        let finish = |(layer, sum): (usize, FixedSum)| {
            let mean = sum.mean(tokens);
            if tokens == 0 || mean.iter().any(|v| !v.is_finite()) {
                return Err(not_finite(layer));
            }
            Ok((layer, SecondMoments { size: sum.size(), tokens, mean }))
        };
        self.sums.into_iter().map(finish).collect()
    }
}

/// What the sums of a file are of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    /// Layer by layer.
    pub(super) statistics: Vec<Provenance>,
    /// Of all tokens, in their order: what the settings come to on this machine.
    pub(super) plan_sha256: String,
    /// Number of all chunks.
    pub(super) chunks: usize,
    pub(super) size: usize,
    pub(super) shard: Shard,
}

impl Job {
    /// The layers.
    pub(super) fn layers(&self) -> Vec<usize> {
        self.statistics.iter().map(|of| of.layer).collect()
    }

    /// Sums of nothing yet.
    pub(super) fn start(&self) -> Partial {
        Partial::new(&self.layers(), self.size, self.shard.chunks(self.chunks))
    }

    /// A name for the file of the job in the cache folder.
    pub(super) fn key(&self) -> String {
        digest(&serde_json::to_string(self).unwrap_or_default())
    }
}

/// How far the sums of a file are.
#[derive(Serialize, Deserialize)]
struct Progress {
    next: usize,
    tokens: u64,
}

/// A file of sums: a checkpoint, and when all chunks are in, a shard. An artefact with one tensor of 64-bit integers per layer: the
/// entries of [`FixedSum`], their low halves first. Its [label](ArtefactLabel) has the job as its identity, and the next chunk and the tokens counted
/// as facts. The sums take gigabytes, so they are added part by part while the file is read.
#[derive(Clone, Debug)]
pub(super) struct PartialFile {
    pub(super) path: PathBuf,
    pub(super) job: Job,
    next: usize,
    tokens: u64,
}

impl PartialFile {
    /// The file of a job that has not begun.
    pub(super) fn new(path: PathBuf, job: Job) -> Self {
        Self { next: job.shard.chunks(job.chunks).start, path, job, tokens: 0 }
    }

    /// Reads what a file is of; `None` if there is no file.
    pub(super) fn find(path: &Path) -> Result<Option<Self>> {
        let Some(file) = ArtefactFile::find(path, LARGEST).map_err(no_sums)? else { return Ok(None) };
        Self::read(&file).map(|(sums, _)| Some(sums))
    }

    /// Number of chunks that are in, and that are wanted.
    pub(super) fn progress(&self) -> (usize, usize) {
        let range = self.job.shard.chunks(self.job.chunks);
        (self.next.saturating_sub(range.start), range.len())
    }

    /// The sums.
    pub(super) fn load(&self) -> Result<Partial> {
        let mut partial = self.job.start();
        self.add_to(&mut partial)?;
        partial.next = self.next;
        Ok(partial)
    }

    /// Adds the sums to those of other chunks. After an error they are of no use: some may have been added.
    pub(super) fn add_to(&self, partial: &mut Partial) -> Result<()> {
        let file = ArtefactFile::open(&self.path, LARGEST)?;
        let (again, label) = Self::read(&file)?;
        if again.job != self.job || again.next != self.next {
            return Err(Error::format(&self.path, "was written to while it was read"));
        }
        file.read_parts(&label, |name, offset, part| {
            let sum = name.parse().ok().and_then(|layer: usize| partial.sums.get_mut(&layer));
            let sum = sum.ok_or_else(|| Error::format(&self.path, format!("holds sums called {name}, which belong to no layer")))?;
            for (entry, bytes) in sum.entries_mut().iter_mut().skip(offset / ENTRY_BYTES).zip(part.as_chunks::<ENTRY_BYTES>().0) {
                *entry = entry.wrapping_add(i128::from_le_bytes(*bytes));
            }
            Ok(())
        })?;
        partial.tokens += self.tokens;
        Ok(())
    }

    /// Writes the sums so far; the file is whole at any time.
    pub(super) fn write(&self, partial: &Partial) -> Result<()> {
        let label = ArtefactLabel::new(KIND, &self.job, &Progress { next: partial.next, tokens: partial.tokens })?;
        let sums = partial.sums.iter().map(|(layer, sum)| (layer.to_string(), ArtefactTensor::of_i128(sum.entries())));
        Artefact::write(&self.path, label, sums.collect())
    }

    /// What the file is of, and its label.
    fn read(file: &ArtefactFile) -> Result<(Self, ArtefactLabel)> {
        let path = file.path();
        let damaged = |message: &str| no_sums(Error::format(path, message));
        let label = file.label(KIND).map_err(no_sums)?;
        let job: Job = label.identity(path)?;
        let Progress { next, tokens } = label.facts(path)?;
        if Shard::new(job.shard.index, job.shard.of).is_none() {
            return Err(damaged("its shard is out of range"));
        }
        let range = job.shard.chunks(job.chunks);
        if next < range.start || next > range.end {
            return Err(damaged("its chunks are out of range"));
        }
        let count = job.size.checked_mul(job.size.saturating_add(1)).map(|twice| twice / 2).unwrap_or(usize::MAX);
        let wanted: Vec<String> = job.layers().iter().map(usize::to_string).collect();
        let is_wanted = |(name, info): (&str, &TensorInfo)| {
            wanted.iter().any(|layer| layer == name) && info.dtype == Dtype::I64 && info.shape == [count, 2]
        };
        if file.tensors().len() != wanted.len() || !file.tensors().all(is_wanted) {
            return Err(damaged("its sums are not those its header tells of"));
        }
        Ok((Self { path: path.to_owned(), job, next, tokens }, label))
    }
}

/// The fault of a file, as one of a file that is to hold sums.
fn no_sums(fault: Error) -> Error {
    match fault {
        Error::Format { path, message } => Error::format(path, format!("is no file of sums for statistics: {message}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_the_chunks_out() {
        for of in [1, 2, 3, 8, 50] {
            let mut next = 0;
            for index in 1..=of {
                let range = Shard::new(index, of).unwrap().chunks(13);
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, 13);
        }
        assert!(Shard::new(0, 2).is_none() && Shard::new(3, 2).is_none());
        assert_eq!(Shard::new(2, 8).unwrap().to_string(), "2/8");
    }

    #[test]
    fn sums_come_back_from_their_file_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sums");
        let statistics = Provenance::of_layer(4);
        let job = Job { statistics: vec![statistics], plan_sha256: String::new(), chunks: 9, size: 3, shard: Shard::new(2, 3).unwrap() };
        let file = PartialFile::new(path.clone(), job.clone());
        assert!(PartialFile::find(&path).unwrap().is_none());
        let mut partial = job.start();
        partial.next += 2;
        partial.tokens = 77;
        partial.sums.values_mut().flat_map(FixedSum::entries_mut).enumerate().for_each(|(i, entry)| *entry = (i as i128 - 3) << 70);
        file.write(&partial).unwrap();
        let read = PartialFile::find(&path).unwrap().unwrap();
        assert_eq!((read.progress(), read.tokens, &read.job), ((2, 3), 77, &job));
        assert_eq!(read.load().unwrap(), partial);
        let bytes = std::fs::read(&path).unwrap();
        let bytes_before_sums = bytes.len() - FixedSum::count(3) * ENTRY_BYTES * job.layers().len();
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let message = PartialFile::find(&path).unwrap_err().to_string();
            assert!(message.contains("sums"), "{message}");
        }
        for place in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1 << (place % 8);
            std::fs::write(&path, bytes).unwrap();
            let found = PartialFile::find(&path).and_then(|file| file.unwrap().load());
            // A bit of the header may change nothing that is read; what is read is what was written.
            assert!(found.as_ref().is_ok_and(|found| *found == partial) || found.is_err(), "byte {place}");
            let is_sum = place >= bytes_before_sums;
            assert!(!is_sum || found.unwrap_err().to_string().contains("checksum"), "byte {place}");
        }
    }
}
