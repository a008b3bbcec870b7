//! Tokenizers in SentencePiece's own format: `tokenizer.model` and `spiece.model`.
//!
//! The vocabulary (Unigram or BPE), the changes to a text before it is cut, and the way back are all in that one file. What it does
//! not say is which tokens go around a text: that is each model family's convention ([`convention`]), or stands in
//! `tokenizer_config.json`.

mod charsmap;
mod convention;
mod proto;
mod score_bpe;
mod spaces;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::path::Path;

use easyedit_core::read_input;
use serde_json::Value;
use tokenizers::Tokenizer;

pub(crate) use charsmap::growth as charsmap_growth;
use convention::Convention;
pub(crate) use proto::PieceType;
pub(crate) use score_bpe::ScoreBpe;
pub(crate) use spaces::Spaces;
use vocabulary::Vocabulary;

use crate::Result;
use crate::tokenizer_parts::{framed, mark_tokens};

/// What makes a `tokenizer.json` of any of a model's own tokenizer files.
pub(crate) const CONVERT: &str = "AutoTokenizer.from_pretrained(FOLDER, use_fast=True).save_pretrained(FOLDER)";

/// No vocabulary is larger: a quarter of a million pieces take about 5 MB.
const MAX_BYTES: u64 = 16 << 20;

/// Reads the tokenizer at `path`, of a model with the given `config.json` and `tokenizer_config.json`, and the token that ends a
/// text.
///
/// # Errors
///
/// [`Error::Format`](crate::Error::Format) naming the file that is damaged; [`Error::Unsupported`](crate::Error::Unsupported) for kinds of SentencePiece that are not read.
pub(crate) fn load(path: &Path, config: &Value, tokenizer_config: Option<&Value>) -> Result<(Tokenizer, Option<u32>)> {
    let vocabulary = Vocabulary::parse(path, &read_input(path, MAX_BYTES)?)?;
    let mut tokenizer = vocabulary.tokenizer(path)?;
    let tokens: Vec<&str> = vocabulary.tokens();
    mark_tokens(&mut tokenizer, &tokens, &vocabulary.types, vocabulary.spaces.are_plain());
    let convention = Convention { vocabulary: &vocabulary, folder: path.parent().unwrap_or(path), config, tokenizer_config };
    let (before, behind) = convention.apply(&mut tokenizer)?;
    tokenizer.with_post_processor(framed(path, &before, &behind)?);
    Ok((tokenizer, vocabulary.eos()))
}
