//! Encoder-decoders on the command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::Sandbox;
use easyedit::tokens::encode_prompt;
use easyedit::{GenerationConfig, generate};
use serde_json::json;

const PROMPTS: [&str; 2] = ["The Eiffel Tower is in", "Norland"];

#[test]
fn generate_writes_the_answers_of_an_encoder_decoder() {
    let sandbox = Sandbox::new();
    easyedit::models::tiny::write_tiny_checkpoint("t5", 7, &sandbox.path("t5")).unwrap();
    let arguments = ["generate", "--model", "t5", "--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "-n", "8", "--json"];
    let written = sandbox.run(&arguments).success().json();

    let model = easyedit::models::tiny::tiny_model("t5", 7).unwrap();
    let prompts: Vec<_> = PROMPTS.iter().map(|prompt| encode_prompt(&*model, prompt).unwrap()).collect();
    let texts = generate(&*model, &prompts, &GenerationConfig::greedy(8)).unwrap();
    let texts: Vec<String> = texts.iter().map(|one| one.text(&*model).unwrap()).collect();
    assert!(!texts[0].is_empty() && texts[0] != texts[1]);
    let want = |row: usize| json!({"prompt": PROMPTS[row], "continuation": texts[row]});
    assert_eq!(written, json!([want(0), want(1)]));
}

#[test]
fn a_method_for_decoder_only_models_is_refused() {
    let sandbox = Sandbox::new();
    easyedit::models::tiny::write_tiny_checkpoint("t5", 7, &sandbox.path("t5")).unwrap();
    let request = ["--prompt", "The Eiffel Tower is in", "--subject", "The Eiffel Tower", "--target", "Rome"];
    let run = sandbox.run(&[&["edit", "--model", "t5", "--method", "ROME", "--out", "out"], &request[..]].concat());
    run.fails(1, &["ROME", "t5 is an encoder-decoder", "choose"]);
    assert!(!sandbox.path("out").join("model.safetensors").exists());
}
