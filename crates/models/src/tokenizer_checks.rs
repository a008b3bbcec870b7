//! What a `tokenizer.json` may ask for, checked before anything is built of it.
//!
//! The file is a small program: its steps rewrite, cut and repeat a text. The tokenizers crate takes them on trust, so what they make of a
//! text is bounded here: a step is refused that cannot work, or that makes much more of a text than any tokenizer does.

use base64::Engine;
use easyedit_core::catch_panic;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use crate::sentencepiece::charsmap_growth;

/// Steps of all kinds together; the longest known tokenizers have ten.
const MAX_STEPS: usize = 64;
/// Bytes that normalizer and pre-tokenizer may make of one. Estimates are generous: T5's come to 500, ALBERT's to 2,000.
const MAX_GROWTH: u64 = 4096;
/// Bytes that they may add to a text.
const MAX_PREFIX_BYTES: u64 = 64 << 10;
/// Bytes that the decoder may make of one of a token.
const MAX_DECODED_GROWTH: u64 = 256;
/// Tokens that are put around a text; known tokenizers put three.
const MAX_FRAME_TOKENS: usize = 1024;
/// Longest pattern; the longest known has 500 bytes.
const MAX_PATTERN_BYTES: usize = 16 << 10;
/// Longest token of a vocabulary; the longest known are runs of some hundred spaces.
pub(crate) const MAX_TOKEN_BYTES: usize = 4096;
/// Longest added token. A hundred of them become an automaton that takes a kilobyte for each of their bytes.
pub(crate) const MAX_ADDED_BYTES: usize = 1024;
/// Longest mark at the beginning or the end of a part of a word (`##`, `</w>`), which is added to every part that is looked up.
const MAX_AFFIX_BYTES: usize = 64;
/// Longest word that WordPiece takes apart (BERT's: 100): it looks up every part of it.
const MAX_WORD_CHARS: u64 = 1000;
/// What Unicode's normal forms make of a byte at most, however often they are applied: 33 bytes of the 3 of U+FDFA.
const UNICODE_GROWTH: u64 = 11;

/// What is checked of the file; the vocabulary is walked through, not kept.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Option<Vec<Added>>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    content: String,
    #[serde(default)]
    normalized: Option<bool>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: Longest,
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    end_of_word_suffix: Value,
    #[serde(default)]
    max_input_chars_per_word: Value,
}

/// Checks the content of a `tokenizer.json`.
///
/// # Errors
///
/// What is wrong, beginning with the part it is wrong in.
pub(crate) fn check(bytes: &[u8]) -> Result<(), String> {
    let parts: Parts = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let mut steps = 0;
    let mut text = Growth::default();
    walk(&parts.normalizer, "normalizer", "normalizers", &mut steps, &mut |step, name| normalizer(step, name, &mut text))?;
    walk(&parts.pre_tokenizer, "pre_tokenizer", "pretokenizers", &mut steps, &mut |step, name| pre_tokenizer(step, name, &mut text))?;
    let mut frame = Frame { tokens: 0 };
    walk(&parts.post_processor, "post_processor", "processors", &mut steps, &mut |step, _| frame.add(step))?;
    let mut decoded = 1;
    walk(&parts.decoder, "decoder", "decoders", &mut steps, &mut |step, name| decoder(step, name, &mut decoded))?;
    model(&parts.model).map_err(|problem| format!("model: {problem}"))?;
    added_tokens(parts.added_tokens.as_deref().unwrap_or_default(), &parts.normalizer)
}

/// A check of a step, which is given with its type.
type Check<'a> = dyn FnMut(&Map<String, Value>, &str) -> Result<(), String> + 'a;

/// Calls `check` with each step of a part, in order, and its type; a sequence (a list under `list`) is its steps.
fn walk(step: &Value, place: &str, list: &str, steps: &mut usize, check: &mut Check<'_>) -> Result<(), String> {
    let Value::Object(map) = step else { return Ok(()) };
    *steps += 1;
    if *steps > MAX_STEPS {
        return Err(format!("{place}: there are more than {MAX_STEPS} steps"));
    }
    if let Some(Value::Array(inner)) = map.get(list) {
        return inner.iter().enumerate().try_for_each(|(index, step)| walk(step, &format!("{place}[{index}]"), list, steps, check));
    }
    let name = map.get("type").and_then(Value::as_str).unwrap_or_default();
    check(map, name).map_err(|problem| format!("{place} ({}): {problem}", if name.is_empty() { "no type" } else { name }))
}

/// What becomes of a text of `n` bytes: at most `factor * n + added`.
struct Growth {
    factor: u64,
    added: u64,
    unicode: bool,
}

