//! Text encoders against Hugging Face's implementations (shared fixtures).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use burn::tensor::Tensor;
use common::{MemoryTensors, assert_close, largest_difference, rows, shared, unpadded, values};
use easyedit_core::TokenBatch;
use easyedit_models::tiny::tiny_tokenizer;
use easyedit_models::{ModelConfig, Result, TextEncoder, load_text_encoder};

fn load(folder: &Path, change: impl FnOnce(&mut MemoryTensors)) -> Result<TextEncoder> {
    let device = easyedit_core::device::select("cpu").unwrap();
    let config = ModelConfig::read(&folder.join("config.json")).unwrap();
    let mut tensors = MemoryTensors::open(&folder.join("model.safetensors"));
    change(&mut tensors);
    load_text_encoder(&config, "fixture", &tensors, tiny_tokenizer().unwrap(), &device)
}

fn agrees(fixture: &str) -> Option<(TextEncoder, MemoryTensors, TokenBatch)> {
    let folder = shared(&format!("fixtures/{fixture}"))?;
    let golden = MemoryTensors::open(&folder.join("golden.safetensors"));
    let model = load(&folder, |_| ()).unwrap();
    let batch = TokenBatch::new(&rows(&golden)).unwrap();
    assert!(batch.len(0) > batch.len(1), "the golden batch is ragged");
    let hidden = values(&model.last_hidden_state(&batch).unwrap());
    let want = unpadded(&golden, "last_hidden_state", &batch);
    println!("{fixture}: hidden states differ by up to {:e}", largest_difference(&hidden, &want));
    assert_close(&hidden, &want, 1e-4, "last hidden state");
    let d = model.d_model();
    for row in 0..batch.rows() {
        let alone = values(&model.last_hidden_state(&batch.select_rows(&[row]).unwrap()).unwrap());
        let range = batch.range(row);
        assert_close(&alone, &hidden[range.start * d..range.end * d], 2e-5, "a row alone");
    }
    Some((model, golden, batch))
}

#[test]
fn bert() {
    let Some((model, ..)) = agrees("bert") else { return };
    assert!(model.parameter_names().iter().all(|name| name.as_str().starts_with("bert.")), "the head for masked tokens is left out");
}

#[test]
fn distilbert() {
    agrees("distilbert");
}

#[test]
fn bert_without_a_head_and_its_sentence_embeddings() {
    let Some((model, golden, batch)) = agrees("bert_model") else { return };
    let pooled = model.mean_pooled(&batch).unwrap();
    assert_close(&values(&pooled), golden.get("mean_pooled"), 1e-4, "mean of the tokens");
    let length = (pooled.clone() * pooled.clone()).sum_dim(1).sqrt();
    assert_close(&values(&(pooled / length)), golden.get("sentence_embedding"), 1e-4, "sentence embedding");
}

#[test]
fn sentence_embeddings_have_length_one_and_keep_their_order() {
    let Some(folder) = shared("fixtures/bert_model") else { return };
    let model = load(&folder, |_| ()).unwrap();
    // More texts than are run at once, of falling length.
    let texts: Vec<String> = (0..40).map(|i| format!("{i} {}", "word ".repeat(1 + (39 - i) / 4))).collect();
    let all = model.sentence_embeddings(&texts).unwrap();
    let d = model.d_model();
    assert_eq!(all.dims(), [40, d]);
    let all = values(&all);
    for (index, text) in texts.iter().enumerate() {
        let embedding = &all[index * d..(index + 1) * d];
        let norm: f32 = embedding.iter().map(|v| v * v).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
        assert_close(embedding, &values(&model.sentence_embeddings(&[text]).unwrap()), 1e-5, text);
    }
    assert!(largest_difference(&all[..d], &all[d..2 * d]) > 1e-3);
}

#[test]
fn weights_can_be_replaced_and_carry_gradients() {
    let Some((mut model, _, batch)) = agrees("distilbert") else { return };
    for name in model.parameter_names() {
        let weight = model.weight(&name).unwrap();
        let tracked = Tensor::from_inner(weight.clone()).require_grad();
        model.set_weight(&name, tracked.clone()).unwrap();
        let hidden = model.last_hidden_state(&batch).unwrap();
        let gradients = (hidden.clone() * hidden).sum().backward();
        let gradient = tracked.grad(&gradients).unwrap_or_else(|| panic!("{name} has no gradient"));
        // A bias on all keys of a query moves all scores alike.
        let largest = values(&gradient).iter().fold(0f32, |most, v| most.max(v.abs()));
        assert!(largest > 1e-6 || name.as_str().ends_with("k_lin.bias"), "{name} does not matter");
        model.set_weight(&name, weight).unwrap();
    }
    let message = model.set_weight(&"distilbert.embeddings.LayerNorm.weigth".into(), Tensor::zeros([1, 48], &model.device()));
    assert!(message.unwrap_err().to_string().contains("did you mean distilbert.embeddings.LayerNorm.weight"));
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    let Some(folder) = shared("fixtures/distilbert") else { return };
    let stored = "transformer.layer.1.ffn.lin2.weight";
    let missing = load(&folder, |tensors| assert!(tensors.tensors.remove(stored).is_some())).map(|_| ()).unwrap_err().to_string();
    assert!(missing.contains("transformer.layer.1.ffn.lin2.weight"), "{missing}");
    let model = load(&folder, |_| ()).unwrap();
    let long = model.last_hidden_state(&TokenBatch::new(&[vec![1; 65]]).unwrap()).unwrap_err().to_string();
    assert!(long.contains("65 tokens") && long.contains("64 positions"), "{long}");
    assert!(model.last_hidden_state(&TokenBatch::new(&[[512]]).unwrap()).unwrap_err().to_string().contains("token id 512"));
    let cut = [vec![7u8; 63], vec![9]].concat();
    let whole = [vec![7u8; 90], vec![9]].concat();
    let of = |text: &[u8]| values(&model.sentence_embeddings(&[std::str::from_utf8(text).unwrap()]).unwrap());
    assert_close(&of(&whole), &of(&cut), 1e-6, "a text beyond the positions, of which the first 63 tokens and the last are read");
    assert!(model.sentence_embeddings::<&str>(&[]).is_err() && model.sentence_embeddings(&[""]).is_err());
    let gpt = serde_json::json!({"model_type": "distilbret"});
    let config = ModelConfig::new(gpt, "config.json").unwrap();
    let device = easyedit_core::device::select("cpu").unwrap();
    let tensors = MemoryTensors { tensors: Default::default() };
    let message = load_text_encoder(&config, "x", &tensors, tiny_tokenizer().unwrap(), &device).unwrap_err().to_string();
    assert!(message.contains("did you mean distilbert"), "{message}");
}

#[test]
fn names_are_the_same_with_and_without_the_prefix() {
    let Some(folder) = shared("fixtures/distilbert") else { return };
    let without = load(&folder, |_| ()).unwrap();
    let with = load(&folder, |tensors| {
        let renamed = std::mem::take(&mut tensors.tensors).into_iter().map(|(name, tensor)| (format!("distilbert.{name}"), tensor));
        tensors.tensors = renamed.collect();
    })
    .unwrap();
    assert_eq!(with.parameter_names(), without.parameter_names());
    let batch = TokenBatch::new(&[[5, 6, 7]]).unwrap();
    assert_eq!(values(&with.last_hidden_state(&batch).unwrap()), values(&without.last_hidden_state(&batch).unwrap()));
}
