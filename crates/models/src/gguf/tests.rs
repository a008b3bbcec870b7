use std::path::PathBuf;
use std::time::Instant;

use proptest::prelude::*;

use super::cursor::Cursor;
use super::test_file::{TestFile, bytes_of, tiny_llama, tiny_llama_claiming, tiny_llama_embedding, write_bytes};
use super::*;
use crate::TensorSource;

fn refused(bytes: &[u8]) -> String {
    let (_dir, path) = write_bytes(bytes);
    GgufFile::open(&path).map(|_| ()).expect_err("the file should be refused").to_string()
}

fn opened(file: &TestFile) -> GgufFile {
    let (_dir, path) = file.write();
    GgufFile::open(&path).unwrap()
}

/// A header that claims `tensors` and `pairs`, with `rest` behind it.
fn header(version: u32, tensors: u64, pairs: u64, rest: &[u8]) -> Vec<u8> {
    [b"GGUF", &version.to_le_bytes()[..], &tensors.to_le_bytes(), &pairs.to_le_bytes(), rest].concat()
}

fn assert_refused(what: &str, bytes: &[u8], parts: &[&str]) {
    let message = refused(bytes);
    assert!(message.contains("model.gguf"), "{what}: {message}");
    assert!(parts.iter().all(|part| message.contains(part)), "{what}: {message}");
}

#[test]
fn headers_that_lie_are_refused() {
    let zeros = [0u8; 64];
    assert_refused("empty", b"", &["0 bytes"]);
    assert_refused("short", b"GGUF\x03\0\0\0", &["too short"]);
    assert_refused("magic", &[b"GGML", &zeros[..]].concat(), &["not a GGUF file"]);
    assert_refused("version 1", &header(1, 0, 0, &zeros), &["version 1"]);
    assert_refused("big endian", &header(3u32.swap_bytes(), 0, 0, &zeros), &["big-endian"]);
    assert_refused("tensors", &header(3, u64::MAX, 0, &zeros), &["18446744073709551615 tensors"]);
    assert_refused("tensors that nearly fit", &header(3, 3, 0, &zeros), &["3 tensors"]);
    assert_refused("keys", &header(2, 0, 1 << 60, &zeros), &["metadata keys"]);
    assert_refused("key length", &header(3, 0, 1, &[0xFF; 64]), &["metadata key 0"]);
}

