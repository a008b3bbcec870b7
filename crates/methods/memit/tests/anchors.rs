//! What must hold for MEMIT on any model, checked on small random ones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod support;

use easyedit_core::{EditMethod, LanguageModel, Method};
use easyedit_memit::{Memit, MemitHparams};
use easyedit_models::tiny::tiny_model;
use support::*;

fn hparams(model: &dyn LanguageModel, layers: Vec<usize>, weight: f64) -> MemitHparams {
    MemitHparams {
        layers,
        v_num_grad_steps: 5,
        v_lr: 0.1,
        mom2_update_weight: Some(weight),
        context_template_length_params: vec![],
        ..MemitHparams::for_spec(model.spec())
    }
}

#[test]
fn without_weight_on_what_is_kept_one_layer_reaches_every_wanted_state() {
    for family in ["gpt2", "llama"] {
        let model = tiny_model(family, 21).unwrap();
        let mut memit = Memit::new(hparams(model.as_ref(), vec![1], 1e-6));
        let (edit_made, edited) = edit(&mut memit, model.as_ref(), &requests());
        for reached in reached(&edit_made, model.as_ref(), edited.as_ref(), 1) {
            assert!((reached - 1.0).abs() < 1e-2, "{family}: {reached}");
        }
    }
}

#[test]
fn with_all_weight_on_what_is_kept_nothing_changes() {
    let model = tiny_model("llama", 22).unwrap();
    let mut memit = Memit::new(hparams(model.as_ref(), vec![0, 1], 1e12));
    let (edit_made, edited) = edit(&mut memit, model.as_ref(), &requests());
    assert!(reached(&edit_made, model.as_ref(), edited.as_ref(), 1).iter().all(|reached| *reached < 1e-4));
}

#[test]
fn the_share_that_each_layer_writes_is_told() {
    let model = tiny_model("llama", 22).unwrap();
    let made = |weight: Option<f64>, target_share: f64, requests: &[easyedit_core::CheckedRequest]| {
        let hparams = MemitHparams { mom2_update_weight: weight, target_share, ..hparams(model.as_ref(), vec![0, 1], 1.0) };
        edit(&mut Memit::new(hparams), model.as_ref(), requests).0
    };
    let told = |made: &easyedit_core::Edit, of: &str| -> Vec<f64> {
        let requests = made.diagnostics.as_array().unwrap();
        requests.iter().flat_map(|told| told["written"].as_array().unwrap()).map(|layer| layer[of].as_f64().unwrap()).collect()
    };
    for share in [0.5, 0.9, 0.99] {
        let one = made(None, share, &requests()[..1]);
        assert_eq!(told(&one, "layer"), [0.0, 1.0]);
        assert!(told(&one, "share").iter().all(|written| (written - share).abs() < 1e-9), "{}", one.diagnostics);
        let weights = told(&one, "mom2_update_weight");
        assert!(weights[0] != weights[1], "each layer has its own: {weights:?}");
        let several = told(&made(None, share, &requests()), "share");
        let mean = several.iter().sum::<f64>() / several.len() as f64;
        assert!((mean - share).abs() < 1e-6, "{several:?}");
    }
    // A weight that a file names is taken as it is.
    let fixed = made(Some(1e12), 0.9, &requests()[..1]);
    assert_eq!(told(&fixed, "mom2_update_weight"), [1e12; 2]);
    assert!(told(&fixed, "share").iter().all(|share| *share < 1e-6), "{}", fixed.diagnostics);
}

#[test]
fn several_layers_come_nearer_to_the_wanted_states_together() {
    let model = tiny_model("gpt2", 23).unwrap();
    let mut memit = Memit::new(hparams(model.as_ref(), vec![0, 1], 1e-6));
    let (edit_made, edited) = edit(&mut memit, model.as_ref(), &requests());
    assert_eq!(edit_made.deltas.len(), 2);
    for reached in reached(&edit_made, model.as_ref(), edited.as_ref(), 1) {
        assert!((reached - 1.0).abs() < 2e-2, "{reached}");
    }
}

#[test]
fn values_of_a_batch_come_from_the_cache_and_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_owned();
    let context = session().with_cache(&cache);
    let model = tiny_model("llama", 24).unwrap();
    let made = |requests: &[easyedit_core::CheckedRequest]| {
        Memit::new(hparams(model.as_ref(), vec![0, 1], 10.0)).edit(model.as_ref(), requests, &context).unwrap()
    };
    let files = || std::fs::read_dir(cache.join("values")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let first = made(&requests()[..2]);
    assert_eq!(files().len(), 2);
    assert_eq!(made(&requests()[..2]), first);
    std::fs::write(&files()[0], b"damaged").unwrap();
    assert_eq!(made(&requests()[..2]), first, "alone, the value that was lost is found as beside another");
    made(&requests());
    assert_eq!(files().len(), 3, "only the third had to be optimised");
}

#[test]
fn errors_name_the_key() {
    let model = tiny_model("llama", 25).unwrap();
    for (change, part) in [
        (Box::new(|h: &mut MemitHparams| h.mom2_update_weight = Some(0.0)) as Box<dyn Fn(&mut MemitHparams)>, "mom2_update_weight"),
        (Box::new(|h| h.layers = vec![1, 0]), "layers"),
        (Box::new(|h| h.v_adam_betas = [0.9, 1.0]), "v_adam_betas"),
        (Box::new(|h| h.v_num_grad_steps = 0), "v_num_grad_steps"),
        (Box::new(|h| h.fact_token = easyedit_core::tokens::FactToken::Last), "fact_token"),
    ] {
        let mut hparams = hparams(model.as_ref(), vec![0, 1], 1.0);
        change(&mut hparams);
        let message = easyedit_core::Hparams::check(&hparams).unwrap_err();
        assert!(message.contains(part), "{message}");
    }
}
