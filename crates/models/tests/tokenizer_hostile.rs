//! Tokenizers made to do harm: each is refused with the part it is wrong in, or fails on a text with an error, or works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit_models::load_tokenizer;
use serde_json::{Value, json};

const TEXT: &str = "w1 The author of Green aaaaaaaaaaaaaaaaaaaaaaaaaaaaaab";

/// A tokenizer of words with some of its parts replaced.
fn tokenizer(parts: &Value) -> Value {
    let mut json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"w0": 0, "w1": 1, "author": 2}, "unk_token": "w0"},
    });
    json.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    json
}

/// What loading it, encoding [`TEXT`] and decoding the ids comes to.
fn run(json: &Value) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = load_tokenizer(dir.path(), &json!({})).map_err(|e| e.to_string())?;
    let encoding = tokenizer.encode(TEXT).map_err(|e| e.to_string())?;
    assert!(encoding.ids.len() < 10_000);
    tokenizer.decode(&encoding.ids).map_err(|e| e.to_string())
}

#[track_caller]
fn refused(parts: &Value, wanted: &[&str]) {
    let message = run(&tokenizer(parts)).unwrap_err();
    assert!(message.contains("tokenizer.json") && wanted.iter().all(|part| message.contains(part)), "{message}");
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

fn sequence(kind: &str, list: &str, steps: Vec<Value>) -> Value {
    json!({"type": kind, list: steps})
}

#[test]
fn patterns_without_end_are_stopped() {
    for pattern in ["(a+)+$", "(a*)*$", "(?:a|a)+$", r"(?=(a+)+$)|\w"] {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": true});
        refused(&json!({"pre_tokenizer": split}), &["too many steps", "w1 The author"]);
        refused(&json!({"pre_tokenizer": sequence("Sequence", "pretokenizers", vec![split])}), &["too many steps"]);
        refused(&json!({"normalizer": replace(json!({"Regex": pattern}), "")}), &["too many steps"]);
    }
    for (pattern, what) in [(r"(?<a>b)\g<a>", "calls its own groups"), ("(?(a)b|c)", "has a condition")] {
        refused(&json!({"normalizer": replace(json!({"Regex": pattern}), "")}), &["normalizer (Replace)", what]);
    }
    for pattern in [r"\\g", r"\(?(\d)", r"(?<a>b)\k<a>"] {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": false});
        assert!(run(&tokenizer(&json!({"pre_tokenizer": split}))).is_ok(), "{pattern}");
    }
    let long = "a".repeat(1 << 15);
    refused(&json!({"normalizer": replace(json!({"Regex": long}), "")}), &["normalizer (Replace)", "32768 bytes"]);
    let split = json!({"type": "Split", "pattern": {"String": long}, "behavior": "Removed", "invert": true});
    refused(&json!({"pre_tokenizer": split}), &["pre_tokenizer (Split)", "32768 bytes"]);
    refused(&json!({"normalizer": replace(json!({"Regex": "("}), "")}), &["is not a tokenizer"]);
}

#[test]
fn replacements_of_nothing_are_refused() {
    refused(&json!({"normalizer": replace(json!({"String": ""}), "zz")}), &["normalizer (Replace)", "empty"]);
    refused(&json!({"decoder": replace(json!({"String": ""}), "zz")}), &["decoder (Replace)", "empty"]);
    // A pattern that matches nothing between characters works, or is an error like any other.
    for pattern in ["", "x*", "(?=a)", r"\b"] {
        match run(&tokenizer(&json!({"normalizer": replace(json!({"Regex": pattern}), "zz")}))) {
            Ok(_) => {}
            Err(message) => assert!(message.contains("tokenizer.json: cannot encode"), "{message}"),
        }
    }
}

#[test]
fn pieces_of_no_length_are_refused() {
    let cut = json!({"type": "FixedLength", "length": 0});
    refused(&json!({"pre_tokenizer": cut}), &["pre_tokenizer (FixedLength)", "0 characters"]);
    let steps = vec![json!({"type": "Whitespace"}), cut];
    refused(&json!({"pre_tokenizer": sequence("Sequence", "pretokenizers", steps)}), &["pre_tokenizer[1] (FixedLength)"]);
    assert!(run(&tokenizer(&json!({"pre_tokenizer": {"type": "FixedLength", "length": 3}}))).is_ok());
}

#[test]
fn maps_that_claim_gigabytes_or_lead_nowhere_are_refused() {
    for (map, wanted) in [("/////wAA", "cut off"), ("AAAAAA==", "empty trie"), ("!", "base64")] {
        let map = json!({"type": "Precompiled", "precompiled_charsmap": map});
        refused(&json!({"normalizer": map}), &["normalizer (Precompiled)", wanted]);
        refused(&json!({"normalizer": sequence("Sequence", "normalizers", vec![map])}), &["normalizer[0] (Precompiled)", wanted]);
    }
}

#[test]
fn steps_that_multiply_are_refused() {
    let double = || replace(json!({"String": "a"}), "aa");
    for count in [13, 40, 5000] {
        let normalizer = sequence("Sequence", "normalizers", vec![double(); count]);
        refused(&json!({"normalizer": normalizer}), &["normalizer[12] (Replace)", "4096 bytes of one"]);
    }
    let nested = (0..20).fold(double(), |inner, _| sequence("Sequence", "normalizers", vec![inner, double()]));
    refused(&json!({"normalizer": nested}), &["4096 bytes of one"]);
    let long = || json!({"type": "Prepend", "prepend": "a".repeat(50_000)});
    refused(&json!({"normalizer": sequence("Sequence", "normalizers", vec![long(), long()])}), &["normalizer[1] (Prepend)", "adds more"]);
    refused(&json!({"normalizer": sequence("Sequence", "normalizers", vec![long(), double()])}), &["normalizer[1] (Replace)", "adds more"]);
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    refused(
        &json!({"pre_tokenizer": sequence("Sequence", "pretokenizers", vec![bytes; 40])}),
        &["pre_tokenizer[6] (ByteLevel)", "4096 bytes of one"],
    );
    let space = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    refused(&json!({"pre_tokenizer": sequence("Sequence", "pretokenizers", vec![space; 40])}), &["pre_tokenizer[6] (Metaspace)"]);
    // Parts without a type are read by their keys.
    let typeless = json!({"normalizers": vec![json!({"pattern": {"String": "a"}, "content": "aa"}); 40]});
    assert!(run(&tokenizer(&json!({"normalizer": typeless}))).is_err());
    refused(&json!({"normalizer": sequence("Sequence", "normalizers", vec![json!({"type": "Strip"}); 100])}), &["more than 64 steps"]);
}

#[test]
fn decoders_that_multiply_are_refused() {
    for step in [
        replace(json!({"String": "a"}), "aa"),
        json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        json!({"type": "BPEDecoder", "suffix": ""}),
    ] {
        let kind = step["type"].as_str().unwrap().to_owned();
        let place = format!("decoder[8] ({kind})");
        refused(&json!({"decoder": sequence("Sequence", "decoders", vec![step; 60])}), &[&place, "256 bytes of one"]);
    }
    let same = replace(json!({"Regex": "."}), "w");
    let strip = json!({"type": "Strip", "content": "w", "start": 0, "stop": usize::MAX});
    let outcome = run(&tokenizer(&json!({"decoder": sequence("Sequence", "decoders", vec![same, strip])})));
    assert!(outcome.as_ref().is_err_and(|message| message.contains("tokenizer.json: cannot decode")), "{outcome:?}");
}

#[test]
fn frames_that_repeat_the_text_or_are_long_are_refused() {
    let text = || json!({"Sequence": {"id": "A", "type_id": 0}});
    let token = || json!({"SpecialToken": {"id": "w1", "type_id": 0}});
    let template = |single: Vec<Value>, ids: usize| {
        json!({
            "type": "TemplateProcessing", "single": single, "pair": [],
            "special_tokens": {"w1": {"id": "w1", "ids": vec![1; ids], "tokens": vec!["w1"; ids]}},
        })
    };
    refused(&json!({"post_processor": template(vec![text(); 1000], 1)}), &["post_processor (TemplateProcessing)", "repeats"]);
    refused(&json!({"post_processor": template(vec![token(), text()], 2000)}), &["post_processor", "1024 tokens"]);
    refused(&json!({"post_processor": template(vec![token(); 2000], 1)}), &["post_processor", "1024 tokens"]);
    let steps = vec![template(vec![token(), text()], 100); 20];
    refused(&json!({"post_processor": sequence("Sequence", "processors", steps)}), &["post_processor[10]", "1024 tokens"]);
    let missing = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "gone", "type_id": 0}}, text()], "pair": [], "special_tokens": {}});
    assert!(run(&tokenizer(&json!({"post_processor": missing}))).is_err());
}

