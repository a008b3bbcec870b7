use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use easyedit_core::Tokenizer;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::proto::{ModelProto, ModelType, NormalizerSpec, Piece, PieceType, TrainerSpec};
use crate::companions::carried_files;
use crate::{Error, load_tokenizer};

fn piece(text: &str, score: f32, kind: PieceType) -> Piece {
    // As the trainer writes them: a normal piece has no type.
    let kind = (kind != PieceType::Normal).then_some(kind as i32);
    Piece { piece: Some(text.to_owned()), score: Some(score), r#type: kind }
}

fn normal(pieces: &[(&str, f32)]) -> Vec<Piece> {
    pieces.iter().map(|(text, score)| piece(text, *score, PieceType::Normal)).collect()
}

/// LLaMA's layout: `<unk>`, `<s>`, `</s>`, the bytes from 3 on, then from 259 on what is merged and the characters.
fn bpe() -> ModelProto {
    let mut pieces =
        vec![piece("<unk>", 0., PieceType::Unknown), piece("<s>", 0., PieceType::Control), piece("</s>", 0., PieceType::Control)];
    pieces.extend((0..256).map(|byte| piece(&format!("<0x{byte:02X}>"), 0., PieceType::Byte)));
    let merged = [("ab", 0.), ("▁ab", -1.), ("bc", -2.), ("abc", -3.)];
    let characters = [("▁", -10.), ("a", -11.), ("b", -12.), ("c", -13.), ("é", -14.)];
    pieces.extend(normal(&merged));
    pieces.extend(normal(&characters));
    ModelProto {
        pieces,
        trainer_spec: Some(TrainerSpec { model_type: Some(ModelType::Bpe as i32), byte_fallback: Some(true), ..TrainerSpec::default() }),
        normalizer_spec: Some(NormalizerSpec { remove_extra_whitespaces: Some(false), ..NormalizerSpec::default() }),
    }
}

/// T5's layout: `<pad>`, `</s>`, `<unk>`, then pieces with log-probabilities.
fn unigram() -> ModelProto {
    let mut pieces =
        vec![piece("<pad>", 0., PieceType::Control), piece("</s>", 0., PieceType::Control), piece("<unk>", 0., PieceType::Unknown)];
    let scored = [("▁", -2.), ("▁abc", -5.), ("d", -9.), ("▁ab", -3.), ("cd", -3.), ("a", -8.), ("b", -8.), ("c", -8.)];
    pieces.extend(normal(&scored));
    ModelProto { pieces, trainer_spec: None, normalizer_spec: None }
}

fn folder(file: &str, bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(file), bytes).unwrap();
    dir
}

fn tokenizer_of(model: &ModelProto, config: &Value) -> Tokenizer {
    load_tokenizer(folder("tokenizer.model", &model.encode_to_vec()).path(), config).unwrap()
}

fn llama() -> Tokenizer {
    tokenizer_of(&bpe(), &json!({"model_type": "llama"}))
}

fn t5() -> Tokenizer {
    tokenizer_of(&unigram(), &json!({"model_type": "t5"}))
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text).unwrap().ids
}

const fn byte(value: u32) -> u32 {
    3 + value
}

#[test]
fn the_best_score_is_merged_first() {
    let tokenizer = llama();
    // "ab" (0) comes before "bc" (-2), and then "▁ab" (-1) before "abc" (-3).
    assert_eq!(ids(&tokenizer, "abc"), [1, 260, 266]);
    assert_eq!(ids(&tokenizer, "bc"), [1, 263, 261]);
    // Without "▁" in front, "abc" is whole.
    assert_eq!(ids(&tokenizer, "babc"), [1, 263, 265, 262]);
    // Every space of a text counts.
    assert_eq!(ids(&tokenizer, "  a "), [1, 263, 263, 263, 264, 263]);
    assert_eq!(ids(&tokenizer, "<s>a</s>"), [1, 1, 263, 264, 2]);
    assert_eq!(tokenizer.eos(), [2]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.id_bound()), (268, 268));
}

