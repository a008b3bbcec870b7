//! Finding the subject of a fact in its prompt.

use std::ops::Range;

/// The place of the subject in a template.
pub(crate) const PLACEHOLDER: &str = "{}";

/// Scripts that are written without spaces between words, or that join particles to nouns: a subject may touch their letters on either side.
const WITHOUT_WORD_BOUNDARIES: [Range<u32>; 9] = [
    0x0E00..0x0F00,   // Thai, Lao
    0x0F00..0x10A0,   // Tibetan, Burmese
    0x1100..0x1200,   // Hangul jamo
    0x1780..0x1800,   // Khmer
    0x3040..0x3100,   // Hiragana, Katakana
    0x3400..0xA000,   // Han
    0xAC00..0xD7B0,   // Hangul
    0xF900..0xFB00,   // Han, compatibility forms
    0x20000..0x40000, // Han, supplementary planes
];

/// Byte ranges of `subject` in `prompt` that begin and end at word boundaries, in ascending order; overlapping occurrences are all listed.
pub(crate) fn occurrences(prompt: &str, subject: &str) -> Vec<Range<usize>> {
    let (Some(first), Some(last)) = (subject.chars().next(), subject.chars().next_back()) else { return Vec::new() };
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = prompt.get(from..).and_then(|rest| rest.find(subject)).map(|offset| from + offset) {
        let end = at + subject.len();
        let before = prompt.get(..at).and_then(|text| text.chars().next_back());
        let after = prompt.get(end..).and_then(|text| text.chars().next());
        let is_inside = before.is_some_and(|before| are_one_word(before, first)) || after.is_some_and(|after| are_one_word(last, after));
        if !is_inside {
            found.push(at..end);
        }
        from = at + first.len_utf8();
    }
    found
}

/// Whether two adjacent characters belong to one word.
fn are_one_word(left: char, right: char) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() && !WITHOUT_WORD_BOUNDARIES.iter().any(|range| range.contains(&u32::from(c)));
    is_letter(left) && is_letter(right)
}

/// `prompt` with the subject in the place of its only `{}`, and the subject's byte range; `None` if there are no or several places.
pub(crate) fn fill(prompt: &str, subject: &str) -> Option<(String, Range<usize>)> {
    let (head, tail) = prompt.split_once(PLACEHOLDER)?;
    (!tail.contains(PLACEHOLDER)).then(|| ([head, subject, tail].concat(), head.len()..head.len() + subject.len()))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "the ranges are the places")]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_whole_words_where_the_language_has_words() {
        let cases: [(&str, &str, &[Range<usize>]); 13] = [
            ("The Greenhouse of Green is Green", "Green", &[18..23, 27..32]),
            ("Greenland", "Green", &[]),
            ("evergreen", "green", &[]),
            ("France's capital, France-like", "France", &[0..6, 18..24]),
            ("Apollo 11 and Apollo 1", "Apollo 1", &[14..22]),
            ("Windows95 or Windows", "Windows", &[13..20]),
            ("東京都の首長は", "東京", &[0..6]),
            ("서울은 수도", "서울", &[0..6]),
            ("Googleの本社", "Google", &[0..6]),
            ("über Übersee", "über", &[0..5]),
            ("a.b.a.b.a", "a.b.a", &[0..5, 4..9]),
            ("C++ and C", "C", &[0..1, 8..9]),
            ("anything", "", &[]),
        ];
        for (prompt, subject, places) in cases {
            assert_eq!(occurrences(prompt, subject), places, "{subject:?} in {prompt:?}");
        }
    }

    #[test]
    fn the_only_place_of_a_template_is_filled() {
        assert_eq!(fill("{} is in", "Rome"), Some(("Rome is in".into(), 0..4)));
        assert_eq!(fill("é {}", "{}"), Some(("é {}".into(), 3..5)));
        assert_eq!(fill("no place", "Rome"), None);
        assert_eq!(fill("{} and {}", "Rome"), None);
    }
}
