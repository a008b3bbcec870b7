//! The vocabulary in a GGUF file's metadata as a tokenizer.

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

use super::reader::Gguf;
use super::source::GgufFile;
use super::special::SpecialTokens;
use crate::sentencepiece::{ScoreBpe, Spaces};
use crate::tokenizer_checks::MAX_ADDED_BYTES;
use crate::tokenizer_parts::{framed, mark_tokens, part};
use crate::{Error, Result, TensorSource};

/// How GPT-4's descendants cut a text into words; `NUMBERS` is how many digits stay together.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl GgufFile {
    /// The tokenizer in the metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if it is of an unknown kind or cuts texts in an unknown way; [`Error::Format`] if the metadata contradicts
    /// itself, or names more tokens than the model embeds.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = build(self.gguf())?;
        let tokens = tokenizer.get_vocab_size(true);
        match self.shape("model.embed_tokens.weight") {
            Some([rows, ..]) if *rows >= tokens => Ok(tokenizer),
            rows => Err(Error::format(
                self.path(),
                format!(
                    "key tokenizer.ggml.tokens names {tokens} tokens, but the model embeds {}",
                    rows.and_then(<[usize]>::first).unwrap_or(&0)
                ),
            )),
        }
    }

    /// Ids of the tokens that end a text.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming a key whose id is not in the vocabulary.
    pub fn eos_ids(&self) -> Result<Vec<u32>> {
        Ok(SpecialTokens::of(self.gguf())?.eos)
    }
}

/// Builds the tokenizer that a file's metadata describes.
pub(super) fn build(file: &Gguf) -> Result<Tokenizer> {
    let missing = |key: &str| Error::format(file.path(), format!("key {key} is missing; the file has no tokenizer"));
    let tokens = file.texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    if let Some((id, token)) = tokens.iter().enumerate().find(|(_, token)| token.len() > MAX_ADDED_BYTES) {
        let message = format!("key tokenizer.ggml.tokens: token {id} has {} bytes, at most {MAX_ADDED_BYTES} are possible", token.len());
        return Err(Error::format(file.path(), message));
    }
    let vocabulary: Vocab = tokens.iter().zip(0u32..).map(|(token, id)| ((*token).to_owned(), id)).collect();
    if vocabulary.len() != tokens.len() {
        let twin = tokens.iter().zip(0u32..).find(|(token, id)| vocabulary.get(**token) != Some(id)).map_or("", |(token, _)| *token);
        return Err(Error::format(file.path(), format!("key tokenizer.ggml.tokens holds {twin:?} twice")));
    }
    let special = SpecialTokens::of(file)?;
    let types = token_types(file, &tokens)?;
    let kind = file.text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
    let mut tokenizer = match kind {
        "gpt2" => byte_level(file, vocabulary)?,
        "llama" => sentence_piece(file, &tokens, &types, &special)?,
        other => {
            return Err(Error::Unsupported(format!(
                "{}: tokenizers of kind {other:?} (key tokenizer.ggml.model) are not supported, only gpt2 and llama; use the model's \
                 Hugging Face folder",
                file.path().display()
            )));
        }
    };
    mark_tokens(&mut tokenizer, &tokens, &types, false);
    if let Some(template) = template(file, kind, &tokens, &special)? {
        tokenizer.with_post_processor(Some(template));
    }
    Ok(tokenizer)
}