#[test]
fn unknown_characters_are_bytes_and_spans_are_those_of_the_text() {
    let tokenizer = llama();
    let encoding = tokenizer.encode("東é abc\nab").unwrap();
    assert_eq!(encoding.ids, [1, 263, byte(0xE6), byte(0x9D), byte(0xB1), 267, 260, 266, byte(0x0A), 259]);
    assert_eq!(encoding.spans, [0..0, 0..3, 0..3, 0..3, 0..3, 3..5, 5..8, 8..9, 9..10, 10..12]);
    assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), "東é abc\nab");
    assert_eq!(tokenizer.decode(&ids(&tokenizer, "  ab  ")).unwrap(), "  ab  ");
    assert!(tokenizer.encode_bare("").unwrap().is_empty());
}

#[test]
fn the_best_segmentation_is_not_the_greedy_one() {
    let tokenizer = t5();
    // "▁abc" + "d" is -14, "▁ab" + "cd" is -6.
    assert_eq!(tokenizer.encode_whole("abcd").unwrap(), [6, 7, 1]);
    assert_eq!(ids(&tokenizer, "abc"), [4]);
    // The end of a text that is to be continued is left open, and unknown characters in a row are one token.
    assert_eq!(ids(&tokenizer, "xyz d"), [3, 2, 3, 5]);
    let encoding = tokenizer.encode("  abcd   é abc ").unwrap();
    assert_eq!(encoding.ids, [6, 7, 3, 2, 4]);
    let text = |place: usize| "  abcd   é abc "[encoding.spans[place].clone()].trim().to_owned();
    assert_eq!((0..5).map(text).collect::<Vec<_>>(), ["ab", "cd", "", "é", "abc"]);
    assert_eq!(tokenizer.decode(&ids(&tokenizer, "  abcd   abc ")).unwrap(), "abcd abc");
    assert!(ids(&tokenizer, "   ").iter().all(|id| *id == 1));
    assert_eq!(tokenizer.eos(), [1]);
}

#[test]
fn sentinels_of_t5_are_behind_the_vocabulary() {
    let tokenizer = t5();
    assert_eq!(tokenizer.inner().token_to_id("<extra_id_99>"), Some(11));
    assert_eq!(ids(&tokenizer, "<extra_id_0>"), [110]);
    let few_rows = tokenizer_of(&unigram(), &json!({"model_type": "t5", "vocab_size": 64}));
    assert_eq!(few_rows.id_bound(), 11);
    assert_eq!(tokenizer_of(&unigram(), &json!({"model_type": "mt5"})).id_bound(), 11);
}

#[test]
fn families_put_their_own_tokens_around_a_text() {
    let around = |model_type: &str| tokenizer_of(&bpe(), &json!({"model_type": model_type})).encode_whole("ab").unwrap();
    for begins in ["llama", "internlm", "mistral"] {
        assert_eq!(around(begins), [1, 260], "{begins}");
    }
    assert_eq!(around("baichuan"), [260]);
    assert_eq!(around("t5"), [260, 2]);
    // 268 pieces: [MASK] is 268, [gMASK] 269, [sMASK] 270, sop 271, eop 272.
    assert_eq!(around("chatglm"), [269, 271, 260]);
    let chatglm = tokenizer_of(&bpe(), &json!({"model_type": "chatglm", "eos_token_id": 2}));
    assert_eq!((chatglm.id_bound(), chatglm.inner().token_to_id("eop")), (273, Some(272)));
    assert_eq!(chatglm.decode(&[269, 271, 260]).unwrap(), "ab");
    let spelt: Vec<u32> = [1, 3, 260].into_iter().chain("sop".bytes().map(|b| byte(b.into()))).collect();
    assert_eq!(ids(&chatglm, "absop")[2..], spelt[2..]);
    assert_eq!(chatglm.encode_bare("absop").unwrap(), spelt[2..]);
}