#[test]
fn models_with_absurd_sizes_are_refused() {
    let long = "x".repeat(5000);
    let vocabulary = json!({"type": "WordLevel", "vocab": {"w0": 0, &long: 1}, "unk_token": "w0"});
    refused(&json!({"model": vocabulary}), &["model: vocab holds a token of 5000 bytes"]);
    let unigram = json!({"type": "Unigram", "unk_id": 0, "vocab": [["w0", 0.0], [long, -1.0]], "byte_fallback": false});
    refused(&json!({"model": unigram}), &["model: vocab holds a token of 5000 bytes"]);
    let word_piece = |prefix: &str, chars: u64| json!({"type": "WordPiece", "unk_token": "w0", "continuing_subword_prefix": prefix, "max_input_chars_per_word": chars, "vocab": {"w0": 0}});
    refused(&json!({"model": word_piece("##", u64::MAX)}), &["model: max_input_chars_per_word is 18446744073709551615"]);
    refused(&json!({"model": word_piece(&"#".repeat(100), 100)}), &["model: continuing_subword_prefix has 100 bytes"]);
    assert!(run(&tokenizer(&json!({"model": word_piece("##", 100)}))).is_ok());
}

#[test]
fn added_tokens_that_are_or_become_long_are_refused() {
    let added = |content: &str, normalized: bool| json!([{"id": 2, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": normalized, "special": false}]);
    refused(&json!({"added_tokens": added(&"x".repeat(2000), false)}), &["added_tokens[0]", "2000 bytes"]);
    let longer = replace(json!({"String": "x"}), &"y".repeat(100));
    refused(&json!({"normalizer": longer, "added_tokens": added(&"x".repeat(100), true)}), &["added_tokens[0]", "10000 bytes when"]);
    assert!(run(&tokenizer(&json!({"normalizer": longer, "added_tokens": added("xx", true)}))).is_ok());
    let slow = replace(json!({"Regex": "(a+)+$"}), "");
    refused(
        &json!({"normalizer": slow, "added_tokens": added("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", true)}),
        &["added_tokens[0]", "fails on it"],
    );
}

#[test]
fn parts_of_public_tokenizers_are_accepted() {
    let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let space = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let text = |pattern: &str, content: &str| replace(json!({"String": pattern}), content);
    let llama = sequence("Sequence", "normalizers", vec![json!({"type": "Prepend", "prepend": "▁"}), text(" ", "▁")]);
    let albert = vec![
        text("``", "\""),
        text("''", "\""),
        json!({"type": "NFKD"}),
        json!({"type": "StripAccents"}),
        json!({"type": "Lowercase"}),
        replace(json!({"Regex": " {2,}"}), " "),
    ];
    let bert =
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
    let decoder = sequence(
        "Sequence",
        "decoders",
        vec![
            text("▁", " "),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
            json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
        ],
    );
    let deepseek = [split(r"\p{N}{1,3}"), split("[一-龥\u{3040}-ゟ゠-ヿ]+"), split(words), bytes(false)];
    for (name, parts) in [
        ("GPT-2", json!({"pre_tokenizer": bytes(true), "decoder": bytes(true), "post_processor": bytes(true)})),
        (
            "Llama 3",
            json!({"pre_tokenizer": sequence("Sequence", "pretokenizers", vec![split(words), bytes(false)]), "decoder": bytes(true)}),
        ),
        ("Llama 2", json!({"normalizer": llama, "pre_tokenizer": null, "decoder": decoder})),
        ("ALBERT", json!({"normalizer": sequence("Sequence", "normalizers", albert), "pre_tokenizer": space})),
        (
            "BERT",
            json!({"normalizer": bert, "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}}),
        ),
        (
            "DeepSeek",
            json!({"normalizer": sequence("Sequence", "normalizers", vec![]), "pre_tokenizer": sequence("Sequence", "pretokenizers", deepseek.to_vec())}),
        ),
    ] {
        let outcome = run(&tokenizer(&parts));
        assert!(outcome.is_ok(), "{name}: {outcome:?}");
    }
}
