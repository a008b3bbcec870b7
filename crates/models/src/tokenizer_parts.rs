//! Parts of tokenizers that are built from something other than a `tokenizer.json`.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer};

use crate::sentencepiece::PieceType;
use crate::{Error, Result};

/// A part of a tokenizer as `tokenizer.json` writes it; `path` is the file it is built from.
pub(crate) fn part<T: DeserializeOwned>(path: &Path, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::format(path, format!("its tokenizer cannot be built: {e}")))
}

/// Marks the tokens that are matched before anything else, and those of them that stand for no text.
///
/// `types` has a [`PieceType`] for each token, or is empty. User-defined tokens are looked for after the text is normalized if
/// `normalized`.
pub(crate) fn mark_tokens(tokenizer: &mut Tokenizer, tokens: &[&str], types: &[i32], normalized: bool) {
    let of = |wanted: &[PieceType], special: bool, normalized: bool| -> Vec<AddedToken> {
        let is_wanted = |kind: i32| PieceType::try_from(kind).is_ok_and(|kind| wanted.contains(&kind));
        let matching = tokens.iter().zip(types).filter(|(token, kind)| is_wanted(**kind) && !token.is_empty());
        matching.map(|(token, _)| AddedToken::from(*token, special).normalized(normalized)).collect()
    };
    tokenizer.add_special_tokens(&of(&[PieceType::Control, PieceType::Unknown], true, false));
    tokenizer.add_tokens(&of(&[PieceType::UserDefined], false, normalized));
}

/// Puts tokens (name and id) before and behind every text; `None` if there are none.
pub(crate) fn framed(path: &Path, before: &[(String, u32)], behind: &[(String, u32)]) -> Result<Option<PostProcessorWrapper>> {
    if before.is_empty() && behind.is_empty() {
        return Ok(None);
    }
    let all = before.iter().chain(behind);
    let named: serde_json::Map<String, Value> =
        all.map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}))).collect();
    let frame = |sequence: &str, type_id: u32| -> Vec<Value> {
        let piece = |(token, _): &(String, u32)| json!({"SpecialToken": {"id": token, "type_id": type_id}});
        let text = json!({"Sequence": {"id": sequence, "type_id": type_id}});
        before.iter().map(piece).chain([text]).chain(behind.iter().map(piece)).collect()
    };
    let pair = [frame("A", 0), frame("B", 1)].concat();
    part(path, json!({"type": "TemplateProcessing", "single": frame("A", 0), "pair": pair, "special_tokens": named})).map(Some)
}
