//! SentencePiece's models, read as LLaMA's and as T5's.

use easyedit::models::{SENTENCEPIECE_FILES, load_tokenizer};
use serde_json::json;

use super::seed;
use super::texts::encode_and_decode;
use crate::formats::{self, Piece, charsmap, field};
use crate::scratch::{file, folder};

pub(super) fn run(data: &[u8]) -> bool {
    let mut accepted = false;
    for (name, family) in SENTENCEPIECE_FILES.into_iter().zip(["llama", "t5"]) {
        let path = folder("sentencepiece");
        file(&path, name, data);
        if let Ok(tokenizer) = load_tokenizer(&path, &json!({ "model_type": family })) {
            encode_and_decode(&tokenizer);
            accepted = true;
        }
    }
    accepted
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let bytes: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut bpe: Vec<Piece<'_>> = vec![("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)];
    let no_bytes: Vec<Piece<'_>> = bpe.iter().copied().chain([("▁", -2.0, 1), ("a", -3.0, 1), ("b", -3.0, 4), ("ab", -1.0, 5)]).collect();
    bpe.extend(bytes.iter().map(|text| (text.as_str(), 0.0, 6)));
    bpe.extend([("ab", 0.0, 1), ("▁ab", -1.0, 1), ("▁", -10.0, 1), ("a", -11.0, 1), ("b", -12.0, 1), ("é", -14.0, 1)]);
    let unigram: Vec<Piece<'_>> = vec![
        ("<pad>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<unk>", 0.0, 2),
        ("▁", -2.0, 1),
        ("▁abc", -5.0, 1),
        ("d", -9.0, 1),
        ("▁ab", -3.0, 1),
        ("cd", -3.0, 1),
        ("a", -8.0, 1),
        ("b", -8.0, 1),
        ("c", -8.0, 1),
    ];
    // Fields 3 (BPE) and 35 (bytes for unknown characters); 4 (spaces are kept).
    let (is_bpe, keeps_spaces) = ([0x18, 2, 0x98, 0x02, 1], [0x20, 0]);
    vec![
        seed("bpe", formats::sentencepiece(&bpe, &is_bpe, &keeps_spaces)),
        seed("bpe-without-bytes", formats::sentencepiece(&no_bytes, &[0x18, 2], &[])),
        seed("unigram", formats::sentencepiece(&unigram, &[], &[])),
        seed("unigram-with-map", formats::sentencepiece(&unigram, &[0x18, 1], &[field(1, b"nmt_nfkc"), field(2, &charsmap())].concat())),
    ]
}
