//! What must hold for EMMET on any model, checked on small random ones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../../memit/tests/support/mod.rs"]
mod support;

use easyedit_core::{LanguageModel, Method, Module, tensor_values};
use easyedit_emmet::{Emmet, EmmetHparams};
use easyedit_kernels::{LocateSettings, second_moments};
use easyedit_models::tiny::tiny_model;
use support::*;

fn hparams(model: &dyn LanguageModel, emmet_lambda: f64) -> EmmetHparams {
    EmmetHparams {
        layers: vec![1],
        v_num_grad_steps: 5,
        v_lr: 0.1,
        emmet_lambda: Some(emmet_lambda),
        update_norm_lambda: 1e-3,
        context_template_length_params: vec![],
        ..EmmetHparams::for_spec(model.spec())
    }
}

#[test]
fn exact_constraints_reach_every_wanted_state() {
    for family in ["gpt2", "llama"] {
        let model = tiny_model(family, 31).unwrap();
        let (made, edited) = edit(&mut Emmet::new(hparams(model.as_ref(), 0.0)), model.as_ref(), &requests());
        for reached in reached(&made, model.as_ref(), edited.as_ref(), 1) {
            assert!((reached - 1.0).abs() < 1e-3, "{family}: {reached}");
        }
    }
}

#[test]
fn one_exact_fact_is_written_along_the_key_seen_through_the_second_moment() {
    // ROME's closed form: ΔW = r (C⁻¹k)ᵀ / (kᵀ C⁻¹ k).
    let model = tiny_model("llama", 32).unwrap();
    let hparams = hparams(model.as_ref(), 0.0);
    let settings: LocateSettings<'_> = hparams.settings();
    let moments = second_moments(model.as_ref(), &[1], &settings, &session()).unwrap().remove(&1).unwrap();
    let key = at_fact(model.as_ref(), &requests()[0], 1, Module::MlpKey);
    let direction = moments.factor_scaled(1.0, 1e-3, 1).unwrap().solve(&key);
    let along: f64 = direction.iter().zip(&key).map(|(d, k)| d * k).sum();
    let (made, _) = edit(&mut Emmet::new(hparams), model.as_ref(), &requests()[..1]);
    let delta = &made.deltas[&model.spec().mlp_out_weight(1)].delta;
    assert_eq!(delta.rank(), Some(1));
    // Stored [out, in]: each row is a multiple of the direction.
    let delta = tensor_values(&delta.to_tensor(&model.device())).unwrap();
    let unit: Vec<f64> = direction.iter().map(|d| d / along).collect();
    let mut residual = 0.0;
    for row in delta.chunks_exact(unit.len()) {
        let answer: f64 = row.iter().zip(&key).map(|(w, k)| f64::from(*w) * k).sum();
        residual += answer * answer;
        let scale = unit.iter().fold(0f64, |max, u| max.max((u * answer).abs())).max(1e-6);
        assert!(row.iter().zip(&unit).all(|(w, u)| (f64::from(*w) - u * answer).abs() < 1e-3 * scale));
    }
    let wanted = made.diagnostics[0]["delta_norm"].as_f64().unwrap();
    assert!((residual.sqrt() / wanted - 1.0).abs() < 1e-3);
}

#[test]
fn looser_constraints_move_less() {
    let model = tiny_model("gpt2", 33).unwrap();
    let mean = |lambda: f64| {
        let (made, edited) = edit(&mut Emmet::new(hparams(model.as_ref(), lambda)), model.as_ref(), &requests());
        reached(&made, model.as_ref(), edited.as_ref(), 1).iter().sum::<f64>()
    };
    assert!(mean(1e-6) > mean(10.0) && mean(10.0) > mean(1e6));
}
