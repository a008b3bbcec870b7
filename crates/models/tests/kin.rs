//! Members of families that differ from their siblings: ALiBi, a normalised head, ChatGLM's options, and InternLM's rotary base.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{assert_close, values};
use easyedit_core::{LanguageModel, ParamName, Pass, TokenBatch};
use easyedit_models::tiny::{tiny_config, tiny_model_from};
use serde_json::{Value, json};

const TEXT: [u32; 9] = [84, 104, 101, 32, 99, 97, 112, 105, 116];

fn with(family: &str, changes: Value) -> Value {
    let mut config = tiny_config(family).unwrap();
    let keys = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => keys.remove(key),
            value => keys.insert(key.clone(), value.clone()),
        };
    }
    config
}

fn model(family: &str, changes: Value) -> Box<dyn LanguageModel> {
    tiny_model_from(with(family, changes), 5, &easyedit_core::device::select("cpu").unwrap()).unwrap()
}

fn refusal(family: &str, changes: Value) -> String {
    let device = easyedit_core::device::select("cpu").unwrap();
    tiny_model_from(with(family, changes), 5, &device).map(|_| ()).unwrap_err().to_string()
}

fn run(model: &dyn LanguageModel, mut pass: Pass) -> (Vec<f32>, Pass) {
    let tokens = pass.batch().tokens();
    let hidden = model.hidden(&mut pass, &mut ()).unwrap();
    (values(&model.logits(hidden, &(0..tokens).collect::<Vec<_>>()).unwrap()), pass)
}

fn logits(model: &dyn LanguageModel, ids: &[u32]) -> Vec<f32> {
    run(model, Pass::new(TokenBatch::new(&[ids]).unwrap(), &model.device())).0
}

/// Baichuan-13B names its context `model_max_length` and has no rotary positions.
fn alibi() -> Value {
    json!({"max_position_embeddings": null, "model_max_length": 64})
}

#[test]
fn baichuan_13b_continues_a_cache_as_one_text_and_differs_from_7b() {
    let model = model("baichuan", alibi());
    let whole = logits(&*model, &TEXT);
    let device = model.device();
    let (head, pass) = run(&*model, Pass::new(TokenBatch::new(&[&TEXT[..4]]).unwrap(), &device).keeping());
    let rest = Pass::after(TokenBatch::new(&[&TEXT[4..]]).unwrap(), pass.into_cache().unwrap(), &device).unwrap();
    assert_close(&[head, run(&*model, rest).0].concat(), &whole, 2e-5, "a cached text");

    // Rows of other lengths beside it change nothing.
    let batch = TokenBatch::new(&[&TEXT[..3], &TEXT[..], &TEXT[..1]]).unwrap();
    let vocab = model.spec().vocab_size;
    let range = batch.range(1);
    let batched = run(&*model, Pass::new(batch, &device)).0;
    assert_close(&batched[range.start * vocab..range.end * vocab], &whole, 2e-5, "a row of a batch");

    let rotary = self::model("baichuan", json!({}));
    assert_ne!(logits(&*rotary, &TEXT), whole);
    assert_eq!(model.spec().max_positions, 64);
}

#[test]
fn the_head_of_baichuan2_counts_with_rows_of_length_one() {
    let plain = model("baichuan", json!({"vocab_size": 300}));
    let normalised = model("baichuan", json!({"vocab_size": 125_696}));
    let head = ParamName::from("lm_head.weight");
    let weight = normalised.weight(&head).unwrap();
    assert_eq!(weight.dims()[0], 125_696);
    // A row that is longer changes nothing, and the parameter is as it was stored.
    let mut longer = normalised.clone();
    longer.set_weight(&head, weight.clone().mul_scalar(3.0)).unwrap();
    assert_eq!(values(&longer.weight(&head).unwrap()), values(&weight.mul_scalar(3.0)));
    assert_close(&logits(&*longer, &TEXT), &logits(&*normalised, &TEXT), 1e-4, "logits of a scaled head");
    let mut longer = plain.clone();
    longer.set_weight(&head, plain.weight(&head).unwrap().mul_scalar(3.0)).unwrap();
    let scaled: Vec<f32> = logits(&*plain, &TEXT).iter().map(|v| 3.0 * v).collect();
    assert_close(&logits(&*longer, &TEXT), &scaled, 1e-3, "logits of a plain head");
}

#[test]
fn chatglm_has_options_and_says_what_it_does_not_read() {
    let plain = logits(&*model("chatglm", json!({})), &TEXT);
    assert_ne!(logits(&*model("chatglm", json!({"rope_ratio": 50.0})), &TEXT), plain);
    assert_ne!(logits(&*model("chatglm", json!({"post_layer_norm": false})), &TEXT), plain);
    // Without shared queries every head has keys and values of its own.
    let name = ParamName::from("transformer.encoder.layers.0.self_attention.query_key_value.weight");
    assert_eq!(model("chatglm", json!({})).weight(&name).unwrap().dims(), [(4 + 2 * 2) * 8, 32]);
    assert_eq!(model("chatglm", json!({"multi_query_attention": false})).weight(&name).unwrap().dims(), [3 * 4 * 8, 32]);
    for (key, value) in [("rmsnorm", false), ("add_bias_linear", true), ("apply_residual_connection_post_layernorm", true)] {
        assert!(refusal("chatglm", json!({key: value})).contains(key));
    }
    assert!(refusal("chatglm", json!({"position_encoding_2d": true})).contains("chatglm2-6b"));
}

#[test]
fn internlm_reads_its_rotary_base() {
    let plain = logits(&*model("internlm", json!({})), &TEXT);
    let based = logits(&*model("internlm", json!({"rotary": {"base": 500_000, "type": "dynamic"}})), &TEXT);
    assert_ne!(based, plain);
    assert_close(&logits(&*model("internlm", json!({"rope_theta": 500_000.0})), &TEXT), &based, 1e-6, "the same base");
    assert!(refusal("internlm", json!({"rotary": {"base": 10_000, "type": "yarn"}})).contains("rotary"));
    let bias = ParamName::from("model.layers.0.self_attn.o_proj.bias");
    assert!(model("internlm", json!({})).weight(&bias).is_ok());
    assert!(model("internlm", json!({"bias": false})).weight(&bias).is_err());
}
