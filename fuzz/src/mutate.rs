//! Blind mutations of valid files: the same for the same number, and aware of the shapes that files come in.

/// Integers at the borders of their types and of sizes.
const EDGES: [u64; 16] =
    [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 1 << 24, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 1 << 40, 1 << 62, u64::MAX];

/// What stands in a text in place of a number.
const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "1",
    "65536",
    "2147483648",
    "4294967296",
    "1000000000",
    "4611686018427387904",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "-1e-400",
    "null",
    "[]",
];

/// What stands in a text in place of a string.
const TEXTS: [&str; 10] =
    ["", "{}", "{} {}", "\\u0000", "../../x", "é🙂", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "(a+)+$", "%s%n", "NaN"];

/// Longest mutation that is made, in bytes.
const LONGEST: usize = 1 << 20;

/// Mutation `number` of `seeds`: one to four changes of one of them. Empty if there are no seeds.
pub fn mutation(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = Random(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66);
    let Some(seed) = seeds.get(random.below(seeds.len())) else { return Vec::new() };
    let mut bytes = seed.clone();
    // Most are of one change: what the rest of the file says still holds.
    let more = if random.below(3) == 0 { random.below(4) } else { 0 };
    for _ in 0..=more {
        change(&mut bytes, seeds, &mut random);
        bytes.truncate(LONGEST);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let length = bytes.len();
    let (start, end) = span(length, random);
    match random.below(16) {
        0 => {
            if let Some(byte) = bytes.get_mut(start) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(start) {
                *byte = random.next() as u8;
            }
        }
        2 | 3 => integer(bytes, start, random),
        4 => bytes.truncate(start),
        5 => drop(bytes.drain(start..end)),
        6 => {
            let copy = bytes.get(start..end).unwrap_or_default().to_vec();
            let times = 1 + random.below(64);
            let at = random.below(length + 1);
            drop(bytes.splice(at..at, copy.repeat(times)));
        }
        7 => {
            let other = seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
            let (from, to) = span(other.len(), random);
            drop(bytes.splice(start..end, other.get(from..to).unwrap_or_default().iter().copied()));
        }
        8 => {
            let depth = 1 << random.below(16);
            let text = if random.below(2) == 0 { "[" } else { "{\"a\":" };
            in_header(bytes, |header| drop(header.splice(start.min(header.len())..start.min(header.len()), text.repeat(depth).bytes())));
        }
        9..=12 => replace(bytes, random, |byte| byte.is_ascii_digit() || *byte == b'.', &NUMBERS),
        _ => replace(bytes, random, |byte| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'.' | b' '), &TEXTS),
    }
}

/// Writes a border of 1, 2, 4 or 8 bytes, little-endian, often at a place where fields are aligned.
fn integer(bytes: &mut [u8], at: usize, random: &mut Random) {
    let width = 1 << random.below(4);
    let at = match random.below(3) {
        // Counts and offsets stand at the beginning.
        0 => random.below(bytes.len().min(64)),
        1 => at / width * width,
        _ => at,
    };
    let mut value = EDGES[random.below(EDGES.len())];
    if random.below(4) == 0 {
        value = value.wrapping_sub(1);
    }
    let edge = value.to_le_bytes();
    for (byte, new) in bytes.iter_mut().skip(at).zip(edge.iter().take(width)) {
        *byte = *new;
    }
}

/// Replaces a run of bytes that are alike by one of `new`.
fn replace(bytes: &mut Vec<u8>, random: &mut Random, alike: fn(&u8) -> bool, new: &[&str]) {
    let from = random.below(bytes.len());
    let new = new[random.below(new.len())];
    in_header(bytes, |header| {
        let from = from % header.len().max(1);
        let Some(start) = (from..header.len()).find(|at| header.get(*at).is_some_and(alike)) else { return };
        let end = (start..header.len()).find(|at| !header.get(*at).is_some_and(alike)).unwrap_or(header.len());
        drop(header.splice(start..end, new.bytes()));
    });
}

/// Changes a text: all of it, or the header of safetensors, whose length is put right.
fn in_header(bytes: &mut Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) {
    let length = bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)).and_then(|length| usize::try_from(length).ok());
    match length.and_then(|length| bytes.get(8..8usize.checked_add(length)?)).filter(|header| header.first() == Some(&b'{')) {
        Some(header) => {
            let (mut changed, end) = (header.to_vec(), 8 + header.len());
            change(&mut changed);
            let head = (changed.len() as u64).to_le_bytes();
            drop(bytes.splice(..end, head.into_iter().chain(changed)));
        }
        None => change(bytes),
    }
}

/// A piece of something of this length: most are short.
fn span(length: usize, random: &mut Random) -> (usize, usize) {
    let start = random.below(length);
    let longest = if random.below(4) == 0 { length } else { 16 };
    (start, (start + random.below(longest + 1)).min(length))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_makes_the_same_mutation_and_others_make_others() {
        let seeds = vec![b"{\"layers\": [1, 2], \"name\": \"x\"}".to_vec(), vec![0; 40]];
        let made: std::collections::BTreeSet<Vec<u8>> = (0..200).map(|number| mutation(&seeds, number)).collect();
        assert!(made.len() > 120, "{}", made.len());
        assert_eq!(mutation(&seeds, 7), mutation(&seeds, 7));
        assert_eq!(mutation(&[], 7), Vec::<u8>::new());
    }

    #[test]
    fn a_longer_header_keeps_its_length_right() {
        let mut bytes = [&8u64.to_le_bytes()[..], b"{\"a\": 1}", b"data"].concat();
        in_header(&mut bytes, |header| drop(header.splice(6..7, *b"12345")));
        assert_eq!(bytes, [&12u64.to_le_bytes()[..], b"{\"a\": 12345}", b"data"].concat());
    }
}