impl Default for Growth {
    fn default() -> Self {
        Self { factor: 1, added: 0, unicode: false }
    }
}

impl Growth {
    fn step(&mut self, factor: u64, added: usize) -> Result<(), String> {
        self.factor = self.factor.saturating_mul(factor);
        self.added = self.added.saturating_mul(factor).saturating_add(added as u64);
        if self.factor > MAX_GROWTH {
            return Err(format!("with the steps before it, can make more than {MAX_GROWTH} bytes of one; no tokenizer does"));
        }
        if self.added > MAX_PREFIX_BYTES {
            return Err(format!("with the steps before it, adds more than {MAX_PREFIX_BYTES} bytes to a text; no tokenizer does"));
        }
        Ok(())
    }
}

fn normalizer(step: &Map<String, Value>, name: &str, growth: &mut Growth) -> Result<(), String> {
    if let (Some(pattern), Some(content)) = (step.get("pattern"), text(step, "content")) {
        return growth.step(replacement(pattern, content)?, 0);
    }
    if let Some(prepended) = text(step, "prepend") {
        return growth.step(1, prepended.len());
    }
    if let Some(map) = text(step, "precompiled_charsmap") {
        let map = base64::engine::general_purpose::STANDARD.decode(map).map_err(|e| format!("its map is not base64: {e}"))?;
        return growth.step(charsmap_growth(&map)?, 0);
    }
    let factor = match name {
        "NFC" | "NFD" | "NFKC" | "NFKD" if std::mem::replace(&mut growth.unicode, true) => 1,
        "Strip" | "StripNormalizer" | "StripAccents" | "Nmt" => 1,
        "Lowercase" | "ByteLevel" => 2,
        "Bert" | "BertNormalizer" => 3,
        _ => UNICODE_GROWTH,
    };
    growth.step(factor, 0)
}

fn pre_tokenizer(step: &Map<String, Value>, name: &str, growth: &mut Growth) -> Result<(), String> {
    if let Some(pattern) = step.get("pattern") {
        check_pattern(pattern)?;
    }
    if step.get("length").is_some_and(|length| length.as_u64() == Some(0)) {
        return Err("cuts a text into pieces of 0 characters".to_owned());
    }
    let prefixed = step.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true);
    let replacement = text(step, "replacement").map(str::len);
    let factor = match (name, replacement) {
        // One more byte for each piece, which may be of one byte.
        ("ByteLevel", _) => 2 * (1 + u64::from(prefixed)),
        (_, Some(bytes)) => 1 + bytes as u64,
        ("", None) => 4,
        _ => 1,
    };
    growth.step(factor, 0)
}

/// What is put around a text.
struct Frame {
    tokens: usize,
}

impl Frame {
    fn add(&mut self, step: &Map<String, Value>) -> Result<(), String> {
        let Some(Value::Array(pieces)) = step.get("single") else { return Ok(()) };
        let tokens = step.get("special_tokens").and_then(Value::as_object);
        let mut texts = 0;
        for piece in pieces {
            texts += usize::from(piece.get("Sequence").is_some());
            let id = piece.get("SpecialToken").and_then(|token| token.get("id")).and_then(Value::as_str);
            let ids = id.and_then(|id| tokens?.get(id)?.get("ids")?.as_array());
            self.tokens += ids.map_or(1, Vec::len);
        }
        if texts > 1 {
            return Err(format!("repeats a text {texts} times"));
        }
        if self.tokens > MAX_FRAME_TOKENS {
            return Err(format!("puts more than {MAX_FRAME_TOKENS} tokens around a text"));
        }
        Ok(())
    }
}

fn decoder(step: &Map<String, Value>, name: &str, growth: &mut u64) -> Result<(), String> {
    let factor = match (step.get("pattern"), text(step, "content")) {
        (Some(pattern), Some(content)) => replacement(pattern, content)?,
        // What is not UTF-8 becomes U+FFFD.
        _ if matches!(name, "ByteLevel" | "ByteFallback") => 3,
        // A space before each token, or, with an empty mark, before each character.
        _ => 2,
    };
    *growth = growth.saturating_mul(factor);
    if *growth > MAX_DECODED_GROWTH && factor > 1 {
        return Err(format!("with the steps before it, can make more than {MAX_DECODED_GROWTH} bytes of one; no tokenizer does"));
    }
    Ok(())
}

