//! What must hold for AlphaEdit on any model, checked on small random ones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../../memit/tests/support/mod.rs"]
mod support;

use easyedit_alphaedit::{AlphaEdit, AlphaEditHparams};
use easyedit_core::{EditMethod, LanguageModel, Matrix, Method, Module, tensor_values};
use easyedit_kernels::{NullSpace, SecondMoments, second_moments};
use easyedit_models::tiny::tiny_model;
use support::*;

fn moments(model: &dyn LanguageModel, hparams: &AlphaEditHparams) -> SecondMoments {
    second_moments(model, &[1], &hparams.settings(), &session()).unwrap().remove(&1).unwrap()
}

/// With a threshold that leaves at least half of the directions to be changed.
fn hparams(model: &dyn LanguageModel) -> AlphaEditHparams {
    let mut hparams = AlphaEditHparams {
        layers: vec![1],
        v_num_grad_steps: 5,
        v_lr: 0.1,
        L2: Some(1e-6),
        nullspace_threshold: 1e-6,
        context_template_length_params: vec![],
        ..AlphaEditHparams::for_spec(model.spec())
    };
    let moments = moments(model, &hparams);
    let changeable = |threshold| NullSpace::of(&moments, threshold, "the second moment").map_or(0, |space| space.dimension());
    while changeable(hparams.nullspace_threshold) < moments.size() / 2 {
        hparams.nullspace_threshold *= 1.3;
    }
    hparams
}

#[test]
fn facts_are_written_where_the_statistics_have_next_to_nothing() {
    for family in ["gpt2", "llama"] {
        let model = tiny_model(family, 51).unwrap();
        let hparams = hparams(model.as_ref());
        let (made, edited) = edit(&mut AlphaEdit::new(hparams.clone()), model.as_ref(), &requests());
        for reached in reached(&made, model.as_ref(), edited.as_ref(), 1) {
            assert!((reached - 1.0).abs() < 5e-2, "{family}: {reached}");
        }
        // ΔW reads the null space alone, where C has no eigenvalue above the threshold: ‖ΔW C‖ ≤ threshold ‖ΔW‖.
        let moments = moments(model.as_ref(), &hparams);
        let size = moments.size();
        let c = Matrix::new(size, size, moments.mean().to_vec()).unwrap().to_tensor(&model.device());
        let delta = made.deltas[&model.spec().mlp_out_weight(1)].delta.to_tensor(&model.device());
        let delta = if delta.dims()[0] == size { delta.transpose() } else { delta };
        let size_of = |tensor| norm(&tensor_values(&tensor).unwrap().into_iter().map(f64::from).collect::<Vec<_>>());
        let seen = size_of(delta.clone().matmul(c)) / size_of(delta);
        let largest = (0..size).map(|i| f64::from(moments.mean()[i * size + i])).fold(0.0, f64::max);
        assert!(seen <= 1.01 * hparams.nullspace_threshold && seen < 0.1 * largest, "{family}: {seen}, {largest}");
    }
}

#[test]
fn an_edit_spares_those_made_before_it_in_the_same_model_only() {
    let model = tiny_model("llama", 52).unwrap();
    let hparams = hparams(model.as_ref());
    let [first, second] = [request(0, "France", "Rome"), request(1, "Francia", "Paris")];
    let disturbed = |method: &mut AlphaEdit, base: &dyn LanguageModel| {
        let (_, after) = edit(method, base, std::slice::from_ref(&second));
        let [a, b] = [base, after.as_ref()].map(|model| at_fact(model, &first, 1, Module::MlpOutput));
        distance(&a, &b)
    };
    let mut method = AlphaEdit::new(hparams.clone());
    let (_, once) = edit(&mut method, model.as_ref(), std::slice::from_ref(&first));
    let knowing = disturbed(&mut method, once.as_ref());
    let ignorant = disturbed(&mut AlphaEdit::new(hparams.clone()), once.as_ref());
    assert!(knowing < 0.2 * ignorant, "{knowing} and {ignorant}");
    // On the original, the edit that was made there and taken back is no history.
    let fresh = AlphaEdit::new(hparams).edit(model.as_ref(), std::slice::from_ref(&second), &session()).unwrap();
    assert_eq!(method.edit(model.as_ref(), std::slice::from_ref(&second), &session()).unwrap(), fresh);
}
