//! Logits and hidden states against those of Hugging Face's implementations (shared fixtures).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{MemoryTensors, assert_close, largest_difference, load, rows, shared, unpadded, values};
use easyedit_core::{Capture, LanguageModel, Module, Pass, Site, TokenBatch};

fn run(model: &dyn LanguageModel, batch: &TokenBatch, capture: &mut Capture) -> Vec<f32> {
    let mut pass = Pass::new(batch.clone(), &model.device());
    let hidden = model.hidden(&mut pass, capture).unwrap();
    values(&model.logits(hidden, &(0..batch.tokens()).collect::<Vec<_>>()).unwrap())
}

fn agrees(family: &str) {
    let Some(folder) = shared(&format!("fixtures/{family}")) else { return };
    let golden = MemoryTensors::open(&folder.join("golden.safetensors"));
    let model = load(&folder);
    let batch = TokenBatch::new(&rows(&golden)).unwrap();
    assert!(batch.len(0) > batch.len(1), "the golden batch is ragged");
    let n_layers = model.spec().n_layers;
    let sites = |module| (0..n_layers).map(move |layer| Site::new(layer, module));
    let mut capture = Capture::new(sites(Module::BlockInput).chain(sites(Module::BlockOutput)));
    let logits = run(model.as_ref(), &batch, &mut capture);
    let want = unpadded(&golden, "logits", &batch);
    println!("{family}: logits differ by up to {:e}", largest_difference(&logits, &want));
    assert_close(&logits, &want, 1e-4, "logits");
    // The last golden hidden state is taken behind the final norm, so it is not one of ours.
    for layer in 0..n_layers {
        let want = unpadded(&golden, &format!("hidden_{layer}"), &batch);
        assert_close(&values(capture.get(Site::new(layer, Module::BlockInput)).unwrap()), &want, 1e-4, "hidden state");
        if layer > 0 {
            assert_close(&values(capture.get(Site::new(layer - 1, Module::BlockOutput)).unwrap()), &want, 1e-4, "hidden state");
        }
    }
    // Each row alone gives what it gives in the batch.
    let vocab = model.spec().vocab_size;
    for row in 0..batch.rows() {
        let range = batch.range(row);
        let alone = TokenBatch::new(&[batch.ids()[range.clone()].to_vec()]).unwrap();
        let logits_alone = run(model.as_ref(), &alone, &mut Capture::new(sites(Module::BlockOutput)));
        assert_close(&logits_alone, &logits[range.start * vocab..range.end * vocab], 2e-5, "a row alone");
    }
}

#[test]
fn gpt2() {
    agrees("gpt2");
}

#[test]
fn llama() {
    agrees("llama");
}

#[test]
fn mistral_with_its_window() {
    agrees("mistral");
}

#[test]
fn qwen2() {
    agrees("qwen2");
}

#[test]
fn gptj() {
    agrees("gptj");
}

#[test]
fn gpt_neox() {
    agrees("gpt_neox");
}

#[test]
fn gpt_neo_with_its_windows() {
    agrees("gpt_neo");
}

#[test]
fn opt() {
    agrees("opt");
}

#[test]
fn opt_files_without_the_prefix_load_too() {
    let Some(folder) = shared("fixtures/opt") else { return };
    let with = load(&folder);
    let mut tensors = MemoryTensors::open(&folder.join("model.safetensors"));
    tensors.tensors = tensors.tensors.into_iter().map(|(name, t)| (name.trim_start_matches("model.").to_owned(), t)).collect();
    let config = easyedit_models::ModelConfig::read(&folder.join("config.json")).unwrap();
    let tokenizer = easyedit_models::tiny::tiny_tokenizer().unwrap();
    let without = easyedit_models::load_model(&config, "bare", &tensors, tokenizer, &with.device()).unwrap();
    let batch = TokenBatch::new(&[vec![3, 1, 4, 1, 5]]).unwrap();
    let logits = |model: &dyn LanguageModel| run(model, &batch, &mut Capture::new([]));
    assert_eq!(logits(with.as_ref()), logits(without.as_ref()));
}

#[test]
fn gptj_files_with_the_buffers_of_old_checkpoints_load_too() {
    let Some(folder) = shared("fixtures/gptj") else { return };
    let plain = load(&folder);
    let mut tensors = MemoryTensors::open(&folder.join("model.safetensors"));
    for layer in 0..plain.spec().n_layers {
        tensors.tensors.insert(format!("transformer.h.{layer}.attn.bias"), (vec![1, 1, 4, 4], vec![1.0; 16]));
        tensors.tensors.insert(format!("transformer.h.{layer}.attn.masked_bias"), (vec![], vec![-1e9]));
    }
    let config = easyedit_models::ModelConfig::read(&folder.join("config.json")).unwrap();
    let tokenizer = easyedit_models::tiny::tiny_tokenizer().unwrap();
    let with_buffers = easyedit_models::load_model(&config, "old", &tensors, tokenizer, &plain.device()).unwrap();
    assert_eq!(plain.parameter_names(), with_buffers.parameter_names());
}

#[test]
fn internlm() {
    agrees("internlm");
}

#[test]
fn baichuan_7b() {
    agrees("baichuan");
}

#[test]
fn gpt2_files_without_the_prefix_load_too() {
    let Some(folder) = shared("fixtures/gpt2") else { return };
    let with = load(&folder);
    let mut tensors = MemoryTensors::open(&folder.join("model.safetensors"));
    assert!(tensors.tensors.contains_key("transformer.wte.weight"));
    tensors.tensors = tensors.tensors.into_iter().map(|(name, t)| (name.trim_start_matches("transformer.").to_owned(), t)).collect();
    let config = easyedit_models::ModelConfig::read(&folder.join("config.json")).unwrap();
    let tokenizer = easyedit_models::tiny::tiny_tokenizer().unwrap();
    let without = easyedit_models::load_model(&config, "bare", &tensors, tokenizer, &with.device()).unwrap();
    assert_eq!(with.parameter_names(), without.parameter_names());
    let name = with.spec().mlp_out_weight(1);
    assert_eq!(values(&with.weight(&name).unwrap()), values(&without.weight(&name).unwrap()));
    let stored = easyedit_models::stored_name("gpt2", &name, &|n| tensors.tensors.contains_key(n)).unwrap();
    assert_eq!((name.as_str(), stored.as_str()), ("transformer.h.1.mlp.c_proj.weight", "h.1.mlp.c_proj.weight"));
}

#[test]
fn chatglm2() {
    agrees("chatglm2");
}