/// Byte-level byte-pair encoding with merges, as GPT-2's.
fn byte_level(file: &Gguf, vocabulary: Vocab) -> Result<Tokenizer> {
    let key = "tokenizer.ggml.merges";
    let texts = file.texts(key)?.ok_or_else(|| Error::format(file.path(), format!("key {key} is missing")))?;
    let mut merges: Merges = Vec::with_capacity(texts.len());
    for text in texts {
        // A token may start with the space that separates the two.
        let split = text.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| text.split_at(at));
        let Some((left, right)) = split else {
            return Err(Error::format(file.path(), format!("key {key} holds {text:?}, which is not two tokens")));
        };
        merges.push((left.to_owned(), right[1..].to_owned()));
    }

    let pre = file.text("tokenizer.ggml.pre")?;
    let words = |numbers: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS.replace("NUMBERS", numbers)}, "behavior": "Isolated", "invert": false},
            byte_level_step(false),
        ]})
    };
    let cut = match pre {
        None | Some("default" | "gpt-2") => byte_level_step(true),
        Some("smollm") => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            byte_level_step(true),
        ]}),
        Some("llama-bpe") => words(r"\p{N}{1,3}"),
        Some("qwen2") => words(r"\p{N}"),
        Some(other) => {
            return Err(Error::Unsupported(format!(
                "{}: texts cut as {other:?} (key tokenizer.ggml.pre) are not supported, only gpt-2, smollm, llama-bpe and qwen2; use the \
                 model's Hugging Face folder",
                file.path().display()
            )));
        }
    };
    if !matches!(pre, Some("gpt-2" | "smollm" | "llama-bpe" | "qwen2")) {
        tracing::warn!("{} does not say how its tokenizer cuts texts (key tokenizer.ggml.pre); as GPT-2 is assumed", file.path().display());
    }
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(pre == Some("llama-bpe")).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|e| Error::format(file.path(), format!("key {key} does not fit the tokens: {e}")))?);
    tokenizer.with_pre_tokenizer(Some(part::<PreTokenizerWrapper>(file.path(), cut)?));
    tokenizer.with_decoder(Some(part::<DecoderWrapper>(file.path(), byte_level_step(true))?));
    if pre == Some("qwen2") {
        tokenizer.with_normalizer(Some(part::<NormalizerWrapper>(file.path(), json!({"type": "NFC"}))?));
    }
    Ok(tokenizer)
}

fn byte_level_step(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// SentencePiece's byte-pair encoding, with a byte for what is unknown.
fn sentence_piece(file: &Gguf, tokens: &[&str], types: &[i32], special: &SpecialTokens) -> Result<Tokenizer> {
    let key = "tokenizer.ggml.scores";
    let scores = file.numbers(key)?.ok_or_else(|| Error::format(file.path(), format!("key {key} is missing")))?;
    if scores.len() != tokens.len() {
        return Err(Error::format(file.path(), format!("key {key} holds {} scores for {} tokens", scores.len(), tokens.len())));
    }
    let unknown = special.unk.and_then(|id| tokens.get(id as usize)).or_else(|| tokens.iter().find(|token| **token == "<unk>"));
    let model = ScoreBpe { tokens, scores: &scores, types, unknown: unknown.copied(), byte_fallback: true };
    let mut tokenizer = Tokenizer::new(model.build().map_err(|e| Error::format(file.path(), format!("key tokenizer.ggml.tokens: {e}")))?);
    let spaces = Spaces::kept(file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true));
    tokenizer.with_normalizer(Some(spaces.normalizer(file.path())?));
    tokenizer.with_decoder(Some(spaces.decoder(file.path())?));
    Ok(tokenizer)
}

/// The type of each token; empty if the file does not tell.
fn token_types(file: &Gguf, tokens: &[&str]) -> Result<Vec<i32>> {
    let key = "tokenizer.ggml.token_type";
    let types = file.integers(key)?.unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        return Err(Error::format(file.path(), format!("key {key} holds {} types for {} tokens", types.len(), tokens.len())));
    }
    Ok(types)
}

/// Puts BOS before and EOS behind a text, if the file asks for that.
fn template(file: &Gguf, kind: &str, tokens: &[&str], special: &SpecialTokens) -> Result<Option<PostProcessorWrapper>> {
    // llama.cpp's defaults, for files that leave the keys out.
    let bos_by_default = kind == "llama" || file.text("tokenizer.ggml.pre")? == Some("llama-bpe");
    let token = |flag: &str, default: bool, id: Option<u32>| {
        if !file.flag(flag)?.unwrap_or(default) {
            return Ok(None);
        }
        let token = id.and_then(|id| tokens.get(id as usize).map(|token| (id, *token)));
        let (id, token) = token.ok_or_else(|| {
            Error::format(file.path(), format!("key {flag} asks for a token at every text's end or start, but its id is not given"))
        })?;
        Ok::<_, Error>(Some((token.to_owned(), id)))
    };
    let bos = token("tokenizer.ggml.add_bos_token", bos_by_default && special.bos.is_some(), special.bos)?;
    let eos = token("tokenizer.ggml.add_eos_token", false, special.eos.first().copied())?;
    framed(file.path(), bos.as_slice(), eos.as_slice())
}
