use std::ops::Range;
use std::sync::Arc;

use crate::{Error, Result};

/// A text as token ids, with the bytes of the text each token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte range of each token in the text; empty for tokens the tokenizer adds (BOS, EOS).
    pub spans: Vec<Range<usize>>,
}

/// A tokenizer with the special tokens its model was trained with.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    eos: Vec<u32>,
}

impl Tokenizer {
    /// Wraps a tokenizer; generation ends at any of the ids `eos`.
    pub fn new(inner: tokenizers::Tokenizer, eos: Vec<u32>) -> Self {
        let mut inner = inner;
        // Sequences are never padded here, and never cut without being asked to.
        inner.with_padding(None);
        let _ = inner.with_truncation(None);
        Self { inner: Arc::new(inner), eos }
    }

    /// Encodes a text as the start of a sequence, with the special tokens (BOS) the tokenizer puts around it; one put behind the
    /// text (EOS) is left off, because the text is to be continued.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] if the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Encoding> {
        let encoding = self.inner.encode(text, true).map_err(|e| Error::Tokenizer(format!("cannot encode {text:?}: {e}")))?;
        let mut ids = encoding.get_ids().to_vec();
        let mut spans: Vec<Range<usize>> = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        let mut added = encoding.get_special_tokens_mask().to_vec();
        while ids.len() > 1 && added.last() == Some(&1) && spans.last().is_some_and(Range::is_empty) {
            ids.pop();
            spans.pop();
            added.pop();
        }
        Ok(Encoding { ids, spans })
    }

    /// Ids of a text that stands for itself: with the special tokens the tokenizer puts before it and behind it (EOS). What an
    /// encoder reads.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, true)
    }

    /// Ids of a text without special tokens around it: a piece to be put behind others.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, false)
    }

    fn ids(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, special).map_err(|e| Error::Tokenizer(format!("cannot encode {text:?}: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Decodes ids, leaving special tokens out.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] if an id is unknown.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|e| Error::Tokenizer(format!("cannot decode {ids:?}: {e}")))
    }

    /// Ids that end a text.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The largest token id plus one.
    pub fn id_bound(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1)
    }

    /// The wrapped tokenizer.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_are_kept_behind_a_whole_text_alone() {
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
            "added_tokens": [], "pre_tokenizer": { "type": "Whitespace" },
            "model": { "type": "WordLevel", "vocab": { "<s>": 0, "</s>": 1, "who": 2, "knows": 3 }, "unk_token": "who" },
            "post_processor": {
                "type": "TemplateProcessing", "pair": [],
                "single": [
                    { "SpecialToken": { "id": "<s>", "type_id": 0 } },
                    { "Sequence": { "id": "A", "type_id": 0 } },
                    { "SpecialToken": { "id": "</s>", "type_id": 0 } },
                ],
                "special_tokens": {
                    "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] },
                    "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] },
                },
            },
        });
        let tokenizer = Tokenizer::new(tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap(), vec![1]);
        assert_eq!(tokenizer.encode("who knows").unwrap().ids, [0, 2, 3]);
        assert_eq!(tokenizer.encode_whole("who knows").unwrap(), [0, 2, 3, 1]);
        assert_eq!(tokenizer.encode_bare("who knows").unwrap(), [2, 3]);
        assert!(tokenizer.encode_bare("").unwrap().is_empty());
    }
}
