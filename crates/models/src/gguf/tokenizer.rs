//! The vocabulary in a GGUF file's metadata as a tokenizer.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

use super::reader::Gguf;
use super::source::GgufFile;
use super::special::SpecialTokens;
use crate::{Error, Result, TensorSource};

/// `tokenizer.ggml.token_type` of tokens that are matched before anything else.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// How GPT-4's descendants cut a text into words; `NUMBERS` is how many digits stay together.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What SentencePiece writes for a space.
const SPACE: &str = "▁";

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
    let vocabulary: Vocab = tokens.iter().zip(0u32..).map(|(token, id)| ((*token).to_owned(), id)).collect();
    if vocabulary.len() != tokens.len() {
        let twin = tokens.iter().zip(0u32..).find(|(token, id)| vocabulary.get(**token) != Some(id)).map_or("", |(token, _)| *token);
        return Err(Error::format(file.path(), format!("key tokenizer.ggml.tokens holds {twin:?} twice")));
    }
    let special = SpecialTokens::of(file)?;
    let kind = file.text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
    let mut tokenizer = match kind {
        "gpt2" => byte_level(file, vocabulary)?,
        "llama" => sentence_piece(file, vocabulary, &tokens, &special)?,
        other => {
            return Err(Error::Unsupported(format!(
                "{}: tokenizers of kind {other:?} (key tokenizer.ggml.model) are not supported, only gpt2 and llama; use the model's \
                 Hugging Face folder",
                file.path().display()
            )));
        }
    };
    add_special_tokens(file, &mut tokenizer, &tokens)?;
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
    tokenizer.with_pre_tokenizer(Some(part::<PreTokenizerWrapper>(file, cut)?));
    tokenizer.with_decoder(Some(part::<DecoderWrapper>(file, byte_level_step(true))?));
    if pre == Some("qwen2") {
        tokenizer.with_normalizer(Some(part::<NormalizerWrapper>(file, json!({"type": "NFC"}))?));
    }
    Ok(tokenizer)
}

fn byte_level_step(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// SentencePiece's byte-pair encoding: the best score is merged first, and unknown characters fall back to bytes.
///
/// Merges are not in the file: every pair of tokens that makes a token is one, ranked by the score of what it makes.
fn sentence_piece(file: &Gguf, vocabulary: Vocab, tokens: &[&str], special: &SpecialTokens) -> Result<Tokenizer> {
    let key = "tokenizer.ggml.scores";
    let scores = file.numbers(key)?.ok_or_else(|| Error::format(file.path(), format!("key {key} is missing")))?;
    if scores.len() != tokens.len() {
        return Err(Error::format(file.path(), format!("key {key} holds {} scores for {} tokens", scores.len(), tokens.len())));
    }
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut ranked = Vec::new();
    for (token, score) in tokens.iter().zip(&scores) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                ranked.push((*score, *left_id, *right_id, left, right));
            }
        }
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Merges = ranked.into_iter().map(|(.., left, right)| (left.to_owned(), right.to_owned())).collect();

    let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges).fuse_unk(true).byte_fallback(true);
    let unknown = special.unk.and_then(|id| tokens.get(id as usize)).or_else(|| tokens.iter().find(|token| **token == "<unk>"));
    if let Some(unknown) = unknown {
        builder = builder.unk_token((*unknown).to_owned());
    }
    let model = builder.build().map_err(|e| Error::format(file.path(), format!("key tokenizer.ggml.tokens: {e}")))?;
    let mut tokenizer = Tokenizer::new(model);

    let prefixed = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixed {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
    tokenizer.with_normalizer(Some(part::<NormalizerWrapper>(file, normalizer)?));
    tokenizer.with_decoder(Some(part::<DecoderWrapper>(file, json!({"type": "Sequence", "decoders": decoders}))?));
    Ok(tokenizer)
}

fn add_special_tokens(file: &Gguf, tokenizer: &mut Tokenizer, tokens: &[&str]) -> Result<()> {
    let key = "tokenizer.ggml.token_type";
    let kinds = file.integers(key)?.unwrap_or_default();
    if !kinds.is_empty() && kinds.len() != tokens.len() {
        return Err(Error::format(file.path(), format!("key {key} holds {} types for {} tokens", kinds.len(), tokens.len())));
    }
    let of = |wanted: i32, is_special: bool| -> Vec<AddedToken> {
        let matching = tokens.iter().zip(&kinds).filter(|(token, kind)| **kind == wanted && !token.is_empty());
        matching.map(|(token, _)| AddedToken::from(*token, is_special).normalized(false)).collect()
    };
    tokenizer.add_special_tokens(&of(CONTROL, true));
    tokenizer.add_tokens(&of(USER_DEFINED, false));
    Ok(())
}

/// Puts BOS before and EOS behind a text, if the file asks for that.
fn template(file: &Gguf, kind: &str, tokens: &[&str], special: &SpecialTokens) -> Result<Option<PostProcessorWrapper>> {
    // llama.cpp's defaults, for files that leave the keys out.
    let bos_by_default = kind == "llama" || file.text("tokenizer.ggml.pre")? == Some("llama-bpe");
    let mut named = serde_json::Map::new();
    let mut token = |flag: &str, default: bool, id: Option<u32>| {
        if !file.flag(flag)?.unwrap_or(default) {
            return Ok(None);
        }
        let token = id.and_then(|id| tokens.get(id as usize).map(|token| (id, *token)));
        let (id, token) = token.ok_or_else(|| {
            Error::format(file.path(), format!("key {flag} asks for a token at every text's end or start, but its id is not given"))
        })?;
        named.insert(token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
        Ok::<_, Error>(Some(token))
    };
    let bos = token("tokenizer.ggml.add_bos_token", bos_by_default && special.bos.is_some(), special.bos)?;
    let eos = token("tokenizer.ggml.add_eos_token", false, special.eos.first().copied())?;
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let framed = |sequence: &str, type_id: u32| -> Vec<Value> {
        let piece = |token: &str| json!({"SpecialToken": {"id": token, "type_id": type_id}});
        let text = json!({"Sequence": {"id": sequence, "type_id": type_id}});
        bos.map(piece).into_iter().chain([text]).chain(eos.map(piece)).collect()
    };
    let pair = [framed("A", 0), framed("B", 1)].concat();
    part(file, json!({"type": "TemplateProcessing", "single": framed("A", 0), "pair": pair, "special_tokens": named})).map(Some)
}

fn part<T: DeserializeOwned>(file: &Gguf, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::format(file.path(), format!("its tokenizer cannot be built: {e}")))
}
