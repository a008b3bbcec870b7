//! Value optimisation and keys against brute force, on small random models.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use easyedit_core::tokens::FactToken;
use easyedit_core::{Capture, CheckedRequest, EditRequest, LanguageModel, Module, Pass, Probe, Silent, Site, TokenBatch, tensor_values};
use easyedit_kernels::{
    Contexts, FactActivations, FactRow, LayerWalk, OncePredicted, OptimizedValue, ValueConfig, ValueSite, ValueTargets, optimize_values,
};
use easyedit_models::tiny::tiny_model;

use burn::tensor::{Tensor, TensorData, activation};

const FAMILIES: [&str; 2] = ["gpt2", "llama"];
const LAYER: usize = 1;

/// Contexts of a fact, the last one being the subject alone.
fn contexts(model: &dyn LanguageModel) -> Contexts {
    let templates = ["{}", "So it is. {}", "I know. {}"].map(str::to_owned);
    Contexts::of(model, &CheckedRequest::new(request("France", "Rome")).unwrap(), &templates, FactToken::SubjectLast).unwrap()
}

fn request(subject: &str, target: &str) -> EditRequest {
    EditRequest::new(format!("The capital of {subject} is"), subject, target)
}

/// The values of several requests, in their order.
fn optimize(model: &dyn LanguageModel, contexts: &[&Contexts], config: &ValueConfig) -> Vec<(OptimizedValue, FactActivations)> {
    let mut found: Vec<_> = contexts.iter().map(|_| None).collect();
    optimize_values(model, contexts, LAYER, config, &Silent, &mut |request, value, activations| {
        assert!(found[request].replace((value, activations)).is_none(), "each is found once");
        Ok(())
    })
    .unwrap();
    found.into_iter().map(Option::unwrap).collect()
}

fn config(steps: usize) -> ValueConfig {
    ValueConfig {
        steps,
        lr: 0.02,
        betas: [0.9, 0.999],
        weight_decay: 1e-3,
        clamp_norm_factor: 4.0,
        kl_factor: 0.7,
        loss_threshold: 0.0,
        site: ValueSite::MlpOutput,
        nll_factor: 1.0,
        once_predicted: None,
    }
}

struct AddAt {
    layer: usize,
    positions: Vec<usize>,
    delta: Vec<f32>,
}

impl Probe for AddAt {
    fn at(&mut self, site: Site, x: Tensor<2>) -> Tensor<2> {
        if site != Site::new(self.layer, Module::MlpOutput) {
            return x;
        }
        let [tokens, width] = x.dims();
        let mut added = vec![0f32; tokens * width];
        for position in &self.positions {
            added[position * width..(position + 1) * width].copy_from_slice(&self.delta);
        }
        let added = Tensor::<2>::from_data(TensorData::new(added, [tokens, width]), &x.device());
        x + added
    }
}

/// The loss by running every context whole, one by one, with δ added by a probe.
fn loss_by_brute_force(model: &dyn LanguageModel, rows: &[FactRow], targets: &ValueTargets, delta: &[f32], kl_factor: f64) -> (f64, f64) {
    let log_probs = |row: &FactRow, delta: &[f32]| -> (Vec<f32>, usize) {
        let mut pass = Pass::new(TokenBatch::new(std::slice::from_ref(&row.row)).unwrap(), &model.device());
        let mut probe = AddAt { layer: LAYER, positions: vec![row.fact_index], delta: delta.to_vec() };
        let hidden = model.hidden(&mut pass, &mut probe).unwrap();
        let all: Vec<usize> = (0..row.row.len()).collect();
        let logits = model.logits(hidden, &all).unwrap();
        (tensor_values(&activation::log_softmax(logits, 1)).unwrap(), model.spec().vocab_size)
    };
    let mut nll = 0.0;
    let templates = rows.len() - 1;
    for (row, predictions) in rows.iter().zip(&targets.predictions).take(templates) {
        let (values, vocab) = log_probs(row, delta);
        for (token, id) in predictions {
            nll -= f64::from(values[token * vocab + *id as usize]) / (templates * predictions.len()) as f64;
        }
    }
    let kept = &rows[templates];
    let at_fact = |delta: &[f32]| {
        let (values, vocab) = log_probs(kept, delta);
        values[kept.fact_index * vocab..(kept.fact_index + 1) * vocab].to_vec()
    };
    let (now, before) = (at_fact(delta), at_fact(&vec![0.0; delta.len()]));
    let kl: f64 = now.iter().zip(&before).map(|(n, b)| f64::from(n.exp()) * f64::from(n - b)).sum();
    (nll, kl_factor * kl)
}

