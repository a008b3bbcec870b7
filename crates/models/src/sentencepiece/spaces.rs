//! How SentencePiece changes a text before it is cut into pieces, and joins pieces to a text again.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::normalizers::{Precompiled, Sequence};
use tokenizers::{DecoderWrapper, NormalizerWrapper};

use crate::Result;
use crate::tokenizer_parts::part;

/// What SentencePiece writes for a space.
const SPACE: &str = "▁";

/// The steps between a text and the characters its pieces spell.
#[derive(Debug)]
pub(crate) struct Spaces {
    /// Characters that are replaced by others.
    pub(crate) characters: Option<Precompiled>,
    /// Whether characters are composed before that: `Precompiled` looks for long ones in their parts only, and misses those that a
    /// replacement by NFKC composes.
    pub(crate) composed: bool,
    /// Whether a space is put before the text.
    pub(crate) prefixed: bool,
    /// Whether spaces at the start and the end go, and several become one.
    pub(crate) collapsed: bool,
    /// Whether spaces become `▁`.
    pub(crate) escaped: bool,
}

impl Spaces {
    /// LLaMA's: every space of the text counts.
    pub(crate) fn kept(prefixed: bool) -> Self {
        Self { characters: None, composed: false, prefixed, collapsed: false, escaped: true }
    }

    /// Whether they leave a text's characters in their places, other than writing `▁` for a space.
    pub(crate) fn are_plain(&self) -> bool {
        self.characters.is_none() && !self.prefixed && !self.collapsed
    }

    fn space(&self) -> &'static str {
        if self.escaped { SPACE } else { " " }
    }

    /// The steps as a normalizer; `path` is named by errors.
    pub(crate) fn normalizer(&self, path: &Path) -> Result<NormalizerWrapper> {
        let regex = |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
        // The prefix comes first even if it goes again: `Precompiled` mistakes the spans of a text whose first character is removed.
        let sentinel = self.prefixed || self.characters.is_some();
        let mut before = if sentinel { vec![json!({"type": "Prepend", "prepend": SPACE})] } else { Vec::new() };
        if self.composed {
            before.push(json!({"type": "NFC"}));
        }
        let mut after = Vec::new();
        let start = if sentinel { SPACE } else { "" };
        // Of a text that begins with nothing, something has to match.
        let gone = match (self.collapsed, sentinel) {
            (true, true) => " *",
            (true, false) => " +",
            (false, _) => "",
        };
        if self.collapsed {
            after.push(regex(&format!(r"\A{start}{gone}\z"), ""));
            after.push(regex(&format!(r"[ {SPACE}]+\z"), ""));
            after.push(regex(" {2,}", " "));
        }
        let kept = if self.prefixed { SPACE } else { "" };
        if !(start.is_empty() && gone.is_empty()) && (start, gone) != (kept, "") {
            after.push(regex(&format!(r"\A{start}{gone}"), kept));
        }
        after.push(if self.escaped {
            json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
        } else {
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})
        });
        let parts = |steps: Vec<Value>| steps.into_iter().map(|step| part::<NormalizerWrapper>(path, step)).collect::<Result<Vec<_>>>();
        let mut steps = parts(before)?;
        steps.extend(self.characters.clone().map(NormalizerWrapper::Precompiled));
        steps.extend(parts(after)?);
        Ok(NormalizerWrapper::Sequence(Sequence::new(steps)))
    }

    /// The way back; `path` is named by errors.
    pub(crate) fn decoder(&self, path: &Path) -> Result<DecoderWrapper> {
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": self.space()}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.prefixed {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        part(path, json!({"type": "Sequence", "decoders": decoders}))
    }
}
