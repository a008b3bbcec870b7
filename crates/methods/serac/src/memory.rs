//! The memory of edits, and how it is kept in an overlay.

use std::collections::BTreeMap;

use easyedit_core::tokens::join_target;
use easyedit_core::{CheckedRequest, Error, Matrix, Overlay, Result};
use serde::{Deserialize, Serialize};

use crate::ScopeClassifier;

/// Newest layout of the overlay's data.
const VERSION: u32 = 1;
/// Name of the tensor of all embeddings, `[entries, width]`.
const EMBEDDINGS: &str = "embeddings";

/// One edit in the memory: the request's own strings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `case_id` of the request.
    pub case_id: usize,
    /// Its prompt.
    pub prompt: String,
    /// Its new target, without spaces around it.
    pub target: String,
}

impl Entry {
    /// What the counterfactual model reads before a query: prompt, target, and one space.
    pub fn context(&self, query: &str) -> String {
        format!("{} {query}", join_target(&self.prompt, &self.target))
    }
}

/// Edits in the order in which they were made, with the embeddings of their prompts.
///
/// An edit of the same prompt as an earlier one takes its place in use, but not in the memory: without it, the earlier one counts again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    entries: Vec<Entry>,
    /// One row an entry; none if memory and query are read together.
    embeddings: Vec<Vec<f32>>,
}

/// What is no tensor.
#[derive(Serialize, Deserialize)]
struct Data {
    version: u32,
    /// Fingerprint of the classifier that made the embeddings.
    #[serde(default)]
    classifier: String,
    edits: Vec<Entry>,
}

impl Memory {
    /// A memory of requests, whose prompts the classifier embeds.
    ///
    /// # Errors
    ///
    /// If the classifier's tokenizer refuses a prompt.
    pub fn of(requests: &[CheckedRequest], classifier: &ScopeClassifier) -> Result<Self> {
        let entry = |request: &CheckedRequest| Entry {
            case_id: request.case_id(),
            prompt: request.prompt().to_owned(),
            target: request.target_new().trim().to_owned(),
        };
        let mut memory = Self { entries: requests.iter().map(entry).collect(), embeddings: Vec::new() };
        memory.embed(classifier)?;
        Ok(memory)
    }

    /// Embeds all prompts anew.
    fn embed(&mut self, classifier: &ScopeClassifier) -> Result<()> {
        self.embeddings.clear();
        if self.entries.is_empty() || classifier.rules().cross_attend {
            return Ok(());
        }
        let prompts: Vec<&str> = self.entries.iter().map(|entry| entry.prompt.trim()).collect();
        let embedded = classifier.embed(&prompts)?;
        self.embeddings = embedded.values().chunks(classifier.width().max(1)).map(<[f32]>::to_vec).collect();
        Ok(())
    }

    /// The edits, in their order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Embeddings of their prompts; empty if memory and query are read together.
    pub(crate) fn embeddings(&self) -> &[Vec<f32>] {
        &self.embeddings
    }

    /// Puts the edits of `later` behind these.
    pub fn extend(&mut self, later: &Self) {
        self.entries.extend(later.entries.iter().cloned());
        self.embeddings.extend(later.embeddings.iter().cloned());
    }

    /// The memory as an overlay: texts as data, and the tensor `embeddings: [entries, width]`. `classifier` is the fingerprint of the classifier.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there are no edits, or embeddings differ in width.
    pub fn to_overlay(&self, classifier: &str) -> Result<Overlay> {
        if self.entries.is_empty() {
            return Err(Error::Batch("a memory without edits is none".into()));
        }
        let data = Data { version: VERSION, classifier: classifier.to_owned(), edits: self.entries.clone() };
        let mut tensors = BTreeMap::new();
        if let Some(first) = self.embeddings.first() {
            let values: Vec<f32> = self.embeddings.iter().flatten().copied().collect();
            let embeddings = Matrix::new(self.embeddings.len(), first.len(), values);
            tensors.insert(EMBEDDINGS.to_owned(), embeddings.ok_or_else(|| Error::Batch("embeddings differ in width".into()))?);
        }
        Ok(Overlay { data: serde_json::to_value(data).map_err(Error::other)?, tensors })
    }

    /// The memory of an overlay. Embeddings that another classifier than that of the fingerprint `fingerprint` made are made anew.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if the overlay is no memory, or its embeddings do not fit.
    pub fn from_overlay(overlay: &Overlay, classifier: &ScopeClassifier, fingerprint: &str) -> Result<Self> {
        let data = data_of(overlay)?;
        let mut memory = Self { entries: data.edits, embeddings: Vec::new() };
        if data.classifier != fingerprint {
            tracing::warn!("the memory was made with another scope classifier; its prompts are embedded anew");
            memory.embed(classifier)?;
        } else if !classifier.rules().cross_attend {
            let embeddings = overlay.tensor(EMBEDDINGS, [memory.entries.len(), classifier.width()])?;
            memory.embeddings = embeddings.values().chunks(classifier.width().max(1)).map(<[f32]>::to_vec).collect();
        }
        Ok(memory)
    }
}

/// The overlay of a memory of `count` edits without those at the places `forgotten`; `None` if none is left.
///
/// # Errors
///
/// [`Error::Tensor`] if the overlay is no such memory.
pub(crate) fn without(overlay: &Overlay, count: usize, forgotten: &[usize]) -> Result<Overlay> {
    let mut data = data_of(overlay)?;
    let kept: Vec<usize> = (0..count).filter(|place| !forgotten.contains(place)).collect();
    if data.edits.len() != count {
        return Err(Error::tensor(EMBEDDINGS, format!("the overlay of {count} edits holds {}", data.edits.len())));
    }
    let mut tensors = BTreeMap::new();
    for (name, matrix) in &overlay.tensors {
        if matrix.shape()[0] != count {
            return Err(Error::tensor(name, format!("holds {} rows in the overlay of {count} edits", matrix.shape()[0])));
        }
        tensors.insert(name.clone(), matrix.select_rows(&kept));
    }
    data.edits = kept.iter().filter_map(|place| data.edits.get(*place).cloned()).collect();
    Ok(Overlay { data: serde_json::to_value(data).map_err(Error::other)?, tensors })
}

fn data_of(overlay: &Overlay) -> Result<Data> {
    let version = overlay.data.get("version").and_then(serde_json::Value::as_u64);
    if version.is_some_and(|version| version > u64::from(VERSION)) {
        return Err(Error::tensor(EMBEDDINGS, "the edit's overlay is newer than this program reads; update easyedit"));
    }
    let data: Data = serde_json::from_value(overlay.data.clone())
        .map_err(|error| Error::tensor(EMBEDDINGS, format!("the edit's overlay is no memory of SERAC: {error}")))?;
    match data.edits.iter().find(|edit| edit.prompt.trim().is_empty() || edit.target.trim().is_empty()) {
        Some(edit) => Err(Error::tensor(EMBEDDINGS, format!("the memory's edit {} has an empty prompt or target", edit.case_id))),
        None => Ok(data),
    }
}