#[test]
fn at_the_start_the_divergence_is_zero_and_the_likelihood_the_models_own() {
    for family in FAMILIES {
        let model = tiny_model(family, 1).unwrap();
        let contexts = contexts(model.as_ref());
        let found = optimize(model.as_ref(), &[&contexts], &config(1)).remove(0).0;
        let zero = vec![0.0; model.spec().d_model];
        let (nll, _) = loss_by_brute_force(model.as_ref(), &contexts.rows, &contexts.targets, &zero, 0.7);
        assert!((found.losses[0].nll - nll).abs() < 1e-5, "{family}: {} and {nll}", found.losses[0].nll);
        assert!(found.losses[0].kl.abs() < 1e-6);
        assert!(found.delta.iter().all(|d| *d == 0.0), "one pass makes no update");
    }
}

#[test]
fn the_suffix_alone_gives_the_loss_of_the_whole_run() {
    for family in FAMILIES {
        let model = tiny_model(family, 2).unwrap();
        let contexts = contexts(model.as_ref());
        for steps in [2, 5] {
            // The last pass is not followed by an update: its loss is that of the δ that is returned.
            let found = optimize(model.as_ref(), &[&contexts], &config(steps)).remove(0).0;
            let delta: Vec<f32> = found.delta.iter().map(|d| *d as f32).collect();
            let (nll, kl) = loss_by_brute_force(model.as_ref(), &contexts.rows, &contexts.targets, &delta, 0.7);
            let last = found.losses.last().unwrap();
            assert!((last.nll - nll).abs() < 2e-5, "{family}: nll {} and {nll}", last.nll);
            assert!((last.kl - kl).abs() < 2e-5, "{family}: kl {} and {kl}", last.kl);
            assert!(last.total < found.losses[0].total, "{family}: the loss falls");
        }
    }
}

#[test]
fn the_first_step_follows_the_numeric_gradient() {
    for family in FAMILIES {
        let model = tiny_model(family, 3).unwrap();
        let contexts = contexts(model.as_ref());
        // Adam's first step is -lr · sign(gradient), for gradients well above its ε.
        let found = optimize(model.as_ref(), &[&contexts], &config(2)).remove(0).0;
        let width = model.spec().d_model;
        let mut checked = 0;
        for index in (0..width).step_by(3) {
            let at = |h: f32| {
                let mut delta = vec![0.0; width];
                delta[index] = h;
                loss_by_brute_force(model.as_ref(), &contexts.rows, &contexts.targets, &delta, 0.0).0
            };
            let slope = (at(0.05) - at(-0.05)) / 0.1;
            if slope.abs() > 1e-4 {
                assert_eq!(found.delta[index] < 0.0, slope > 0.0, "{family}: δ[{index}] = {}, slope {slope}", found.delta[index]);
                checked += 1;
            }
        }
        assert!(checked > 3, "{family}: only {checked} slopes are large enough to tell their sign");
    }
}

#[test]
fn delta_stays_within_its_clamp() {
    let model = tiny_model("llama", 4).unwrap();
    let contexts = contexts(model.as_ref());
    let tight = ValueConfig { clamp_norm_factor: 0.25, lr: 5.0, ..config(4) };
    let found = optimize(model.as_ref(), &[&contexts], &tight).remove(0).0;
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!((norm(&found.delta) - 0.25 * norm(&found.initial)).abs() < 1e-9);
}

#[test]
fn keys_and_values_are_those_of_a_whole_run() {
    for family in FAMILIES {
        let model = tiny_model(family, 5).unwrap();
        let contexts = contexts(model.as_ref());
        let (_, activations) = optimize(model.as_ref(), &[&contexts], &config(1)).remove(0);
        for (index, row) in contexts.rows.iter().enumerate() {
            let site = Site::new(LAYER, Module::MlpKey);
            let mut capture = Capture::new([site]);
            let mut pass = Pass::new(TokenBatch::new(std::slice::from_ref(&row.row)).unwrap(), &model.device());
            model.hidden(&mut pass, &mut capture).unwrap();
            let whole = tensor_values(capture.get(site).unwrap()).unwrap();
            let width = model.spec().d_mlp;
            let want = &whole[row.fact_index * width..(row.fact_index + 1) * width];
            let got = &activations.keys.values()[index * width..(index + 1) * width];
            assert!(want.iter().zip(got).all(|(a, b)| (a - b).abs() < 1e-5), "{family}, context {index}");
        }
    }
}