#[test]
fn tokenizer_config_is_honoured() {
    let load = |settings: Value, model_type: &str| {
        let dir = folder("tokenizer.model", &bpe().encode_to_vec());
        fs::write(dir.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
        load_tokenizer(dir.path(), &json!({"model_type": model_type}))
    };
    let whole = |settings: Value, model_type: &str| load(settings, model_type).unwrap().encode_whole("ab").unwrap();
    assert_eq!(whole(json!({"add_bos_token": false}), "llama"), [260]);
    assert_eq!(whole(json!({"add_bos_token": true, "add_eos_token": true}), "baichuan"), [1, 260, 2]);
    assert_eq!(whole(json!({"bos_token": {"content": "</s>"}, "add_eos_token": null}), "llama"), [2, 260]);
    // Early conversions of LLaMA leave the names empty.
    assert_eq!(whole(json!({"bos_token": "", "eos_token": ""}), "llama"), [1, 260]);

    let added = json!({"268": {"content": "<ab>", "special": false}, "0": {"content": "<unk>", "special": true, "normalized": true}});
    let tokenizer = load(json!({"added_tokens_decoder": added, "eos_token": "<ab>"}), "llama").unwrap();
    assert_eq!(ids(&tokenizer, "a<ab><unk>"), [1, 263, 264, 268, 0]);
    assert_eq!(tokenizer.eos(), [268]);
    assert_eq!(tokenizer.decode(&[268, 0]).unwrap(), "<ab>");

    for (settings, part) in [
        (json!({"add_bos_token": 1}), "add_bos_token is 1"),
        (json!({"added_tokens_decoder": {"300": {"content": "<ab>"}}}), "the id 300, but its place is 268"),
        (json!({"added_tokens_decoder": {"5": {"content": "<s>"}}}), "the id 5, but its place is 1"),
        (json!({"added_tokens_decoder": {"x": {"content": "<s>"}}}), "\"x\""),
        (json!({"added_tokens_decoder": []}), "not an object"),
    ] {
        let message = load(settings, "llama").unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("tokenizer_config.json"), "{message}");
    }
}

#[test]
fn a_token_that_is_asked_for_must_be_there() {
    let dir = folder("spiece.model", &unigram().encode_to_vec());
    fs::write(dir.path().join("tokenizer_config.json"), json!({"add_bos_token": true}).to_string()).unwrap();
    let message = load_tokenizer(dir.path(), &json!({"model_type": "t5"})).unwrap_err().to_string();
    assert!(message.contains("add_bos_token asks for a bos_token"), "{message}");
    fs::write(dir.path().join("tokenizer_config.json"), json!({"extra_ids": -1}).to_string()).unwrap();
    let message = load_tokenizer(dir.path(), &json!({"model_type": "t5"})).unwrap_err().to_string();
    assert!(message.contains("extra_ids"), "{message}");
}

#[test]
fn user_defined_pieces_are_whole_in_any_text() {
    let mut model = bpe();
    model.pieces.push(piece("cab", 0., PieceType::UserDefined));
    model.normalizer_spec =
        Some(NormalizerSpec { add_dummy_prefix: Some(false), remove_extra_whitespaces: Some(false), ..NormalizerSpec::default() });
    let tokenizer = tokenizer_of(&model, &json!({"model_type": "baichuan"}));
    assert_eq!(ids(&tokenizer, "bcabc"), [265, 268, 266]);
    assert_eq!(tokenizer.decode(&[265, 268, 266]).unwrap(), "bcabc");
}

