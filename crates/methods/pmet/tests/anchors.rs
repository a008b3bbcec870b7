//! What must hold for PMET on any model, checked on small random ones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../../memit/tests/support/mod.rs"]
mod support;

use easyedit_core::{Hparams, LanguageModel, Method, Module};
use easyedit_models::tiny::tiny_model;
use easyedit_pmet::{Pmet, PmetHparams};
use support::*;

fn hparams(model: &dyn LanguageModel) -> PmetHparams {
    PmetHparams {
        layers: vec![1],
        v_num_grad_steps: 5,
        v_lr: 0.1,
        mom2_update_weight: Some(1e-6),
        mom2_dataset: "some text".into(),
        mom2_n_tokens: None,
        context_template_length_params: vec![],
        ..PmetHparams::for_spec(model.spec())
    }
}

#[test]
fn one_layer_gives_the_mlp_the_output_that_was_optimised_beside_attention() {
    for family in ["gpt2", "llama"] {
        let model = tiny_model(family, 41).unwrap();
        let (made, edited) = edit(&mut Pmet::new(hparams(model.as_ref())), model.as_ref(), &requests());
        assert_eq!(made.deltas.keys().collect::<Vec<_>>(), [&model.spec().mlp_out_weight(1)], "attention is not edited");
        for (request, told) in requests().iter().zip(made.diagnostics.as_array().unwrap()) {
            let [before, after] = [&model, &edited].map(|model| at_fact(model.as_ref(), request, 1, Module::MlpOutput));
            let reached = distance(&before, &after) / told["delta_norm"].as_f64().unwrap();
            assert!((reached - 1.0).abs() < 1e-2, "{family}: {reached}");
        }
    }
}

#[test]
fn of_two_layers_the_first_writes_more_than_half() {
    let model = tiny_model("llama", 42).unwrap();
    let two = PmetHparams { layers: vec![0, 1], ..hparams(model.as_ref()) };
    let (made, _) = edit(&mut Pmet::new(two), model.as_ref(), &requests()[..1]);
    // The change of layer 0's output at its key is 1/√2 of the residual.
    let weight = model.spec().mlp_out_weight(0);
    let key = at_fact(model.as_ref(), &requests()[0], 0, Module::MlpKey);
    let delta = easyedit_core::tensor_values(&made.deltas[&weight].delta.to_tensor(&model.device())).unwrap();
    let answer: Vec<f64> = delta.chunks_exact(key.len()).map(|row| row.iter().zip(&key).map(|(w, k)| f64::from(*w) * k).sum()).collect();
    let share = norm(&answer) / made.diagnostics[0]["delta_norm"].as_f64().unwrap();
    assert!((share - 0.5f64.sqrt()).abs() < 1e-2, "{share}");
}

#[test]
fn only_the_out_projection_can_be_named() {
    let model = tiny_model("llama", 43).unwrap();
    let other = PmetHparams { rewrite_module_tmps: vec!["model.layers.{}.self_attn.o_proj".into()], ..hparams(model.as_ref()) };
    assert!(other.check().unwrap_err().contains("self_attn.o_proj"));
    let same = PmetHparams { rewrite_module_tmps: vec![model.spec().modules.mlp_out.clone()], ..hparams(model.as_ref()) };
    assert_eq!(same.check(), Ok(()));
}
