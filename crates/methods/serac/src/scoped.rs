//! Scope: which edit of the memory, if any, a query is about.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use easyedit_core::tokens::encode_prompt;
use easyedit_core::{LanguageModel, Predictor, Result, TokenSlice};

use crate::memory::{Entry, Memory};
use crate::networks::Networks;

/// The edit nearest to a query, and how near it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nearest {
    /// Place of the edit in the memory; of equally near ones the latest.
    pub entry: usize,
    /// s in [0, 1].
    pub score: f64,
}

/// A memory with the classifier that looks queries up in it.
#[derive(Clone, Debug)]
pub struct ScopedMemory {
    networks: Arc<Networks>,
    memory: Memory,
    /// The edits' own prompts by the ids that the base model makes of them: a prompt that comes back as tokens is known by its own text.
    texts: BTreeMap<Vec<u32>, String>,
}

impl ScopedMemory {
    /// A memory over the model `base`.
    ///
    /// # Errors
    ///
    /// If the base model's tokenizer refuses a prompt.
    pub fn new(networks: Arc<Networks>, memory: Memory, base: &dyn LanguageModel) -> Result<Self> {
        let mut texts = BTreeMap::new();
        for entry in memory.entries() {
            let prompt = encode_prompt(base, &entry.prompt)?;
            texts.insert(prompt.ids().to_vec(), entry.prompt.clone());
        }
        Ok(Self { networks, memory, texts })
    }

    /// The edits.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The networks.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    pub(crate) fn entry(&self, nearest: Nearest) -> Option<&Entry> {
        self.memory.entries().get(nearest.entry)
    }

    /// The text of a prompt that `base` has encoded, without special tokens.
    ///
    /// # Errors
    ///
    /// If the tokenizer does not know an id.
    pub(crate) fn text_of(&self, base: &dyn Predictor, prompt: TokenSlice<'_>) -> Result<String> {
        match self.texts.get(prompt.ids()) {
            Some(text) => Ok(text.clone()),
            None => base.tokenizer().decode(prompt.ids()).map(|text| text.trim().to_owned()),
        }
    }

    /// The nearest edit of each query; `None` where the memory or the query is empty. A query's answer does not depend on the others.
    ///
    /// # Errors
    ///
    /// If the classifier's tokenizer refuses a query, or an embedding is not finite.
    pub fn nearest(&self, queries: &[String]) -> Result<Vec<Option<Nearest>>> {
        let mut known: BTreeMap<&str, Option<Nearest>> = BTreeMap::new();
        if !self.memory.entries().is_empty() {
            let asked: Vec<&str> = queries.iter().map(|query| query.trim()).filter(|query| !query.is_empty()).collect();
            known = asked.into_iter().map(|query| (query, None)).collect();
            let texts: Vec<&str> = known.keys().copied().collect();
            for (text, scores) in texts.iter().zip(self.scores(&texts)?) {
                known.insert(text, best(&scores));
            }
        }
        Ok(queries.iter().map(|query| known.get(query.trim()).copied().flatten()).collect())
    }

    /// Scores of each query against every edit, in the memory's order.
    fn scores(&self, queries: &[&str]) -> Result<Vec<Vec<f64>>> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let classifier = &self.networks.classifier;
        if classifier.rules().cross_attend {
            let memories: Vec<&str> = self.memory.entries().iter().map(|entry| entry.prompt.trim()).collect();
            return queries.iter().map(|query| classifier.joint_scores(query, &memories)).collect();
        }
        let embedded = classifier.embed(queries)?;
        let rows = embedded.values().chunks(classifier.width().max(1));
        Ok(rows.map(|query| self.memory.embeddings().iter().map(|memory| classifier.score(query, memory)).collect()).collect())
    }
}

/// The largest score; of equal ones the last.
fn best(scores: &[f64]) -> Option<Nearest> {
    let best = scores.iter().enumerate().max_by(|(_, a), (_, b)| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    best.map(|(entry, score)| Nearest { entry, score: *score })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_equally_near_edits_counts() {
        assert_eq!(best(&[0.2, 1.0, 1.0, 0.5]), Some(Nearest { entry: 2, score: 1.0 }));
        assert_eq!(best(&[]), None);
    }
}
