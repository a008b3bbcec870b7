use std::ops::Range;
use std::path::Path;

use easyedit_core::{CorpusText, Error, LanguageModel, Progress, Result, TokenBatch, Tokenizer};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::MomentConfig;
use super::partial::{Job, Shard};
use super::provenance::Provenance;
use super::self_text::self_written;
use crate::model_fingerprint::hex;

/// Consecutive documents that are sorted by length before they are put into chunks.
const WINDOW: usize = 1024;
/// Documents encoded at once.
const ENCODED_AT_ONCE: usize = 512;

/// Which tokens are run, in which chunks: decided by the text and the settings alone.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Documents as token ids, in the order in which they are run.
    rows: Vec<Vec<u32>>,
    chunks: Vec<Range<usize>>,
}

impl Plan {
    /// Draws, encodes and cuts the documents. `cache` keeps what the model writes itself.
    ///
    /// Without a limit that is reached, all documents are taken, otherwise those that come first in an order drawn from the seed; the
    /// last of them is cut where the limit of tokens is reached.
    pub(super) fn new(
        model: &dyn LanguageModel,
        text: &CorpusText,
        config: &MomentConfig,
        cache: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let config = config.resolved(model.spec());
        let rows = match text {
            CorpusText::Documents(documents) => encode(model.tokenizer(), documents, &config)?,
            CorpusText::SelfWritten => self_written(model, &config, cache, progress)?,
        };
        if rows.is_empty() {
            return Err(Error::Batch("there is no text to collect statistics over".into()));
        }
        Ok(Self::of_rows(rows, config.chunk_tokens.unwrap_or(1)))
    }

    /// A chunk is a run of documents of similar length which, were all as long as its longest, would have `chunk_tokens` tokens at most;
    /// a longer document is a chunk of its own.
    fn of_rows(mut rows: Vec<Vec<u32>>, chunk_tokens: usize) -> Self {
        let mut chunks = Vec::new();
        let mut start = 0;
        for window in rows.chunks_mut(WINDOW) {
            window.sort_by_key(|row| std::cmp::Reverse(row.len()));
            let end = start + window.len();
            let mut first = 0;
            while first < window.len() {
                let many = (chunk_tokens / window[first].len()).max(1).min(window.len() - first);
                chunks.push(start + first..start + first + many);
                first += many;
            }
            start = end;
        }
        Self { rows, chunks }
    }

    /// Number of chunks.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The job of collecting `statistics` of keys of width `size` over the shard's part of the plan.
    pub(super) fn job(&self, statistics: Vec<Provenance>, size: usize, shard: Shard) -> Job {
        let mut hash = Sha256::new();
        for row in &self.rows {
            hash.update((row.len() as u64).to_le_bytes());
            row.iter().for_each(|id| hash.update(id.to_le_bytes()));
        }
        Job { statistics, plan_sha256: hex(hash), chunks: self.chunks(), size, shard }
    }

    /// The documents of a chunk.
    pub(super) fn batch(&self, chunk: usize) -> Result<TokenBatch> {
        TokenBatch::new(&self.rows[self.chunks[chunk].clone()])
    }

    /// Number of tokens of some chunks.
    pub(super) fn tokens(&self, chunks: Range<usize>) -> usize {
        self.chunks[chunks].iter().map(|chunk| self.rows[chunk.clone()].iter().map(Vec::len).sum::<usize>()).sum()
    }
}

fn encode(tokenizer: &Tokenizer, documents: &[String], config: &MomentConfig) -> Result<Vec<Vec<u32>>> {
    let mut order: Vec<usize> = (0..documents.len()).collect();
    if config.samples < documents.len() || config.tokens.is_some() {
        order.shuffle(&mut StdRng::seed_from_u64(config.seed));
        order.truncate(config.samples);
    }
    let mut left = config.tokens.unwrap_or(usize::MAX);
    let mut rows: Vec<(usize, Vec<u32>)> = Vec::new();
    for indices in order.chunks(ENCODED_AT_ONCE) {
        let encoded: Result<Vec<Vec<u32>>> = indices.par_iter().map(|index| Ok(tokenizer.encode(&documents[*index])?.ids)).collect();
        for (index, mut ids) in indices.iter().zip(encoded?) {
            ids.truncate(config.document_tokens.min(left));
            left -= ids.len();
            if !ids.is_empty() {
                rows.push((*index, ids));
            }
        }
        if left == 0 {
            break;
        }
    }
    // The documents' own order, so that a limit that is not reached changes nothing.
    rows.sort_unstable_by_key(|(index, _)| *index);
    Ok(rows.into_iter().map(|(_, ids)| ids).collect())
}

/// SHA-256 of documents.
pub(super) fn corpus_hash(documents: &[String]) -> String {
    let mut hash = Sha256::new();
    for document in documents {
        hash.update((document.len() as u64).to_le_bytes());
        hash.update(document);
    }
    hex(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_documents_of_similar_length_up_to_the_budget() {
        let rows = |lengths: &[usize]| lengths.iter().map(|n| vec![0; *n]).collect::<Vec<Vec<u32>>>();
        let plan = Plan::of_rows(rows(&[3, 1, 9, 3, 2]), 6);
        let lengths: Vec<Vec<usize>> =
            (0..plan.chunks()).map(|chunk| plan.rows[plan.chunks[chunk].clone()].iter().map(Vec::len).collect()).collect();
        assert_eq!(lengths, [vec![9], vec![3, 3], vec![2, 1]]);
        assert_eq!((plan.tokens(0..1), plan.tokens(1..3), plan.batch(1).unwrap().tokens()), (9, 9, 6));
    }

    #[test]
    fn documents_are_sorted_within_windows_alone() {
        let mut lengths = vec![1; WINDOW];
        lengths.push(5);
        let plan = Plan::of_rows(lengths.iter().map(|n| vec![0; *n]).collect(), 64);
        assert_eq!(plan.chunks.last(), Some(&(WINDOW..WINDOW + 1)));
        assert_eq!(plan.chunks(), WINDOW / 64 + 1);
    }

    #[test]
    fn limits_cut_a_drawn_sample() {
        let tokenizer = easyedit_models::tiny::tiny_tokenizer().unwrap();
        let documents: Vec<String> = (0..40).map(|i| char::from(b'A' + i).to_string().repeat(10)).collect();
        let encode = |samples, tokens, seed| {
            encode(&tokenizer, &documents, &MomentConfig { samples, tokens, seed, document_tokens: 7, chunk_tokens: Some(1) }).unwrap()
        };
        let all = encode(100, None, 1);
        assert!(all.len() == 40 && all.iter().all(|row| row.len() == 7));
        assert_eq!(encode(100, Some(1000), 1), all, "a limit that is not reached changes nothing");
        let some = encode(100, Some(24), 1);
        assert_eq!(some.iter().map(Vec::len).sum::<usize>(), 24);
        assert_eq!(some.iter().filter(|row| row.len() == 7).count(), 3);
        assert_ne!(some, encode(100, Some(24), 2), "another seed draws others");
        assert_eq!(encode(5, None, 1).len(), 5);
    }
}
