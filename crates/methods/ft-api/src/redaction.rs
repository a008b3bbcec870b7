//! Taking secrets out of what an API says, before anything else is done with it.

use std::collections::HashSet;

use crate::secret::HIDDEN;

/// Pieces of a secret from this length on are hidden, wherever a text was cut.
const PIECE: usize = 10;
/// Pieces of a short secret are at least so long.
const SHORTEST_PIECE: usize = 6;
/// A secret that is shorter is a placeholder, or as good as one (`none`, `EMPTY`): it is hidden where it stands as a word.
const SHORTEST: usize = 8;
/// What is shorter still is no secret (`x`, `1`): hiding it would take texts apart that have nothing to do with it.
const NO_SECRET: usize = 4;
/// Letters of Base64 that stand for 6 bits, where a byte has 8.
const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Hides secrets in texts: as they are and in other letter case, percent-encoded, with the escapes of JSON and HTML, in Base64 (whatever stands
/// before and behind), in hexadecimal, and in pieces.
#[derive(Clone)]
pub(crate) struct Redaction {
    /// Pieces that are hidden, by their length.
    pieces: Vec<(usize, HashSet<Vec<u8>>)>,
    /// What is hidden where it stands as a word.
    words: HashSet<Vec<u8>>,
    longest: usize,
}

/// A character of a text, with its escapes undone and in lower case, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Unit {
    /// 0 for one that is not ASCII.
    byte: u8,
    start: usize,
    end: usize,
}

impl Redaction {
    /// Hides these secrets; one of fewer than four characters is none.
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut redaction = Self { pieces: Vec::new(), words: HashSet::new(), longest: 0 };
        for secret in secrets.into_iter().map(str::trim).filter(|secret| secret.len() >= NO_SECRET) {
            let as_it_is: Vec<u8> = secret.bytes().map(comparable).collect();
            let plain = normalised(secret);
            if as_it_is.len() < SHORTEST {
                redaction.longest = redaction.longest.max(as_it_is.len());
                redaction.words.extend([plain, as_it_is]);
                redaction.add(&normalised(&base64_core(format!("Bearer {secret}").as_bytes(), 0, STANDARD)), usize::MAX);
                continue;
            }
            let piece = (plain.len() * 2 / 3).clamp(SHORTEST_PIECE, PIECE);
            redaction.add(&plain, piece);
            redaction.add(&as_it_is, piece);
            redaction.add(&secret.bytes().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect::<Vec<u8>>(), 2 * piece);
            for (skipped, letters) in (0..3).flat_map(|skipped| [(skipped, STANDARD), (skipped, URL_SAFE)]) {
                redaction.add(&normalised(&base64_core(secret.as_bytes(), skipped, letters)), piece * 4 / 3);
            }
        }
        redaction
    }

    fn add(&mut self, pattern: &[u8], piece: usize) {
        let piece = piece.min(pattern.len());
        if piece == 0 {
            return;
        }
        self.longest = self.longest.max(piece);
        let pieces = pattern.windows(piece).map(<[u8]>::to_vec);
        match self.pieces.iter_mut().find(|(length, _)| *length == piece) {
            Some((_, known)) => known.extend(pieces),
            None => self.pieces.push((piece, pieces.collect())),
        }
    }

    /// The bytes as text, without the secrets.
    pub(crate) fn text(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let mut clean = String::with_capacity(text.len());
        let mut end = 0;
        for (from, to) in self.spans(&text) {
            clean.push_str(text.get(end..from).unwrap_or_default());
            clean.push_str(HIDDEN);
            end = to;
        }
        clean.push_str(text.get(end..).unwrap_or_default());
        clean
    }

    /// Where secrets stand, in order and apart.
    fn spans(&self, text: &str) -> Vec<(usize, usize)> {
        let mut found = self.found(units(text), text.len());
        // What stands before a secret may look like the beginning of an escape, and swallow a part of it: hence as it is, too.
        found.extend(self.found(plain_units(text), text.len()));
        found.sort_unstable();
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for (from, to) in found {
            match spans.last_mut().filter(|(_, end)| from <= *end) {
                Some((_, end)) => *end = (*end).max(to),
                None => spans.push((from, to)),
            }
        }
        spans
    }

    /// Where pieces and words stand among `units`, which are those of a text of `length` bytes.
    fn found(&self, units: impl Iterator<Item = Unit>, length: usize) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        // The last units, and their bytes: as many as the longest piece has, and one on both sides of a word.
        let (mut last, mut bytes): (Vec<Unit>, Vec<u8>) = (Vec::new(), Vec::new());
        let keep = self.longest + 2;
        for unit in units.chain([Unit { byte: 0, start: length, end: length }]) {
            if last.len() >= 16 * keep {
                last.drain(..last.len() - keep);
                bytes.drain(..bytes.len() - keep);
            }
            last.push(unit);
            bytes.push(unit.byte);
            let of = |from: usize, to: usize| Some((last.get(from)?.start, last.get(to)?.end));
            let end = bytes.len() - 1;
            for (length, pieces) in &self.pieces {
                let Some(start) = bytes.len().checked_sub(*length) else { continue };
                if bytes.get(start..).is_some_and(|tail| pieces.contains(tail)) {
                    found.extend(of(start, end));
                }
            }
            if is_of_word(unit.byte) {
                continue;
            }
            for word in &self.words {
                let Some(start) = end.checked_sub(word.len()) else { continue };
                let begins = start.checked_sub(1).and_then(|before| bytes.get(before)).is_none_or(|byte| !is_of_word(*byte));
                if begins && bytes.get(start..end) == Some(word) {
                    found.extend(of(start, end - 1));
                }
            }
        }
        found
    }
}