/// Requests of different lengths, which begin and end differently.
fn many(model: &dyn LanguageModel) -> Vec<Contexts> {
    let templates = ["{}", "So it is, and it has always been like that. {}", "I know. {}"].map(str::to_owned);
    ["France", "the Republic of San Marino", "Ur", "Portugal", "Mesopotamia between the rivers"]
        .iter()
        .enumerate()
        .map(|(case_id, subject)| {
            let request = EditRequest { case_id, ..request(subject, ["Rome", "a small town", "x"][case_id % 3]) };
            Contexts::of(model, &CheckedRequest::new(request).unwrap(), &templates, FactToken::SubjectLast).unwrap()
        })
        .collect()
}

#[test]
fn many_requests_at_once_find_what_each_finds_alone() {
    for family in FAMILIES {
        let model = tiny_model(family, 11).unwrap();
        let all = many(model.as_ref());
        let all: Vec<&Contexts> = all.iter().collect();
        for site in [ValueSite::MlpOutput, ValueSite::BlockOutput, ValueSite::MlpAndAttentionOutput] {
            // A loss that some reach early, and then leave the others.
            let open = ValueConfig { site, lr: 0.1, ..config(12) };
            let mut reached: Vec<f64> = optimize(model.as_ref(), &all, &open).iter().map(|(value, _)| value.losses[6].total).collect();
            reached.sort_by(f64::total_cmp);
            // Between two losses: at one of them the last bit would decide.
            let config = ValueConfig { loss_threshold: f64::midpoint(reached[1], reached[2]), ..open };
            let together = optimize(model.as_ref(), &all, &config);
            let mut lengths = Vec::new();
            for (contexts, (value, activations)) in all.iter().zip(&together) {
                let (alone, activations_alone) = optimize(model.as_ref(), &[contexts], &config).remove(0);
                assert_eq!(value.losses.len(), alone.losses.len(), "{family}, {site:?}");
                lengths.push(alone.losses.len());
                let scale = alone.delta.iter().fold(0f64, |max, d| max.max(d.abs()));
                let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * scale.max(1.0));
                assert!(close(&value.delta, &alone.delta) && close(&value.initial, &alone.initial), "{family}, {site:?}");
                assert_eq!(value.attention_delta.is_some(), site == ValueSite::MlpAndAttentionOutput);
                if let (Some(a), Some(b)) = (&value.attention_delta, &alone.attention_delta) {
                    let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    let moved = a.iter().any(|d| *d != 0.0);
                    assert!(apart <= 1e-4 * scale.max(1.0) && moved == (value.losses.len() > 1), "{family}: {apart}");
                }
                for (a, b) in activations.keys.values().iter().zip(activations_alone.keys.values()) {
                    assert!((a - b).abs() < 1e-5, "{family}, {site:?}");
                }
            }
            lengths.dedup();
            assert!(lengths.len() > 1, "{family}, {site:?}: all requests end in pass {lengths:?}, so that none leaves the others");
        }
    }
}

#[test]
fn two_changes_lower_the_loss_as_one_does() {
    for family in FAMILIES {
        let model = tiny_model(family, 12).unwrap();
        let contexts = contexts(model.as_ref());
        let both = ValueConfig { site: ValueSite::MlpAndAttentionOutput, ..config(6) };
        let (value, activations) = optimize(model.as_ref(), &[&contexts], &both).remove(0);
        assert!(value.losses[5].total < value.losses[0].total);
        let width = model.spec().d_model;
        let initial: Vec<f64> = activations.mlp_outputs.values()[..width].iter().map(|v| f64::from(*v)).collect();
        assert_eq!(value.initial, initial);
        // In the first pass nothing is changed yet, wherever the change is going to be.
        let (one, _) = optimize(model.as_ref(), &[&contexts], &config(1)).remove(0);
        assert!((one.losses[0].nll - value.losses[0].nll).abs() < 1e-5, "{family}");
    }
}