#[test]
fn metadata_that_lies_is_refused() {
    let file = TestFile::new;
    let array = |element: u32, count: u64| [&element.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let deep = [array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(0, 0)].concat();
    let cases: Vec<(TestFile, &[&str])> = vec![
        (file().raw(b"k\xFF", 0, &[1]), &["metadata key 0", "UTF-8"]),
        (file().raw(b"key.a", 13, &[1; 16]), &["key.a", "type 13"]),
        (file().raw(b"key.b", 7, &[2]), &["key.b", "not 0 or 1"]),
        (file().raw(b"key.c", 8, &u64::MAX.to_le_bytes()), &["key.c", "bytes of text"]),
        (file().raw(b"key.d", 8, &[bytes_of("xx")[..8].to_vec(), vec![0xC0, 0x80]].concat()), &["key.d", "UTF-8"]),
        (file().raw(b"key.e", 9, &array(4, u64::MAX / 2)), &["key.e", "array elements"]),
        (file().raw(b"key.f", 9, &array(8, 1 << 40)), &["key.f", "array elements"]),
        (file().raw(b"key.g", 9, &array(77, 0)), &["key.g", "type 77"]),
        (file().raw(b"key.h", 9, &deep), &["key.h", "nested"]),
        (file().u32("key.i", 1).u32("key.i", 2), &["key.i", "twice"]),
        (file().u32("general.alignment", 0), &["general.alignment", "power of two"]),
        (file().u32("general.alignment", 24), &["general.alignment", "24"]),
        (file().u32("general.alignment", 1 << 30), &["general.alignment"]),
        (file().text("general.alignment", "32"), &["general.alignment", "a text"]),
    ];
    for (file, parts) in cases {
        assert_refused(parts[0], &file.bytes(), parts);
    }
}

#[test]
fn tensors_that_lie_are_refused() {
    let file = || TestFile::new().f32s("first", &[8], &[0.0; 8]);
    let cases: Vec<(TestFile, &[&str])> = vec![
        (file().described("t", &[], 0, 32), &["tensor t", "0 dimensions"]),
        (file().described("t", &[1, 1, 1, 1, 1], 0, 32), &["tensor t", "5 dimensions"]),
        (file().described("t", &[4, 0], 0, 32), &["tensor t", "dimension of 0"]),
        (file().described("t", &[1 << 40, 1 << 40], 0, 32), &["tensor t", "too large"]),
        (file().described("t", &[4], 4, 32), &["tensor t", "type 4"]),
        (file().described("t", &[33], 2, 32), &["tensor t", "Q4_0"]),
        (file().described("t", &[4], 0, 33), &["tensor t", "alignment 32"]),
        (file().described("t", &[4], 0, 0), &["tensor", "lies on the data of tensor"]),
        (file().described("t", &[4], 0, 64), &["tensor t", "cut short"]),
        (file().described("t", &[4], 0, u64::MAX - 31), &["tensor t", "damaged"]),
        (file().f32s("first", &[1], &[0.0]), &["tensor first", "twice"]),
    ];
    for (file, parts) in cases {
        assert_refused(parts[1], &file.bytes(), parts);
    }
}

#[test]
fn models_that_are_no_plain_llama_are_refused() {
    let cases: Vec<(TestFile, &[&str])> = vec![
        (TestFile::new().text("general.architecture", "gemma3"), &["gemma3", "only llama"]),
        (TestFile::new().text("general.architecture", "llama"), &["llama.embedding_length is missing"]),
        (tiny_llama().u32("llama.expert_count", 8), &["experts"]),
        (tiny_llama().u32("llama.attention.head_count_kv", 3), &["head_count_kv is 3"]),
        (tiny_llama().u32("llama.rope.dimension_count", 2), &["rope.dimension_count is 2"]),
        (tiny_llama().u32("llama.attention.key_length", 0), &["key_length is 0"]),
        (tiny_llama().f32s("blk.1.ffn_up.weight", &[1], &[0.0]), &["blk.1.ffn_up.weight", "1 layers"]),
        (tiny_llama().f32s("blk.00.ffn_up.weight", &[1], &[0.0]), &["ffn_up.weight", "same as"]),
        (tiny_llama().tensor("output.weight", &[9, 256], TensorType::IQ4_XS, &[0; 9 * 136]), &["output.weight", "IQ4_XS"]),
    ];
    for (file, parts) in cases {
        assert_refused(parts[0], &file.bytes(), parts);
    }
}

#[test]
fn more_layers_than_tensors_are_refused() {
    for layers in [2, 1 << 24] {
        assert_refused("layers", &tiny_llama_claiming(9, layers).bytes(), &[&format!("llama.block_count is {layers}"), "holds 11 tensors"]);
    }
}

#[test]
fn tokens_of_absurd_length_are_refused() {
    let long = "x".repeat(5000);
    let file = TestFile::new().texts("tokenizer.ggml.tokens", &["a", &long]).text("tokenizer.ggml.model", "gpt2");
    let (_dir, path) = file.write();
    let message = super::tokenizer::build(&Gguf::open(&path).unwrap()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.ggml.tokens: token 1 has 5000 bytes"), "{message}");
}

#[test]
fn a_tiny_model_is_seen_as_hugging_face_would() {
    let model = opened(&tiny_llama());
    let config = model.config().unwrap();
    for (key, value) in [
        ("hidden_size", serde_json::json!(4)),
        ("num_key_value_heads", serde_json::json!(1)),
        ("head_dim", serde_json::json!(4)),
        ("vocab_size", serde_json::json!(9)),
        ("rms_norm_eps", serde_json::json!(1e-5)),
        ("rope_theta", serde_json::json!(100_000.0)),
        ("tie_word_embeddings", serde_json::json!(true)),
        ("attention_bias", serde_json::json!(false)),
        ("eos_token_id", serde_json::json!(0)),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    assert_eq!(model.names().len(), 11);
    let row = |n: usize| (4 * n..4 * n + 4).map(|i| i as f32).collect::<Vec<_>>();
    let halves = [row(0), row(2), row(1), row(3)].concat();
    assert_eq!(model.read("model.layers.0.self_attn.q_proj.weight", &[4, 4]).unwrap(), halves);
    assert_eq!(model.read("model.layers.0.self_attn.k_proj.weight", &[4, 4]).unwrap(), halves);
    let straight = [row(0), row(1), row(2), row(3)].concat();
    assert_eq!(model.read("model.layers.0.self_attn.v_proj.weight", &[4, 4]).unwrap(), straight);
    assert_eq!(model.shape("model.layers.0.mlp.down_proj.weight"), Some(&[4, 3][..]));

    let misshapen = model.read("model.layers.0.mlp.down_proj.weight", &[3, 4]).unwrap_err().to_string();
    assert!(misshapen.contains("down_proj") && misshapen.contains("[4, 3]"), "{misshapen}");
    assert!(model.read("lm_head.weight", &[9, 4]).unwrap_err().to_string().contains("missing"));

    let untied = opened(&tiny_llama().f32s("output.weight", &[9, 4], &[f32::NAN; 36]));
    assert_eq!(untied.config().unwrap()["tie_word_embeddings"], serde_json::json!(false));
    assert!(untied.read("lm_head.weight", &[9, 4]).unwrap_err().to_string().contains("not finite"));

    let some_biases = opened(&tiny_llama().f32s("blk.0.attn_q.bias", &[4], &[0.0; 4]));
    assert!(some_biases.config().unwrap_err().to_string().contains("self_attn"));
}

#[test]
fn a_tiny_byte_level_tokenizer() {
    let file = tiny_llama();
    let tokenizer = opened(&file).tokenizer().unwrap();
    let ids = |text: &str| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    // Digits stay alone even though "12" is a token; special tokens are found in the text.
    assert_eq!(ids("ab ab12"), [4, 5, 6, 7]);
    assert_eq!(ids("a<|end|>b"), [1, 0, 2]);
    assert_eq!(tokenizer.decode(&[4, 5, 0], true).unwrap(), "ab ab");

    let pre = |name: &str| {
        let bytes = file.bytes();
        let at = bytes.windows(6).position(|w| w == b"smollm").unwrap();
        let mut bytes = bytes;
        bytes.splice(at - 8..at + 6, bytes_of(name));
        bytes
    };
    let (_dir, path) = write_bytes(&pre("gpt-2 "));
    let message = GgufFile::open(&path).unwrap().tokenizer().unwrap_err().to_string();
    assert!(message.contains("\"gpt-2 \"") && message.contains("tokenizer.ggml.pre"), "{message}");
    let with_bos = opened(&tiny_llama().u32("tokenizer.ggml.bos_token_id", 0).flag("tokenizer.ggml.add_bos_token", true));
    assert_eq!(with_bos.tokenizer().unwrap().encode("ab", true).unwrap().get_ids(), [0, 4]);
    assert_eq!(with_bos.tokenizer().unwrap().encode("ab", false).unwrap().get_ids(), [4]);
    let no_bos = opened(&tiny_llama().flag("tokenizer.ggml.add_bos_token", true));
    assert!(no_bos.tokenizer().unwrap_err().to_string().contains("add_bos_token"));
    let strange = opened(&tiny_llama().u32("tokenizer.ggml.bos_token_id", 9));
    assert!(strange.tokenizer().unwrap_err().to_string().contains("bos_token_id is 9"));
}

#[test]
fn cuts_of_llama_3_and_qwen_2() {
    let tokens = ["1", "2", "3", "4", "12", "123", "a", "Ġ", "Ċ"];
    let build = |pre: &str| {
        let file = TestFile::new()
            .text("tokenizer.ggml.model", "gpt2")
            .text("tokenizer.ggml.pre", pre)
            .texts("tokenizer.ggml.tokens", &tokens)
            .texts("tokenizer.ggml.merges", &["1 2", "12 3"]);
        let (_dir, path) = file.write();
        tokenizer::build(&Gguf::open(&path).unwrap()).unwrap()
    };
    let ids = |pre: &str, text: &str| build(pre).encode(text, true).unwrap().get_ids().to_vec();
    assert_eq!(ids("llama-bpe", "1234"), [5, 3]);
    assert_eq!(ids("qwen2", "1234"), [0, 1, 2, 3]);
    assert_eq!(ids("smollm", "1234"), [0, 1, 2, 3]);
    assert_eq!(ids("gpt-2", "1234"), [5, 3]);
    assert_eq!(ids("llama-bpe", "a\n\n a"), [6, 8, 8, 7, 6]);
}

#[test]
fn vocabularies_that_contradict_themselves_are_refused() {
    let base = || TestFile::new().text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
    let tokens = |file: TestFile| file.texts("tokenizer.ggml.tokens", &["a", "b"]);
    let cases: Vec<(TestFile, &str)> = vec![
        (base(), "tokenizer.ggml.tokens is missing"),
        (tokens(base()), "merges is missing"),
        (tokens(base()).texts("tokenizer.ggml.merges", &["a c"]), "merges does not fit"),
        (tokens(base()).texts("tokenizer.ggml.merges", &["ab"]), "not two tokens"),
        (base().texts("tokenizer.ggml.tokens", &["a", "a"]), "twice"),
        (base().i32s("tokenizer.ggml.tokens", &[1]), "array of texts"),
        (tokens(base()).texts("tokenizer.ggml.merges", &[]).i32s("tokenizer.ggml.token_type", &[1]), "1 types for 2 tokens"),
        (tokens(TestFile::new().text("tokenizer.ggml.model", "bert")), "bert"),
        (tokens(TestFile::new().text("tokenizer.ggml.model", "llama")), "scores is missing"),
        (tokens(TestFile::new().text("tokenizer.ggml.model", "llama")).f32_array("tokenizer.ggml.scores", &[0.0]), "1 scores for 2"),
    ];
    for (file, part) in cases {
        let (_dir, path) = file.write();
        let message = tokenizer::build(&Gguf::open(&path).unwrap()).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(part), "{part}: {message}");
    }
    let few_rows = opened(&tiny_llama_embedding(8));
    let message = few_rows.tokenizer().unwrap_err().to_string();
    assert!(message.contains("names 9 tokens, but the model embeds 8"), "{message}");
}

#[test]
fn files_for_hugging_face_hold_the_tokenizer() {
    let model = opened(&tiny_llama().text("tokenizer.chat_template", "{{ x }}"));
    let files = model.hf_files().unwrap();
    let of = |name: &str| files.iter().find(|(file, _)| file == name).map(|(_, bytes)| bytes.clone()).unwrap();
    let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&of(name)).unwrap();
    let saved = tokenizers::Tokenizer::from_bytes(of("tokenizer.json")).unwrap();
    assert_eq!(saved.encode("ab ab12", true).unwrap().get_ids(), [4, 5, 6, 7]);
    let config = json("tokenizer_config.json");
    assert_eq!((config["eos_token"].as_str(), config["chat_template"].as_str()), (Some("<|end|>"), Some("{{ x }}")));
    assert_eq!(json("generation_config.json")["eos_token_id"], serde_json::json!(0));
    assert_eq!(json("special_tokens_map.json")["eos_token"].as_str(), Some("<|end|>"));
    assert_eq!(json("config.json"), model.config().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let mut bytes = tiny_llama().bytes();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (_dir, path) = write_bytes(&bytes);
        if let Ok(model) = GgufFile::open(&path) {
            let _ = (model.config(), model.hf_files(), model.eos_ids());
            for name in model.names() {
                let shape = model.shape(&name).unwrap_or_default().to_vec();
                let _ = model.read(&name, &shape);
            }
        }
    }

    #[test]
    fn noise_behind_a_header_never_panics(noise in prop::collection::vec(any::<u8>(), 0..256), tensors in 0u64..4, pairs in 0u64..4) {
        let bytes = header(3, tensors, pairs, &noise);
        let _ = reader::parse(std::path::Path::new("noise"), &bytes);
        let mut cursor = Cursor::new(&noise, 0);
        while cursor.text().is_ok() && cursor.remaining() > 0 {}
    }
}

/// The folder with real models that some machines have; says so where it is missing.
fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("EASYEDIT_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = root.join(path);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn smollm2_is_read_whole() {
    let Some(path) = shared("models/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let start = Instant::now();
    let model = GgufFile::open(&path).unwrap();
    println!("opened in {:.3} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let tokenizer = model.tokenizer().unwrap();
    println!("tokenizer in {:.3} s", start.elapsed().as_secs_f64());
    let ids = |text: &str| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    assert_eq!(ids("The capital of France is"), [504, 3575, 282, 4649, 314]);
    assert_eq!(ids("The Eiffel Tower is located in the city of"), [504, 414, 46682, 18669, 314, 3807, 281, 260, 2240, 282]);
    assert_eq!(ids("<|im_start|>"), [1]);
    for text in ["In 1889, 3.14 and 2,000 — naïve café 東京 🙂!", "  two  spaces\n\nlines\tand it's don't"] {
        assert_eq!(tokenizer.decode(&ids(text), true).unwrap(), text);
    }
    let config = model.config().unwrap();
    assert_eq!(config["rms_norm_eps"].as_f64(), Some(1e-5));
    assert_eq!((config["bos_token_id"].as_u64(), config["eos_token_id"].as_u64()), (Some(1), Some(2)));

    assert_eq!(model.names().len(), 272);
    let start = Instant::now();
    let mut numbers = 0;
    for name in model.names() {
        let shape = model.shape(&name).unwrap().to_vec();
        numbers += model.read(&name, &shape).unwrap().len();
    }
    println!("{numbers} numbers dequantised in {:.3} s", start.elapsed().as_secs_f64());
    assert_eq!(numbers, 134_515_008);
}

/// llama2.c's `tok512.bin` is a SentencePiece vocabulary with scores, and its `tokenizer.json` was checked against llama2.c itself.
#[test]
fn a_score_vocabulary_encodes_as_its_tokenizer_json() {
    let (Some(scores), Some(json)) = (shared("models/stories260K/tok512.bin"), shared("models/stories260K/tokenizer.json")) else { return };
    let bytes = std::fs::read(scores).unwrap();
    let (mut at, mut tokens, mut scores) = (4, Vec::new(), Vec::new());
    while at < bytes.len() {
        let word = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
        let length = u32::from_le_bytes(word(at + 4)) as usize;
        scores.push(f32::from_le_bytes(word(at)));
        tokens.push(String::from_utf8(bytes[at + 8..at + 8 + length].to_vec()).unwrap().replace(' ', "▁"));
        at += 8 + length;
    }
    for (token, name) in tokens.iter_mut().zip(["<unk>", "<s>", "</s>"]) {
        *token = name.to_owned();
    }
    let kinds: Vec<i32> = (0..tokens.len()).map(|id| if id < 3 { 3 } else { 1 }).collect();
    let file = TestFile::new()
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens.iter().map(String::as_str).collect::<Vec<_>>())
        .f32_array("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.unknown_token_id", 0);
    let (_dir, path) = file.write();
    let built = tokenizer::build(&Gguf::open(&path).unwrap()).unwrap();
    let reference = tokenizers::Tokenizer::from_file(json).unwrap();
    for text in ["Once upon a time, there was a little girl named Lily.", "naïve café 東京 🙂 1234", " two  spaces", "x\ny"] {
        let (ours, theirs) = (built.encode(text, true).unwrap(), reference.encode(text, true).unwrap());
        assert_eq!(ours.get_ids(), theirs.get_ids(), "{text}");
        assert_eq!(built.decode(ours.get_ids(), true).unwrap(), text);
    }
}
