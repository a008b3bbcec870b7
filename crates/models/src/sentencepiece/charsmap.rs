use std::collections::VecDeque;

use tokenizers::normalizers::Precompiled;

/// Longest replacement of a character, in bytes; the longest known has 33.
const MAX_REPLACEMENT_BYTES: usize = 256;

/// The replacements of characters in a `precompiled_charsmap`.
///
/// It is a double-array trie (its length in bytes, then 32-bit units) and, behind it, the texts that its values point into, each
/// ended by a zero byte. Every place a search can come to is visited, because the tokenizers crate takes them on trust.
///
/// # Source
///
/// `Normalizer::DecodePrecompiledCharsMap` of google/sentencepiece, and darts-clone's `DoubleArrayUnit`.
pub(super) fn read(bytes: &[u8]) -> Result<Precompiled, String> {
    growth(bytes)?;
    Precompiled::from(bytes).map_err(|e| e.to_string())
}

/// Checks a map, and gives the most bytes that it makes of one.
pub(crate) fn growth(bytes: &[u8]) -> Result<u64, String> {
    let damaged = |what: &str| format!("its precompiled_charsmap {what}");
    let (length, rest) = bytes.split_at_checked(4).ok_or_else(|| damaged("is cut off"))?;
    let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
    let (trie, texts) = rest.split_at_checked(length).ok_or_else(|| damaged("is cut off"))?;
    if !length.is_multiple_of(4) {
        return Err(damaged("has a trie of broken units"));
    }
    let units: Vec<usize> = trie.chunks_exact(4).map(|unit| u32::from_le_bytes(unit.try_into().unwrap_or_default()) as usize).collect();
    let texts = std::str::from_utf8(texts).map_err(|_| damaged("holds texts that are not UTF-8"))?;
    check(&units, texts).map_err(damaged)
}

fn check(units: &[usize], texts: &str) -> Result<u64, &'static str> {
    let outside = "leads out of its trie";
    let mut seen = vec![false; units.len()];
    *seen.first_mut().ok_or("has an empty trie")? = true;
    let mut growth = 1;
    // Places with the least number of bytes that lead there: nearest first, because several paths may lead to one place.
    let mut open = VecDeque::from([(0, 0)]);
    while let Some((place, depth)) = open.pop_front() {
        let unit = units[place];
        let base = place ^ ((unit >> 10) << ((unit & (1 << 9)) >> 6));
        if (unit >> 8) & 1 == 1 {
            let value = units.get(base).ok_or(outside)? & 0x7FFF_FFFF;
            if !texts.is_char_boundary(value) {
                return Err("points out of its texts");
            }
            let rest = texts.as_bytes().get(value..).unwrap_or_default();
            let length = rest.iter().take(MAX_REPLACEMENT_BYTES + 1).take_while(|byte| **byte != 0).count();
            if length > MAX_REPLACEMENT_BYTES {
                return Err("replaces a character by more than 256 bytes");
            }
            growth = growth.max(length.div_ceil(std::cmp::max(depth, 1)));
        }
        for byte in 1..=255 {
            let child = base ^ byte;
            // The bits of a label, and the one that marks a value.
            if units.get(child).ok_or(outside)? & 0x8000_00FF == byte && !std::mem::replace(&mut seen[child], true) {
                open.push_back((child, depth + 1));
            }
        }
    }
    Ok(growth as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of `A` to the text at `value`; the root leads to the block at 256, and `A`'s unit to `leaf`.
    fn map(root: u32, leaf: u32, value: u32) -> Vec<u8> {
        let mut units = vec![0u32; 512];
        let child = 256 ^ u32::from(b'A');
        units[0] = root << 10;
        units[2] = value;
        units[child as usize] = u32::from(b'A') | 1 << 8 | (child ^ leaf) << 10;
        let mut bytes = (4 * units.len() as u32).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend("a\0é\0".as_bytes());
        bytes
    }

    #[test]
    fn characters_are_replaced() {
        assert_eq!(read(&map(256, 2, 0)).unwrap().transform("A"), Some("a"));
        assert_eq!(read(&map(256, 2, 2)).unwrap().transform("A"), Some("é"));
        assert_eq!(read(&map(256, 2, 0)).unwrap().transform("B"), None);
    }

    #[test]
    fn growth_is_the_bytes_made_of_one() {
        assert_eq!(growth(&map(256, 2, 0)), Ok(1));
        assert_eq!(growth(&map(256, 2, 2)), Ok(2));
        let long = |bytes: usize| [map(256, 2, 5), vec![b'x'; bytes]].concat();
        assert_eq!(growth(&long(256)), Ok(256));
        assert!(growth(&long(257)).unwrap_err().contains("more than 256 bytes"));
        assert!(growth(&[0xFF; 5]).unwrap_err().contains("cut off"));
    }

    #[test]
    fn maps_that_lead_nowhere_are_refused() {
        let message = |bytes: &[u8]| read(bytes).map(|_| ()).unwrap_err();
        assert!(message(&map(512, 2, 0)).contains("leads out"));
        assert!(message(&map(256, 512, 0)).contains("leads out"));
        for value in [3, 100] {
            assert!(message(&map(256, 2, value)).contains("points out"), "{value}");
        }
        let good = map(256, 2, 0);
        for cut in [0, 3, 4, 100, 4 + 4 * 511] {
            assert!(message(&good[..cut]).contains("cut off"), "{cut}");
        }
        assert!(message(&[0; 4]).contains("empty"));
        assert!(message(&[1, 0, 0, 0, 0]).contains("broken"));
        assert!(message(&[good.as_slice(), &[0xFF]].concat()).contains("UTF-8"));
    }
}
