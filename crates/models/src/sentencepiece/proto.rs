//! The part of SentencePiece's `ModelProto` that encoding and decoding need.
//!
//! Source: `src/sentencepiece_model.proto` of google/sentencepiece (proto2; absent fields have the defaults given here).

use prost::{Enumeration, Message};

/// A `tokenizer.model` or `spiece.model`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    /// The vocabulary; a piece's id is its place.
    #[prost(message, repeated, tag = "1")]
    pub(crate) pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    pub(crate) trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    pub(crate) normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Piece {
    #[prost(string, optional, tag = "1")]
    pub(crate) piece: Option<String>,
    /// Log-probability (Unigram), or the negative rank of the merge that makes the piece (BPE).
    #[prost(float, optional, tag = "2")]
    pub(crate) score: Option<f32>,
    /// Writers leave it out of normal pieces.
    #[prost(enumeration = "PieceType", optional, tag = "3", default = "Normal")]
    pub(crate) r#type: Option<i32>,
}

/// What a piece is for; `tokenizer.ggml.token_type` of GGUF has the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum PieceType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl PieceType {
    /// Whether the piece stands for text that it spells.
    pub(crate) fn is_text(self) -> bool {
        !matches!(self, Self::Unknown | Self::Control | Self::Byte)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TrainerSpec {
    #[prost(enumeration = "ModelType", optional, tag = "3", default = "Unigram")]
    pub(crate) model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    pub(crate) treat_whitespace_as_suffix: Option<bool>,
    /// Whether unknown characters become bytes.
    #[prost(bool, optional, tag = "35")]
    pub(crate) byte_fallback: Option<bool>,
    /// Name of the piece before a text; its id is where that piece stands, whatever `bos_id` says.
    #[prost(string, optional, tag = "46", default = "<s>")]
    pub(crate) bos_piece: Option<String>,
    /// As `bos_piece`, behind a text.
    #[prost(string, optional, tag = "47", default = "</s>")]
    pub(crate) eos_piece: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum ModelType {
    Unigram = 1,
    Bpe = 2,
    Word = 3,
    Char = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NormalizerSpec {
    /// The rule the replacements were made of: `nmt_nfkc`, `identity`, ...
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    /// Replacements of characters, as a double-array trie; empty for none.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    pub(crate) add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    pub(crate) remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    pub(crate) escape_whitespaces: Option<bool>,
}
