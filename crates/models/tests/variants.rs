//! What the configurations of the plain decoder families may say, and what it does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::values;
use easyedit_core::{Capture, LanguageModel, Module, Pass, Site, TokenBatch};
use easyedit_models::tiny::{tiny_config, tiny_model_from};
use serde_json::{Value, json};

/// The tiny model of a type with changes to its configuration (null takes a key away), and its logits.
fn with(family: &str, changes: Value) -> (Box<dyn LanguageModel>, Vec<f32>) {
    let mut config = tiny_config(family).unwrap();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let model = tiny_model_from(config, 17, &easyedit_core::device::select("cpu").unwrap()).unwrap();
    let batch = TokenBatch::new(&[(0..12).map(|i| i * 19 % 257).collect(), vec![7, 8, 9]]).unwrap();
    let hidden = model.hidden(&mut Pass::new(batch, &model.device()), &mut ()).unwrap();
    let logits = values(&model.logits(hidden, &(0..15).collect::<Vec<_>>()).unwrap());
    (model, logits)
}

fn logits(family: &str, changes: Value) -> Vec<f32> {
    with(family, changes).1
}

/// Whether one of the names of the model's parameters ends so.
fn has(model: &dyn LanguageModel, end: &str) -> bool {
    model.parameter_names().iter().any(|name| name.as_str().ends_with(end))
}

#[test]
fn without_a_number_of_dimensions_gptj_rotates_the_whole_head() {
    let whole = logits("gptj", json!({"rotary_dim": null}));
    assert_eq!(whole, logits("gptj", json!({"rotary_dim": 8})));
    assert_ne!(whole, logits("gptj", json!({})));
}

#[test]
fn a_tied_head_may_have_a_bias() {
    let (model, _) = with("gptj", json!({"tie_word_embeddings": true}));
    assert!(has(&*model, "lm_head.bias") && !has(&*model, "lm_head.weight"));
    assert_eq!(model.spec().modules.lm_head, "transformer.wte");
    assert_eq!(with("gptj", json!({})).0.spec().modules.lm_head, "lm_head");
    assert_eq!(with("gpt_neox", json!({"tie_word_embeddings": true})).0.spec().modules.lm_head, "gpt_neox.embed_in");
    assert_eq!(with("gpt_neo", json!({"tie_word_embeddings": false})).0.spec().modules.lm_head, "lm_head");
    assert_eq!(with("opt", json!({"tie_word_embeddings": false})).0.spec().modules.lm_head, "lm_head");
}

#[test]
fn gpt_neox_runs_its_parts_side_by_side_or_one_after_the_other() {
    let plain = logits("gpt_neox", json!({}));
    let (model, sequential) = with("gpt_neox", json!({"use_parallel_residual": false}));
    assert_ne!(plain, sequential);
    let modules = [Module::BlockInput, Module::AttentionOutput, Module::MlpOutput, Module::BlockOutput];
    let mut capture = Capture::new(modules.map(|module| Site::new(1, module)));
    model.hidden(&mut Pass::new(TokenBatch::new(&[vec![4, 5, 6]]).unwrap(), &model.device()), &mut capture).unwrap();
    let [input, attention, mlp, output] = modules.map(|module| capture.take(Site::new(1, module)).unwrap());
    common::assert_close(&values(&(input + attention + mlp)), &values(&output), 1e-5, "sum");
    // A parallel MLP does not see what attention gives.
    let mlp_output = |changes: Value, shift: f32| {
        let model = with("gpt_neox", changes).0;
        let mut probe = Shifted { shift, mlp: None };
        model.hidden(&mut Pass::new(TokenBatch::new(&[vec![4, 5, 6]]).unwrap(), &model.device()), &mut probe).unwrap();
        values(&probe.mlp.unwrap())
    };
    assert_eq!(mlp_output(json!({}), 0.0), mlp_output(json!({}), 1.0));
    let sequential = json!({"use_parallel_residual": false});
    assert_ne!(mlp_output(sequential.clone(), 0.0), mlp_output(sequential, 1.0));
}

/// Scales what the attention of layer 0 gives, and remembers what its MLP gives.
struct Shifted {
    shift: f32,
    mlp: Option<burn::tensor::Tensor<2>>,
}

impl easyedit_core::Probe for Shifted {
    fn at(&mut self, site: Site, activations: burn::tensor::Tensor<2>) -> burn::tensor::Tensor<2> {
        if site == Site::new(0, Module::MlpOutput) {
            self.mlp = Some(activations.clone());
        }
        if site == Site::new(0, Module::AttentionOutput) { activations * (1.0 + self.shift) } else { activations }
    }
}

