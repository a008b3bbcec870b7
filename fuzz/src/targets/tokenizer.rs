//! `tokenizer.json`: loading it, and encoding and decoding with it.

use easyedit::models::{TOKENIZER_FILE, load_tokenizer};
use serde_json::{Value, json};

use super::seed;
use super::texts::encode_and_decode;
use crate::formats::charsmap;
use crate::scratch::{file, folder};
use crate::small_model::tokenizer_json;

pub(super) fn run(data: &[u8]) -> bool {
    let path = folder("tokenizer");
    file(&path, TOKENIZER_FILE, data);
    let loaded = load_tokenizer(&path, &json!({ "model_type": "llama", "eos_token_id": 2 }));
    loaded.as_ref().is_ok_and(encode_and_decode)
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let whole = |model: Value, parts: Value| {
        let mut file = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{ "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": model,
        });
        parts.as_object().into_iter().flatten().for_each(|(key, value)| file[key] = value.clone());
        file.to_string()
    };
    let bpe = json!({
        "type": "BPE", "dropout": null, "unk_token": "<s>", "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
        "byte_fallback": true, "vocab": { "<s>": 0, "a": 1, "b": 2, "ab": 3, "▁": 4 }, "merges": [["a", "b"]],
    });
    let unigram =
        json!({ "type": "Unigram", "unk_id": 0, "vocab": [["<s>", 0.0], ["▁", -2.0], ["a", -3.0], ["▁ab", -4.0]], "byte_fallback": false });
    let wordpiece = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": { "[UNK]": 0, "a": 1, "##b": 2, "[CLS]": 3, "[SEP]": 4 },
    });
    let wordlevel = json!({ "type": "WordLevel", "vocab": { "<s>": 0, "w1": 1, "The": 2 }, "unk_token": "<s>" });
    let split = json!({
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": "\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)" }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
            { "type": "Digits", "individual_digits": true }, { "type": "FixedLength", "length": 4 },
        ] },
        "post_processor": { "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } } },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
    });
    let spaces = json!({
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            { "type": "Strip", "strip_left": true, "strip_right": false }, { "type": "NFKC" }, { "type": "Lowercase" },
        ] },
        "pre_tokenizer": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
    });
    let bert = json!({
        "added_tokens": [],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", 4], "cls": ["[CLS]", 3] },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
    });
    let cut = json!({
        "pre_tokenizer": { "type": "Whitespace" },
        "truncation": { "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 1 },
        "padding": { "strategy": { "Fixed": 8 }, "direction": "Left", "pad_to_multiple_of": 4, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>" },
    });
    vec![
        seed("bytes", tokenizer_json()),
        seed("bpe-split", whole(bpe.clone(), split)),
        seed("bpe-spaces", whole(bpe, spaces.clone())),
        seed("unigram", whole(unigram.clone(), spaces)),
        seed("precompiled", whole(unigram, json!({ "normalizer": precompiled() }))),
        seed("wordpiece", whole(wordpiece, bert)),
        seed("wordlevel", whole(wordlevel, cut)),
    ]
}

/// A normalizer with a map of characters, as it is written.
fn precompiled() -> Value {
    let map = tokenizers::normalizers::Precompiled::from(&charsmap()).unwrap();
    serde_json::to_value(tokenizers::NormalizerWrapper::from(map)).unwrap()
}
