use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::tokenizer_limits::{check_text, explain, limit_patterns};
use crate::{Error, Result, catch_panic};

/// Characters of a text, and ids of a sequence, that an error shows.
const SHOWN: usize = 60;

/// A text as token ids, with the bytes of the text each token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte range of each token in the text; empty for tokens the tokenizer adds (BOS, EOS).
    pub spans: Vec<Range<usize>>,
}

/// A tokenizer with the special tokens its model was trained with.
///
/// What its file makes of a text is bounded: patterns have a limit of steps, texts one of bytes, and a panic inside the tokenizer is an
/// error.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    eos: Vec<u32>,
    origin: Option<Arc<Path>>,
}

impl Tokenizer {
    /// Wraps a tokenizer; generation ends at any of the ids `eos`. From then on the patterns of all tokenizers of the process have a limit
    /// of steps.
    pub fn new(inner: tokenizers::Tokenizer, eos: Vec<u32>) -> Self {
        limit_patterns();
        let mut inner = inner;
        // Sequences are never padded here, and never cut without being asked to.
        inner.with_padding(None);
        let _ = inner.with_truncation(None);
        Self { inner: Arc::new(inner), eos, origin: None }
    }

    /// The tokenizer, with the file it comes from: errors name it.
    #[must_use]
    pub fn with_origin(mut self, file: impl Into<PathBuf>) -> Self {
        let file: PathBuf = file.into();
        self.origin = Some(file.into());
        self
    }

    /// Encodes a text as the start of a sequence, with the special tokens (BOS) the tokenizer puts around it; one put behind the
    /// text (EOS) is left off, because the text is to be continued.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] if the tokenizer refuses the text or takes too many steps on it, or if the text is too long to be encoded at
    /// once.
    pub fn encode(&self, text: &str) -> Result<Encoding> {
        let encoding = self.encoded(text, true)?;
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
        Ok(self.encoded(text, special)?.get_ids().to_vec())
    }

    fn encoded(&self, text: &str, special: bool) -> Result<tokenizers::Encoding> {
        let encode = || {
            check_text(&self.inner, text)?;
            self.inner.encode(text, special).map_err(|e| e.to_string())
        };
        catch_panic(encode).unwrap_or_else(|panic| Err(explain(&panic))).map_err(|problem| {
            let more = if text.chars().nth(SHOWN).is_some() { "..." } else { "" };
            let shown: String = text.chars().take(SHOWN).collect();
            self.error(format!("cannot encode {shown:?}{more}: {problem}"))
        })
    }

    /// Decodes ids, leaving special tokens out.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] if an id is unknown, or the tokenizer fails on them.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let decode = || self.inner.decode(ids, true).map_err(|e| e.to_string());
        catch_panic(decode).unwrap_or_else(|panic| Err(explain(&panic))).map_err(|problem| {
            let more = if ids.len() > SHOWN { "..." } else { "" };
            let shown = ids.get(..SHOWN).unwrap_or(ids);
            self.error(format!("cannot decode {shown:?}{more}: {problem}"))
        })
    }

    fn error(&self, message: String) -> Error {
        let origin = self.origin.as_ref().map(|file| format!("{}: ", file.display())).unwrap_or_default();
        Error::Tokenizer(format!("{origin}{message}"))
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

    /// A tokenizer of single characters, with more parts.
    fn with_parts(parts: serde_json::Value) -> Tokenizer {
        let mut json = serde_json::json!({
            "version": "1.0", "added_tokens": [],
            "model": { "type": "WordLevel", "vocab": { "?": 0, "a": 1 }, "unk_token": "?" },
        });
        json.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
        Tokenizer::new(tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap(), Vec::new()).with_origin("tokenizer.json")
    }

    #[track_caller]
    fn refuses(tokenizer: &Tokenizer, text: &str, part: &str) {
        let message = tokenizer.encode(text).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json: cannot encode") && message.contains(part) && message.len() < 500, "{message}");
        assert!(tokenizer.encode_bare(text).is_err() && tokenizer.encode_whole(text).is_err());
    }

    #[test]
    fn patterns_that_step_back_without_end_are_stopped() {
        let text = "w1 The author of Green aaaaaaaaaaaaaaaaaaaaaaaaaaaaaab";
        let groups = (0..6).map(|n| format!(r"(?<g{n}>{}){{0}}", format!(r"\g<g{}>", n + 1).repeat(10))).collect::<String>();
        for pattern in [r"(a+)+$", r"(a*)*$", r"(?:a|a)+$", &format!(r"{groups}(?<g6>(?=w)){{0}}\g<g0>")] {
            let split = serde_json::json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
            refuses(&with_parts(serde_json::json!({"pre_tokenizer": split})), text, "too many steps");
            let replace = serde_json::json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": "b"});
            refuses(&with_parts(serde_json::json!({"normalizer": replace})), text, "too many steps");
        }
    }

    #[test]
    fn panics_of_parts_are_errors() {
        let cut = serde_json::json!({"type": "FixedLength", "length": 0});
        refuses(&with_parts(serde_json::json!({"pre_tokenizer": cut})), "a", "contradict");
        let strip = serde_json::json!({"type": "Strip", "content": "a", "start": 0, "stop": 9});
        let message = with_parts(serde_json::json!({"decoder": strip})).decode(&[1; 1000]).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json: cannot decode") && message.contains("contradict") && message.len() < 500, "{message}");
    }

    #[test]
    fn texts_that_are_or_become_too_long_are_refused() {
        let plain = with_parts(serde_json::json!({}));
        refuses(&plain, &"a".repeat((16 << 20) + 1), "split it");
        let replace = serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": "b".repeat(1000)});
        let longer = with_parts(serde_json::json!({"normalizer": replace}));
        refuses(&longer, &"a".repeat(68_000), "the tokenizer's normalizer makes more than");
        assert_eq!(longer.encode(&"a".repeat(5000)).unwrap().ids, [0]);
    }

    #[test]
    fn long_runs_of_one_kind_are_encoded() {
        let words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let split = serde_json::json!({"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false});
        let tokenizer = with_parts(serde_json::json!({"pre_tokenizer": split}));
        for run in ["a", " ", "\n", "é", "!"] {
            assert!(!tokenizer.encode(&run.repeat(200_000)).unwrap().ids.is_empty(), "{run:?}");
        }
    }

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