#[test]
fn gpt_neox_heeds_its_rotations_and_biases() {
    let (model, plain) = with("gpt_neox", json!({}));
    assert!(has(&*model, "attention.query_key_value.bias") && has(&*model, "attention.dense.bias"));
    let fused = model.weight(&"gpt_neox.layers.0.attention.query_key_value.weight".into()).unwrap();
    assert_eq!(fused.dims(), [96, 32]);
    let (model, without) = with("gpt_neox", json!({"attention_bias": false}));
    assert_ne!(plain, without);
    assert!(!has(&*model, "query_key_value.bias") && !has(&*model, "dense.bias") && has(&*model, "dense_4h_to_h.bias"));
    assert_ne!(plain, logits("gpt_neox", json!({"rotary_pct": 1.0})));
    assert_ne!(plain, logits("gpt_neox", json!({"rotary_emb_base": 100})));
    assert_eq!(plain, logits("gpt_neox", json!({"rope_theta": 100})), "the older key goes first");
    assert_eq!(
        logits("gpt_neox", json!({"rotary_emb_base": null, "rope_theta": 100})),
        logits("gpt_neox", json!({"rotary_emb_base": 100}))
    );
    assert_ne!(plain, logits("gpt_neox", json!({"rope_scaling": {"type": "linear", "factor": 2.0}})));
    assert_ne!(plain, logits("gpt_neox", json!({"hidden_act": "relu"})));
}

#[test]
fn gpt_neo_heeds_its_windows() {
    let plain = logits("gpt_neo", json!({}));
    assert_eq!(plain, logits("gpt_neo", json!({"attention_layers": ["global", "local", "global"]})));
    assert_eq!(plain, logits("gpt_neo", json!({"attention_types": null})));
    let global = logits("gpt_neo", json!({"attention_layers": ["global", "global", "global"]}));
    assert_ne!(plain, global);
    assert_eq!(global, logits("gpt_neo", json!({"window_size": 12})));
    assert_ne!(plain, logits("gpt_neo", json!({"window_size": 2})));
}

#[test]
fn opt_heeds_its_biases_and_norms() {
    let (_, plain) = with("opt", json!({}));
    let (model, without) = with("opt", json!({"enable_bias": false}));
    assert_ne!(plain, without);
    assert!(!has(&*model, "fc2.bias") && !has(&*model, "q_proj.bias") && has(&*model, "final_layer_norm.bias"));
    let (model, bare) = with("opt", json!({"layer_norm_elementwise_affine": false}));
    assert_ne!(plain, bare);
    assert!(!has(&*model, "layer_norm.weight"));
    let positions = model.weight(&"model.decoder.embed_positions.weight".into()).unwrap();
    assert_eq!((positions.dims(), model.spec().max_positions), ([514, 32], 512));
    let too_long = Pass::new(TokenBatch::new(&[vec![1; 513]]).unwrap(), &model.device());
    assert!(model.embed(&too_long).unwrap_err().to_string().contains("512 positions"));
    assert_ne!(plain, logits("opt", json!({"activation_function": "gelu"})));
}

#[test]
fn configurations_that_do_not_hold_together_are_errors() {
    let device = easyedit_core::device::select("cpu").unwrap();
    let fails = |family: &str, key: &str, value: Value| {
        let mut config = tiny_config(family).unwrap();
        config.as_object_mut().unwrap().insert(key.into(), value);
        let message = tiny_model_from(config, 0, &device).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    };
    for (key, value) in [("rotary_dim", json!(3)), ("rotary_dim", json!(10)), ("n_embd", json!(34)), ("activation_function", json!("gelo"))]
    {
        fails("gptj", key, value);
    }
    for (key, value) in [("rotary_pct", json!(0.4)), ("rotary_pct", json!(2.0)), ("rotary_emb_base", json!(0)), ("hidden_size", json!(34))]
    {
        fails("gpt_neox", key, value);
    }
    for (key, value) in [("window_size", json!(0)), ("attention_types", json!([[["global"], 2]])), ("num_heads", json!(5))] {
        fails("gpt_neo", key, value);
    }
    for (key, value) in [
        ("do_layer_norm_before", json!(false)),
        ("word_embed_proj_dim", json!(16)),
        ("_remove_final_layer_norm", json!(true)),
        ("ffn_dim", json!(null)),
    ] {
        fails("opt", key, value);
    }
}
