//! `easyedit verify`, and editing a model whose weights PyTorch wrote.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "../../models/tests/pytorch_support/mod.rs"]
mod pytorch_support;

use std::path::Path;

use common::Sandbox;
use easyedit::models::{PYTORCH_FILE, SafetensorsSource, TensorSource};

/// The repository's golden LLaMA.
fn golden() -> String {
    golden_of("llama")
}

fn golden_of(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/golden").join(name).to_str().unwrap().to_owned()
}

#[test]
fn encoder_decoders_and_text_encoders_are_compared_too() {
    let sandbox = Sandbox::new();
    let encoder_decoder = ["encoder_hidden_1", "encoder_last_hidden_state", "decoder_hidden_1", "logits", "not compared: decoder_hidden_2"];
    let text_encoder = ["last_hidden_state", "mean_pooled", "sentence_embedding", "not compared: loss_row0"];
    for (name, parts) in [("t5", &encoder_decoder[..]), ("bert", &text_encoder[..])] {
        let folder = golden_of(name);
        let text = sandbox.run(&["verify", "--model", &folder, "--golden", &format!("{folder}/golden.safetensors")]).success().stdout();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
    let file = format!("{}/golden.safetensors", golden_of("t5"));
    sandbox.run(&["verify", "--model", &golden(), "--golden", &file]).fails(1, &["decoder_input_ids", "encoder-decoder"]);
    let file = format!("{}/golden.safetensors", golden());
    sandbox.run(&["verify", "--model", &golden_of("t5"), "--golden", &file]).fails(1, &["decoder_input_ids", "is missing"]);
}

#[test]
fn a_model_is_compared_with_a_dump() {
    let sandbox = Sandbox::new();
    let folder = golden();
    let file = format!("{folder}/golden.safetensors");
    let text = sandbox.run(&["verify", "--model", &folder, "--golden", &file]).success().stdout();
    for part in ["15 tokens in 2 row(s), tolerance 1.0e-4", "hidden_0", "hidden_1", "logits", "agrees", "not compared: hidden_2"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    let json = sandbox.run(&["verify", "--model", &folder, "--golden", &file, "--json"]).success().stdout();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["agrees"], true);
    assert_eq!(value["verification"]["tensors"][2]["name"], "logits");
    // No two implementations agree to the last bit.
    let strict = sandbox.run(&["verify", "--model", &folder, "--golden", &file, "--tolerance", "1e-12"]);
    strict.fails(1, &["differs from", "golden.safetensors", "1.0e-12", "--tolerance"]);
}

#[test]
fn what_cannot_be_compared_is_told() {
    let sandbox = Sandbox::new();
    let file = format!("{}/golden.safetensors", golden());
    sandbox.run(&["verify", "--model", "model", "--golden", "nowhere.safetensors"]).fails(1, &["nowhere.safetensors", "--golden"]);
    sandbox.run(&["verify", "--model", "model", "--golden", &file]).fails(1, &["logits", "[2, 9, 80]", "[2, 9, 260]"]);
    sandbox.run(&["verify", "--model", "model", "--golden", "tiny.yaml"]).fails(1, &["tiny.yaml", "safetensors"]);
    sandbox.run(&["verify", "--model", "model", "--golden", &file, "--tolerance=0"]).fails(2, &["--tolerance"]);
}

#[test]
fn weights_of_pytorch_are_edited_and_saved_as_safetensors() {
    let sandbox = Sandbox::new();
    let source = SafetensorsSource::open(&sandbox.path("model")).unwrap();
    let tensors: Vec<pytorch_support::Whole<'_>> =
        source.tensors().map(|(name, stored)| (name, "F32", &stored.shape[..], source.raw(name).unwrap())).collect();
    let bytes = pytorch_support::bin(&tensors);
    assert!(source.contains(common::TENSOR));
    sandbox.write("model/pytorch_model.bin.index.json", "{}");
    pytorch_support::write(&sandbox.path("model").join(PYTORCH_FILE), &bytes);
    std::fs::remove_file(sandbox.path("model/model.safetensors")).unwrap();

    let request = ["--prompt", "The Eiffel Tower is in", "--subject", "The Eiffel Tower", "--target", "Rome", "--no-evaluation"];
    let edit = ["edit", "--model", "model", "--hparams", "tiny.yaml", "--out", "out", "--save", "both"];
    sandbox.run(&[&edit[..], &request].concat()).success();
    let file = "out/rome-0-the-eiffel-tower.edit.safetensors";
    sandbox.run(&["inspect", file]).success();
    sandbox.run(&["apply", "--model", "model", "--edit", file, "--out", "applied"]).success();
    let weights = |folder: &str| std::fs::read(sandbox.path(folder).join("model.safetensors")).unwrap();
    assert_eq!(weights("out"), weights("applied"));
    let applied = SafetensorsSource::open(&sandbox.path("applied")).unwrap();
    for (name, _) in source.tensors() {
        assert_eq!(applied.raw(name) == source.raw(name), name != common::TENSOR, "{name}");
    }
    assert!(!sandbox.path("applied").join(PYTORCH_FILE).exists());
    assert!(!sandbox.path("applied/pytorch_model.bin.index.json").exists());

    // A file that is cut short is an error of the file, and nothing is written.
    pytorch_support::write(&sandbox.path("model").join(PYTORCH_FILE), &bytes[..bytes.len() / 2]);
    sandbox.run(&[&edit[..5], &["--out", "cut", "--save", "both"], &request].concat()).fails(1, &[PYTORCH_FILE]);
    assert!(!sandbox.path("cut").exists());
}
