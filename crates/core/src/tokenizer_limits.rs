//! What encoding a text may cost, whatever the tokenizer's file says.

use std::sync::Once;

use tokenizers::{NormalizedString, Normalizer};

/// Longest text that is encoded at once: some four million tokens, beyond every context and every document.
const MAX_TEXT_BYTES: usize = 16 << 20;
/// Longest normalized text: four times the longest text. Each byte takes some twenty in memory.
const MAX_NORMALIZED_BYTES: usize = 64 << 20;
/// A shorter text is encoded without a look at what normalization makes of it: what files are loaded with
/// bounds how much that can be.
const SHORT_TEXT_BYTES: usize = 4 << 10;

/// Steps back that a pattern may take from one place of a text. Those of real tokenizers take as many as the longest run of white space has
/// characters; a million take a few hundredths of a second.
const STEPS_PER_MATCH: u32 = 1_000_000;
/// The same over all places of a text up to the next match.
const STEPS_PER_SEARCH: u32 = 500_000_000;
/// Calls of a pattern's own groups in one search. Tokenizers have no recursive patterns.
const CALLS_PER_SEARCH: u32 = 100_000;
/// Places that a pattern may remember to step back to, some 60 bytes each: as many as the longest run of letters has characters.
const REMEMBERED_PLACES: u32 = 2_000_000;

/// Limits the steps of Oniguruma, the engine of the tokenizers' patterns, for the whole process; a search that exceeds a limit panics in
/// the `onig` crate. [`Tokenizer::new`](crate::Tokenizer::new) calls it; what runs a tokenizer's parts before that calls it first.
pub fn limit_patterns() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: each call stores one number, which a search copies when it begins. No tokenizer has searched before, and `Once` makes
        // others wait.
        unsafe {
            onig_sys::onig_set_retry_limit_in_match(STEPS_PER_MATCH.into());
            onig_sys::onig_set_retry_limit_in_search(STEPS_PER_SEARCH.into());
            onig_sys::onig_set_subexp_call_limit_in_search(CALLS_PER_SEARCH.into());
            onig_sys::onig_set_match_stack_limit_size(REMEMBERED_PLACES);
        }
    });
}

/// Checks the length of a text, and of what `tokenizer` normalizes it to.
pub(crate) fn check_text(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<(), String> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(format!("it has {} bytes, and at most {MAX_TEXT_BYTES} are encoded at once; split it", text.len()));
    }
    let Some(normalizer) = tokenizer.get_normalizer().filter(|_| text.len() > SHORT_TEXT_BYTES) else { return Ok(()) };
    let (mut rest, mut bytes) = (text, 0);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.floor_char_boundary(SHORT_TEXT_BYTES));
        let mut normalized = NormalizedString::from(piece);
        normalizer.normalize(&mut normalized).map_err(|e| e.to_string())?;
        bytes += normalized.get().len();
        if bytes > MAX_NORMALIZED_BYTES {
            return Err(format!("the tokenizer's normalizer makes more than {MAX_NORMALIZED_BYTES} bytes of it; split it"));
        }
        rest = behind;
    }
    Ok(())
}

/// What a panic of the tokenizer says, in words of its user.
pub(crate) fn explain(panic: &str) -> String {
    let patterns = ["retry-limit", "subexp-call-limit", "match-stack limit"];
    if patterns.iter().any(|limit| panic.contains(limit)) {
        return format!("one of the tokenizer's patterns takes too many steps on it ({panic}); do not use this tokenizer");
    }
    format!("the tokenizer's parts contradict each other ({panic}); do not use this tokenizer")
}