/// How many bytes a replacement makes of one.
fn replacement(pattern: &Value, content: &str) -> Result<u64, String> {
    check_pattern(pattern)?;
    match pattern.get("String").and_then(Value::as_str) {
        Some("") => Err("replaces the empty text, which is everywhere".to_owned()),
        Some(text) => Ok(content.len().div_ceil(text.len()).max(1) as u64),
        // A pattern may match nothing between any two characters.
        None => Ok(content.len() as u64 + 1),
    }
}

fn check_pattern(pattern: &Value) -> Result<(), String> {
    let regex = pattern.get("Regex").and_then(Value::as_str);
    let bytes = regex.or_else(|| pattern.get("String").and_then(Value::as_str)).map_or(0, str::len);
    if bytes > MAX_PATTERN_BYTES {
        return Err(format!("its pattern has {bytes} bytes, at most {MAX_PATTERN_BYTES} are possible"));
    }
    // Oniguruma's time for compiling these grows without bound: each level of nesting multiplies it.
    let mut rest = regex.unwrap_or_default();
    while let Some(next) = rest.chars().next() {
        let found = [(r"\g", "calls its own groups"), ("(?(", "has a condition")].into_iter().find(|(start, _)| rest.starts_with(start));
        if let Some((start, what)) = found {
            return Err(format!("its pattern {what} ({start}), which no tokenizer needs"));
        }
        let escaped = if next == '\\' { rest.chars().nth(1) } else { None };
        rest = rest.get(next.len_utf8() + escaped.map_or(0, char::len_utf8)..).unwrap_or_default();
    }
    Ok(())
}

fn model(model: &Model) -> Result<(), String> {
    let longest = model.vocab.0;
    if longest > MAX_TOKEN_BYTES {
        return Err(format!("vocab holds a token of {longest} bytes, at most {MAX_TOKEN_BYTES} are possible"));
    }
    for (key, value, most) in [
        ("unk_token", &model.unk_token, MAX_TOKEN_BYTES),
        ("continuing_subword_prefix", &model.continuing_subword_prefix, MAX_AFFIX_BYTES),
        ("end_of_word_suffix", &model.end_of_word_suffix, MAX_AFFIX_BYTES),
    ] {
        let bytes = value.as_str().map_or(0, str::len);
        if bytes > most {
            return Err(format!("{key} has {bytes} bytes, at most {most} are possible"));
        }
    }
    match &model.max_input_chars_per_word {
        Value::Number(chars) if chars.as_u64().is_none_or(|chars| chars > MAX_WORD_CHARS) => {
            Err(format!("max_input_chars_per_word is {chars}, at most {MAX_WORD_CHARS} are possible"))
        }
        _ => Ok(()),
    }
}

fn added_tokens(tokens: &[Added], normalizer: &Value) -> Result<(), String> {
    let too_long = |index: usize, bytes: usize, what: &str| {
        Err(format!("added_tokens[{index}]: has {bytes} bytes{what}, at most {MAX_ADDED_BYTES} are possible"))
    };
    for (index, token) in tokens.iter().enumerate() {
        if token.content.len() > MAX_ADDED_BYTES {
            return too_long(index, token.content.len(), "");
        }
    }
    if normalizer.is_null() || tokens.iter().all(|token| token.normalized == Some(false)) {
        return Ok(());
    }
    let built = catch_panic(|| serde_json::from_value::<NormalizerWrapper>(normalizer.clone()));
    let normalizer = built.unwrap_or_else(|panic| Err(serde::de::Error::custom(panic))).map_err(|e| format!("normalizer: {e}"))?;
    for (index, token) in tokens.iter().enumerate().filter(|(_, token)| token.normalized != Some(false)) {
        let mut text = NormalizedString::from(token.content.as_str());
        let done = catch_panic(|| normalizer.normalize(&mut text).map_err(|e| e.to_string()));
        done.unwrap_or_else(Err).map_err(|e| format!("added_tokens[{index}]: the normalizer fails on it ({e})"))?;
        if text.get().len() > MAX_ADDED_BYTES {
            return too_long(index, text.get().len(), " when it is normalized");
        }
    }
    Ok(())
}

fn text<'a>(step: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    step.get(key).and_then(Value::as_str)
}

/// The length of the longest text in a value, whatever its form: a map from tokens to ids, or a list of tokens with scores.
#[derive(Default)]
struct Longest(usize);

impl<'de> Deserialize<'de> for Longest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self(0))
    }
}

impl<'de> Visitor<'de> for Longest {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self, E> {
        Ok(Self(text.len()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self, A::Error> {
        while let Some(inner) = list.next_element::<Self>()? {
            self.0 = self.0.max(inner.0);
        }
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some((key, value)) = map.next_entry::<Self, Self>()? {
            self.0 = self.0.max(key.0).max(value.0);
        }
        Ok(self)
    }
}