impl std::fmt::Debug for Redaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redaction")
    }
}

/// A text as its characters are compared.
fn normalised(text: &str) -> Vec<u8> {
    units(text).map(|unit| unit.byte).collect()
}

/// The characters of a text as they are.
fn plain_units(text: &str) -> impl Iterator<Item = Unit> + '_ {
    text.char_indices().map(|(start, c)| Unit { byte: comparable(u8::try_from(c).unwrap_or(0)), start, end: start + c.len_utf8() })
}

/// Whether a byte goes on with the word before it: ids are words.
fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':')
}

/// A byte as it is compared.
fn comparable(byte: u8) -> u8 {
    if byte.is_ascii() { byte.to_ascii_lowercase() } else { 0 }
}

/// The characters of a text with the escapes undone.
fn units(text: &str) -> impl Iterator<Item = Unit> + '_ {
    let bytes = text.as_bytes();
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = *bytes.get(start)?;
        let rest = bytes.get(start..).unwrap_or_default();
        let (byte, length) = match first {
            b'%' => percent(rest),
            b'\\' => backslash(rest),
            b'&' => entity(rest),
            _ => None,
        }
        .unwrap_or((first, text.get(start..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)));
        let unit = Unit { byte: comparable(byte), start, end: start + length };
        start = unit.end;
        Some(unit)
    })
}

/// `%2D`, or encoded again and again: `%252D`.
fn percent(rest: &[u8]) -> Option<(u8, usize)> {
    let mut at = 1;
    while rest.get(at..at + 2) == Some(b"25") && hex(rest.get(at + 2..at + 4)?).is_some() {
        at += 2;
    }
    Some((u8::try_from(hex(rest.get(at..at + 2)?)?).ok()?, at + 2))
}