#[test]
fn tokenizer_json_wins_and_folders_without_any_say_so() {
    let dir = folder("tokenizer.model", &bpe().encode_to_vec());
    fs::write(dir.path().join("spiece.model"), "damaged").unwrap();
    load_tokenizer(dir.path(), &json!({})).unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    let message = load_tokenizer(dir.path(), &json!({})).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json") && message.contains("not a tokenizer"), "{message}");

    let empty = tempfile::tempdir().unwrap();
    let message = load_tokenizer(empty.path(), &json!({})).unwrap_err().to_string();
    for part in ["tokenizer.json", "tokenizer.model", "spiece.model", "use_fast=True", "save_pretrained"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_file_is_carried_to_where_the_model_is_saved() {
    for name in ["tokenizer.model", "spiece.model"] {
        let bytes = bpe().encode_to_vec();
        let carried = carried_files(folder(name, &bytes).path(), false).unwrap();
        assert_eq!(carried.get(name), Some(&bytes));
    }
}

fn refusal(bytes: &[u8]) -> String {
    let dir = folder("tokenizer.model", bytes);
    let start = Instant::now();
    let error = load_tokenizer(dir.path(), &json!({"model_type": "llama"})).map(|_| ()).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(matches!(error, Error::Format { .. } | Error::Unsupported(_)), "{error:?}");
    let message = error.to_string();
    assert!(message.contains(&*dir.path().join("tokenizer.model").to_string_lossy()), "{message}");
    message
}

#[test]
fn hostile_files_are_refused_by_name() {
    let whole = bpe().encode_to_vec();
    for cut in [1, 2, 7, 100, whole.len() - 1] {
        refusal(&whole[..cut]);
    }
    assert!(refusal(&[]).contains("no pieces"));
    assert!(refusal(b"sentencepiece").contains("use_fast=True"));
    assert!(refusal(&[0x0A, 0x00].repeat((1 << 20) + 1)).contains("pieces, at most"));
    // A length far beyond the end of the file.
    refusal(&[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
    assert!(refusal(&vec![0; (16 << 20) + 1]).contains("at most 16777216 are read"));

    let changed = |change: &dyn Fn(&mut ModelProto)| {
        let mut model = bpe();
        change(&mut model);
        refusal(&model.encode_to_vec())
    };
    assert!(changed(&|m| m.pieces[260].piece = None).contains("piece 260 is 0 bytes long"));
    assert!(changed(&|m| m.pieces[260].piece = Some("a".repeat(513))).contains("513 bytes"));
    assert!(changed(&|m| m.pieces[260].piece = Some("a".to_owned())).contains("twice"));
    assert!(changed(&|m| m.pieces[260].score = Some(f32::NAN)).contains("score NaN"));
    assert!(changed(&|m| m.pieces[260].r#type = Some(9)).contains("unknown type 9"));
    assert!(changed(&|m| m.pieces[260].r#type = Some(2)).contains("second for unknown"));
    // Normal by default, so that there is no piece for unknown characters.
    assert!(changed(&|m| m.pieces[0].r#type = None).contains("no piece for unknown"));
    for (kind, name) in [(3, "Word"), (4, "Char"), (77, "77")] {
        assert!(changed(&|m| m.trainer_spec.as_mut().unwrap().model_type = Some(kind)).contains(name), "{kind}");
    }
    assert!(changed(&|m| m.trainer_spec.as_mut().unwrap().treat_whitespace_as_suffix = Some(true)).contains("end of words"));
    let map = |m: &mut ModelProto| m.normalizer_spec.as_mut().unwrap().precompiled_charsmap = Some(vec![9; 40]);
    assert!(changed(&map).contains("precompiled_charsmap"));
}

#[test]
fn pieces_that_merge_in_absurdly_many_ways_are_refused() {
    let mut model = bpe();
    let letters = ('a'..='z').chain('A'..='Z').chain('α'..='ω').chain('а'..='я');
    let runs = letters.flat_map(|letter| (2..=512 / letter.len_utf8()).map(move |n| letter.to_string().repeat(n)));
    model.pieces.truncate(259);
    model.pieces.extend(runs.map(|run| piece(&run, -1., PieceType::Normal)));
    assert!(refusal(&model.encode_to_vec()).contains("more ways"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn texts_come_back_and_spans_lie_in_them(text in "[abc é東🙂\n\t]{0,24}") {
        let tokenizer = llama();
        let encoding = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), text.clone());
        for span in &encoding.spans {
            prop_assert!(text.get(span.clone()).is_some(), "{span:?}");
        }
        prop_assert!(encoding.spans.windows(2).all(|pair| pair[0].start <= pair[1].start));
        if !text.is_empty() {
            prop_assert_eq!(encoding.spans.last().unwrap().end, text.len());
        }
        let unigram = t5().encode(&text).unwrap();
        prop_assert!(unigram.spans.iter().all(|span| text.get(span.clone()).is_some()));
    }

    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
        is_unigram in any::<bool>(),
    ) {
        let mut bytes = if is_unigram { unigram() } else { bpe() }.encode_to_vec();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        try_out(&bytes);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..256)) {
        try_out(&noise);
    }
}

fn try_out(bytes: &[u8]) {
    let dir = folder("tokenizer.model", bytes);
    let load = |path: &Path| load_tokenizer(path, &json!({"model_type": "t5"}));
    if let Ok(tokenizer) = load(dir.path())
        && let Ok(encoding) = tokenizer.encode("abcd  é x")
    {
        let _ = tokenizer.decode(&encoding.ids);
    }
}