#[test]
fn once_the_target_is_predicted_its_likelihood_counts_less() {
    let model = tiny_model("llama", 13).unwrap();
    let mut contexts = contexts(model.as_ref());
    let most_probable = |ids: &[u32]| {
        let mut pass = Pass::new(TokenBatch::new(&[ids]).unwrap(), &model.device());
        let hidden = model.hidden(&mut pass, &mut ()).unwrap();
        let logits = tensor_values(&model.logits(hidden, &[ids.len() - 1]).unwrap()).unwrap();
        (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
    };
    let one = ValueConfig { nll_factor: 0.5, ..config(3) };
    for (row, predictions) in contexts.rows.iter().zip(&mut contexts.targets.predictions).take(contexts.templates) {
        *predictions = vec![(row.row.len() - 1, most_probable(row.row.ids()))];
    }
    let plain = optimize(model.as_ref(), &[&contexts], &one).remove(0).0;
    let once = OncePredicted { nll_factor: 0.1, kl_threshold: -1.0 };
    let less = optimize(model.as_ref(), &[&contexts], &ValueConfig { once_predicted: Some(once), ..one.clone() }).remove(0).0;
    assert!((less.losses[0].nll - 0.1 * plain.losses[0].nll).abs() < 1e-6, "{:?} and {:?}", less.losses, plain.losses);
    assert_eq!(less.losses.len(), 3);
    let enough = OncePredicted { kl_threshold: 0.01, ..once };
    let ended = optimize(model.as_ref(), &[&contexts], &ValueConfig { once_predicted: Some(enough), ..one }).remove(0).0;
    assert_eq!(ended.losses.len(), 1, "the divergence is 0 from the start");
    // One context that does not predict its target is enough to go on as before.
    let other = &mut contexts.targets.predictions[1][0].1;
    *other = (*other + 1) % 256;
    let not_yet = optimize(model.as_ref(), &[&contexts], &ValueConfig { once_predicted: Some(enough), ..config(1) }).remove(0).0;
    assert!((not_yet.losses[0].total - not_yet.losses[0].nll).abs() < 1e-6 && not_yet.losses[0].nll > less.losses[0].nll);
}

#[test]
fn an_error_names_the_request() {
    let model = tiny_model("llama", 14).unwrap();
    let all = many(model.as_ref());
    let all: Vec<&Contexts> = all.iter().skip(2).collect();
    let wild = ValueConfig { lr: f64::NAN, ..config(5) };
    let error = optimize_values(model.as_ref(), &all, LAYER, &wild, &Silent, &mut |_, _, _| Ok(())).unwrap_err().to_string();
    assert!(error.starts_with("request ") && error.contains("v_lr"), "{error}");
}

#[test]
fn a_walk_through_edited_layers_sees_what_a_fresh_run_sees() {
    for family in FAMILIES {
        let mut model = tiny_model(family, 15).unwrap();
        let all = many(model.as_ref());
        let rows: Vec<&FactRow> = all.iter().flat_map(|contexts| contexts.rows.iter().take(contexts.templates)).collect();
        let last = model.spec().n_layers - 1;
        let mut walk = LayerWalk::new(model.as_ref(), &rows).unwrap();
        for layer in 0..=last {
            let keys = walk.keys(model.as_ref(), layer).unwrap();
            let bare = walk.activations(model.as_ref(), &[6, 0, 3], last, Module::BlockOutput).unwrap();
            let fresh = |row: &FactRow, site: Site| {
                let mut capture = Capture::new([site]);
                let mut pass = Pass::new(TokenBatch::new(std::slice::from_ref(&row.row)).unwrap(), &model.device());
                model.hidden(&mut pass, &mut capture).unwrap();
                tensor_values(&model.rows_of(capture.take(site).unwrap(), &[row.fact_index])).unwrap()
            };
            let close = |got: &[f32], want: Vec<f32>| got.len() == want.len() && got.iter().zip(want).all(|(a, b)| (a - b).abs() < 2e-5);
            for (row, got) in rows.iter().zip(keys.values().chunks_exact(model.spec().d_mlp)) {
                assert!(close(got, fresh(row, Site::new(layer, Module::MlpKey))), "{family}, keys of layer {layer}");
            }
            for (row, got) in [6, 0, 3].iter().zip(bare.values().chunks_exact(model.spec().d_model)) {
                assert!(close(got, fresh(rows[*row], Site::new(last, Module::BlockOutput))), "{family}, states at layer {layer}");
            }
            let name = model.spec().mlp_out_weight(layer);
            let weight = model.weight(&name).unwrap();
            model.set_weight(&name, weight * 1.3).unwrap();
        }
        let error = walk.keys(model.as_ref(), 0).unwrap_err().to_string();
        assert!(error.contains("left layer 0 behind"), "{error}");
    }
}