/// `\u002d`, `\x2d`, `\"`, `\/` with as many backslashes as there are; otherwise those backslashes are one.
fn backslash(rest: &[u8]) -> Option<(u8, usize)> {
    let run = rest.iter().take_while(|byte| **byte == b'\\').count();
    let digits = |count: usize| Some((u8::try_from(hex(rest.get(run + 1..run + 1 + count)?)?).ok()?, run + 1 + count));
    let escaped = match rest.get(run) {
        Some(b'u') => digits(4),
        Some(b'x') => digits(2),
        Some(byte @ (b'"' | b'/' | b'\'')) => Some((*byte, run + 1)),
        _ => None,
    };
    escaped.or(Some((b'\\', run)))
}

/// `&#45;`, `&#x2d;`, `&amp;` and the like.
fn entity(rest: &[u8]) -> Option<(u8, usize)> {
    /// Longest entity that is looked for, with leading zeros.
    const LONGEST: usize = 12;
    let end = rest.iter().take(LONGEST).position(|byte| *byte == b';')?;
    let name = std::str::from_utf8(rest.get(1..end)?).ok()?;
    let byte = match name {
        "amp" => b'&',
        "lt" => b'<',
        "gt" => b'>',
        "quot" => b'"',
        "apos" => b'\'',
        _ => {
            let number = name.strip_prefix('#')?;
            match number.strip_prefix(['x', 'X']) {
                Some(digits) => u8::from_str_radix(digits, 16).ok()?,
                None => number.parse().ok()?,
            }
        }
    };
    Some((byte, end + 1))
}

/// The number that hexadecimal digits stand for.
fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, digit| Some(value * 16 + char::from(*digit).to_digit(16)?))
}

