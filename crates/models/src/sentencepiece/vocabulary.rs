use std::collections::HashMap;
use std::path::Path;

use prost::Message;
use tokenizers::models::unigram::Unigram;
use tokenizers::{ModelWrapper, Tokenizer};

use super::proto::{ModelProto, ModelType, PieceType, TrainerSpec};
use super::score_bpe::{MAX_PIECE_BYTES, ScoreBpe};
use super::{CONVERT, Spaces, charsmap};
use crate::{Error, Result};

/// More pieces than any vocabulary has.
const MAX_PIECES: usize = 1 << 20;

/// A SentencePiece file that was checked.
#[derive(Debug)]
pub(super) struct Vocabulary {
    tokens: Vec<String>,
    scores: Vec<f32>,
    /// A [`PieceType`] for each token.
    pub(super) types: Vec<i32>,
    unknown: usize,
    trainer: TrainerSpec,
    pub(super) spaces: Spaces,
}

impl Vocabulary {
    /// Checks the file `path`, which holds `bytes`.
    ///
    /// # Errors
    ///
    /// As [`super::load`].
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &dyn std::fmt::Display| {
            Error::format(path, format!("is not a SentencePiece model: {what}; fetch it again, or make a tokenizer.json: {CONVERT}"))
        };
        let model = ModelProto::decode(bytes).map_err(|e| damaged(&e))?;
        if model.pieces.is_empty() {
            return Err(damaged(&"it holds no pieces"));
        }
        if model.pieces.len() > MAX_PIECES {
            return Err(damaged(&format!("it holds {} pieces, at most {MAX_PIECES} are possible", model.pieces.len())));
        }
        let trainer = model.trainer_spec.unwrap_or_default();
        let (mut tokens, mut scores, mut types) = (Vec::new(), Vec::new(), Vec::new());
        let mut unknown = None;
        for (id, piece) in model.pieces.into_iter().enumerate() {
            let (score, kind) = (piece.score(), piece.r#type.unwrap_or(PieceType::Normal as i32));
            let text = piece.piece.unwrap_or_default();
            if text.is_empty() || text.len() > MAX_PIECE_BYTES {
                return Err(damaged(&format!("piece {id} is {} bytes long, 1 to {MAX_PIECE_BYTES} are possible", text.len())));
            }
            if !score.is_finite() {
                return Err(damaged(&format!("piece {id}, {text:?}, has the score {score}")));
            }
            match PieceType::try_from(kind) {
                Err(_) => return Err(damaged(&format!("piece {id}, {text:?}, is of the unknown type {kind}"))),
                Ok(PieceType::Unknown) if unknown.replace(id).is_some() => {
                    return Err(damaged(&format!("piece {id}, {text:?}, is the second for unknown characters")));
                }
                Ok(_) => {}
            }
            tokens.push(text);
            scores.push(score);
            types.push(kind);
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        if let Some((id, token)) = tokens.iter().enumerate().find(|(id, token)| ids.insert(token.as_str(), *id).is_some()) {
            return Err(damaged(&format!("piece {id}, {token:?}, is there twice")));
        }
        let unknown = unknown.ok_or_else(|| damaged(&"it has no piece for unknown characters"))?;
        if trainer.treat_whitespace_as_suffix() {
            return Err(Error::Unsupported(format!(
                "{}: vocabularies with spaces at the end of words are not supported; make a tokenizer.json: {CONVERT}",
                path.display()
            )));
        }

        let normalizer = model.normalizer_spec.unwrap_or_default();
        let map = normalizer.precompiled_charsmap.as_deref().filter(|map| !map.is_empty());
        let spaces = Spaces {
            characters: map.map(charsmap::read).transpose().map_err(|e| damaged(&e))?,
            composed: map.is_some() && normalizer.name().contains("nfkc"),
            prefixed: normalizer.add_dummy_prefix(),
            collapsed: normalizer.remove_extra_whitespaces(),
            escaped: normalizer.escape_whitespaces(),
        };
        Ok(Self { tokens, scores, types, unknown, trainer, spaces })
    }

    /// The tokens in the order of their ids.
    pub(super) fn tokens(&self) -> Vec<&str> {
        self.tokens.iter().map(String::as_str).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The token put before a text, if the vocabulary has one.
    pub(super) fn bos(&self) -> Option<u32> {
        self.control(self.trainer.bos_piece())
    }

    /// The token that ends a text, if the vocabulary has one.
    pub(super) fn eos(&self) -> Option<u32> {
        self.control(self.trainer.eos_piece())
    }

    fn control(&self, name: &str) -> Option<u32> {
        let id = self.tokens.iter().zip(&self.types).position(|(token, kind)| token == name && *kind == PieceType::Control as i32)?;
        u32::try_from(id).ok()
    }

    /// The tokenizer, without special tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for other kinds than Unigram and BPE.
    pub(super) fn tokenizer(&self, path: &Path) -> Result<Tokenizer> {
        let kind = self.trainer.model_type.unwrap_or(ModelType::Unigram as i32);
        let damaged = |what: String| Error::format(path, format!("its pieces make no tokenizer: {what}"));
        let model = match ModelType::try_from(kind) {
            Ok(ModelType::Bpe) => ModelWrapper::BPE(self.bpe().map_err(damaged)?),
            Ok(ModelType::Unigram) => ModelWrapper::Unigram(self.unigram().map_err(damaged)?),
            other => {
                let name = other.map_or_else(|_| format!("{kind}"), |kind| format!("{kind:?}"));
                return Err(Error::Unsupported(format!(
                    "{}: SentencePiece models of type {name} are not supported, only Unigram and BPE; make a tokenizer.json: {CONVERT}",
                    path.display()
                )));
            }
        };
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_normalizer(Some(self.spaces.normalizer(path)?));
        tokenizer.with_decoder(Some(self.spaces.decoder(path)?));
        Ok(tokenizer)
    }

    fn bpe(&self) -> std::result::Result<tokenizers::models::bpe::BPE, String> {
        ScoreBpe {
            tokens: &self.tokens(),
            scores: &self.scores,
            types: &self.types,
            unknown: self.tokens.get(self.unknown).map(String::as_str),
            byte_fallback: self.trainer.byte_fallback(),
        }
        .build()
    }

    fn unigram(&self) -> std::result::Result<Unigram, String> {
        let vocabulary = self.tokens.iter().cloned().zip(self.scores.iter().copied().map(f64::from)).collect();
        Unigram::from(vocabulary, Some(self.unknown), self.trainer.byte_fallback()).map_err(|e| e.to_string())
    }
}