/// What is the same of the Base64 of any text in which `skipped` bytes (modulo 3) stand before `bytes`.
fn base64_core(bytes: &[u8], skipped: usize, letters: &[u8; 64]) -> String {
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1));
    let first = (6 - skipped * 8 % 6) % 6;
    let groups = (8 * bytes.len()).saturating_sub(first) / 6;
    let letter = |group: usize| (0..6).fold(0, |value, at| value * 2 + bit(first + 6 * group + at));
    (0..groups).filter_map(|group| letters.get(letter(group)).map(|letter| char::from(*letter))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "sk-proj-4711_Do/not+show.me~99";

    fn clean(text: &str) -> String {
        Redaction::new([KEY]).text(text.as_bytes())
    }

    fn base64(bytes: &[u8], letters: &[u8; 64]) -> String {
        let padded = [bytes, &[0, 0]].concat();
        base64_core(&padded, 0, letters).chars().take((bytes.len() * 8).div_ceil(6)).collect()
    }

    #[test]
    fn base64_is_base64() {
        assert_eq!(base64(b"Bearer sk", STANDARD), "QmVhcmVyIHNr");
        assert_eq!(base64(b"ab", STANDARD), "YWI");
        assert_eq!(base64(&[0xff, 0xfe, 0xfd], URL_SAFE), "__79");
    }

    #[test]
    fn a_key_is_hidden_in_every_encoding() {
        let each = |one: fn(u8) -> String| KEY.bytes().map(one).collect::<String>();
        let encodings = [
            KEY.to_owned(),
            KEY.to_uppercase(),
            each(|byte| format!("%{byte:02x}")),
            each(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }),
            each(|byte| format!("%25{byte:02X}")),
            each(|byte| format!("%2525{byte:02X}")),
            each(|byte| format!("\\u{:04x}", u32::from(byte))),
            each(|byte| format!("\\\\u{:04X}", u32::from(byte))),
            KEY.replace('/', "\\/"),
            each(|byte| format!("&#{byte};")),
            each(|byte| format!("&#x{byte:02x};")),
            each(|byte| format!("{byte:02x}")),
        ];
        for encoded in encodings {
            assert_eq!(clean(&format!("wrong key {encoded}, give another")), format!("wrong key {HIDDEN}, give another"), "{encoded}");
            assert_eq!(clean(&encoded), HIDDEN);
        }
    }

    #[test]
    fn a_key_is_hidden_in_base64_whatever_stands_around_it() {
        for before in ["", "a", "ab", "Bearer ", ":", "user:", "Authorization: Bearer "] {
            for letters in [STANDARD, URL_SAFE] {
                let text = base64(format!("{before}{KEY}, and more").as_bytes(), letters);
                let hidden = clean(&text);
                assert!(hidden.contains(HIDDEN), "{before:?}: {hidden}");
                // What is left of the key's own letters is at most what shares a letter with its neighbours.
                let plain = base64(format!("{before}{}, and more", "\0".repeat(KEY.len())).as_bytes(), letters);
                let left = hidden.replace(HIDDEN, "");
                assert!(left.len() + KEY.len() * 8 / 6 <= plain.len() + 2, "{before:?}: {hidden} of {text}");
            }
        }
    }

    #[test]
    fn a_key_that_was_cut_is_hidden_too() {
        for cut in PIECE..KEY.len() {
            assert_eq!(clean(&format!("key {}", &KEY[..cut])), format!("key {HIDDEN}"));
            assert_eq!(clean(&format!("{} is wrong", &KEY[KEY.len() - cut..])), format!("{HIDDEN} is wrong"));
        }
    }

    #[test]
    fn what_is_no_key_stays() {
        let text = r#"{"id": "ftjob-1", "n": [1, 2.5, null], "s": "50 % of \"it\" \\ Zürich & 東京 \u00e9 %zz &#x; sk-proj-"}"#;
        assert_eq!(clean(text), text);
        assert_eq!(clean(""), "");
        assert_eq!(Redaction::new(["", " "]).text(b"a\xffb"), "a\u{fffd}b");
    }

    #[test]
    fn a_placeholder_is_hidden_as_a_word_alone() {
        assert_eq!(Redaction::new(["1"]).text(br#"{"id": "ftjob-1", "n": 1}"#), r#"{"id": "ftjob-1", "n": 1}"#);
        assert_eq!(Redaction::new(["none"]).text(b"ft:none:a none-b none"), format!("ft:none:a none-b {HIDDEN}"));
        let redaction = Redaction::new(["EMPTY"]);
        assert_eq!(redaction.text(br#"{"key": "EMPTY", "emptiness": "nonEMPTY"}"#), r#"{"key": "[hidden key]", "emptiness": "nonEMPTY"}"#);
        assert_eq!(redaction.text(b"empty"), HIDDEN);
        assert_eq!(redaction.text(b"Bearer empty"), format!("Bearer {HIDDEN}"));
        assert_eq!(redaction.text(base64(b"Bearer EMPTY", STANDARD).as_bytes()), HIDDEN);
    }

    #[test]
    fn json_stays_json_around_a_hidden_key() {
        let key = r#"sk-"quoted"\backslash-4711"#;
        let json = serde_json::json!({ "message": format!("no {key}"), key: [key, 1], "escaped": serde_json::json!(key).to_string() });
        let clean = Redaction::new([key]).text(json.to_string().as_bytes());
        let value: serde_json::Value = serde_json::from_str(&clean).unwrap();
        assert_eq!(value["message"], format!("no {HIDDEN}"));
        assert_eq!(value[HIDDEN], serde_json::json!([HIDDEN, 1]));
        assert!(!clean.contains("4711"), "{clean}");
    }

    proptest! {
        #[test]
        fn no_text_keeps_the_key(before in ".{0,12}", behind in ".{0,12}", key in "[!-~]{8,40}") {
            let clean = Redaction::new([key.as_str()]).text(format!("{before}{key}{behind}").as_bytes());
            prop_assert!(!clean.contains(&key), "{}", clean);
        }

        #[test]
        fn texts_without_the_key_stay(text in "[ -,.:;äé\\\\%&a-y]{0,200}") {
            prop_assert_eq!(Redaction::new(["Z0Z1Z2Z3Z4Z5"]).text(text.as_bytes()), text);
        }
    }
}
