//! The kernels against closed forms and brute force, on small random models.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use easyedit_core::tokens::{FactToken, SubjectPrompt};
use easyedit_core::{Capture, LanguageModel, Module, Pass, Probe, Silent, Site, TokenBatch, tensor_values};
use easyedit_kernels::{FactRow, FactStates, TemplateConfig, ValueConfig, ValueSite, ValueTargets, context_templates, optimize_value};
use easyedit_models::tiny::tiny_model;

use burn::tensor::{Tensor, TensorData, activation};

const FAMILIES: [&str; 2] = ["gpt2", "llama"];
const LAYER: usize = 1;

/// Contexts of a fact, the last one being the subject alone.
fn contexts(model: &dyn LanguageModel) -> (Vec<FactRow>, ValueTargets) {
    let prompt = SubjectPrompt::from_parts("The capital of ", "France", " is");
    let mut rows = Vec::new();
    let mut predictions = Vec::new();
    for template in ["{}", "So it is. {}", "I know. {}"] {
        let (fact, target) = prompt.in_context(template).encode_with_target(model.tokenizer(), FactToken::SubjectLast, "Rome").unwrap();
        predictions.push(target.predicting().zip(target.target().iter().copied()).collect());
        rows.push(FactRow { ids: target.input().to_vec(), fact_index: fact.fact_index });
    }
    let essence = SubjectPrompt::from_parts("", "France", "").encode(model.tokenizer(), FactToken::SubjectFirst).unwrap();
    rows.push(FactRow { ids: essence.ids[..=essence.fact_index].to_vec(), fact_index: essence.fact_index });
    predictions.push(Vec::new());
    (rows, ValueTargets { predictions, keep: Some(3) })
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
        let mut pass = Pass::new(TokenBatch::new(std::slice::from_ref(&row.ids)).unwrap(), &model.device());
        let mut probe = AddAt { layer: LAYER, positions: vec![row.fact_index], delta: delta.to_vec() };
        let hidden = model.hidden(&mut pass, &mut probe).unwrap();
        let all: Vec<usize> = (0..row.ids.len()).collect();
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
        let (rows, targets) = contexts(model.as_ref());
        let states = FactStates::collect(model.as_ref(), &rows, LAYER, true).unwrap();
        let found = optimize_value(model.as_ref(), &states, &targets, &config(1), &Silent).unwrap();
        let zero = vec![0.0; model.spec().d_model];
        let (nll, _) = loss_by_brute_force(model.as_ref(), &rows, &targets, &zero, 0.7);
        assert!((found.losses[0].nll - nll).abs() < 1e-5, "{family}: {} and {nll}", found.losses[0].nll);
        assert!(found.losses[0].kl.abs() < 1e-6);
        assert!(found.delta.iter().all(|d| *d == 0.0), "one pass makes no update");
    }
}

#[test]
fn the_suffix_alone_gives_the_loss_of_the_whole_run() {
    for family in FAMILIES {
        let model = tiny_model(family, 2).unwrap();
        let (rows, targets) = contexts(model.as_ref());
        let states = FactStates::collect(model.as_ref(), &rows, LAYER, true).unwrap();
        for steps in [2, 5] {
            // The last pass is not followed by an update: its loss is that of the δ that is returned.
            let found = optimize_value(model.as_ref(), &states, &targets, &config(steps), &Silent).unwrap();
            let delta: Vec<f32> = found.delta.iter().map(|d| *d as f32).collect();
            let (nll, kl) = loss_by_brute_force(model.as_ref(), &rows, &targets, &delta, 0.7);
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
        let (rows, targets) = contexts(model.as_ref());
        let states = FactStates::collect(model.as_ref(), &rows, LAYER, true).unwrap();
        // Adam's first step is -lr · sign(gradient), for gradients well above its ε.
        let found = optimize_value(model.as_ref(), &states, &targets, &config(2), &Silent).unwrap();
        let width = model.spec().d_model;
        let mut checked = 0;
        for index in (0..width).step_by(3) {
            let at = |h: f32| {
                let mut delta = vec![0.0; width];
                delta[index] = h;
                loss_by_brute_force(model.as_ref(), &rows, &targets, &delta, 0.0).0
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
    let (rows, targets) = contexts(model.as_ref());
    let states = FactStates::collect(model.as_ref(), &rows, LAYER, true).unwrap();
    let tight = ValueConfig { clamp_norm_factor: 0.25, lr: 5.0, ..config(4) };
    let found = optimize_value(model.as_ref(), &states, &targets, &tight, &Silent).unwrap();
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!((norm(&found.delta) - 0.25 * norm(&found.initial)).abs() < 1e-9);
}

#[test]
fn keys_and_values_are_those_of_a_whole_run() {
    for family in FAMILIES {
        let model = tiny_model(family, 5).unwrap();
        let (rows, _) = contexts(model.as_ref());
        let states = FactStates::collect(model.as_ref(), &rows, LAYER, false).unwrap();
        for (index, row) in rows.iter().enumerate() {
            let site = Site::new(LAYER, Module::MlpKey);
            let mut capture = Capture::new([site]);
            let mut pass = Pass::new(TokenBatch::new(std::slice::from_ref(&row.ids)).unwrap(), &model.device());
            model.hidden(&mut pass, &mut capture).unwrap();
            let whole = tensor_values(capture.get(site).unwrap()).unwrap();
            let width = model.spec().d_mlp;
            let want = &whole[row.fact_index * width..(row.fact_index + 1) * width];
            let got = &states.keys().values()[index * width..(index + 1) * width];
            assert!(want.iter().zip(got).all(|(a, b)| (a - b).abs() < 1e-5), "{family}, context {index}");
        }
    }
}

#[test]
fn templates_are_seeded_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_model("gpt2", 9).unwrap();
    let config = TemplateConfig { lengths: vec![(12, 5), (16, 10)], seed: 3 };
    let made = context_templates(model.as_ref(), &config, Some(folder.path()), &Silent).unwrap();
    assert_eq!(made.len(), 16);
    assert!(made[0] == "{}" && made[1..].iter().all(|t| t.ends_with(". {}") && t.matches(['{', '}']).count() == 2));
    assert!(made[1].starts_with("The") && made[2].starts_with("Therefore"));
    assert_eq!(context_templates(model.as_ref(), &config, Some(folder.path()), &Silent).unwrap(), made);
    assert_eq!(context_templates(model.as_ref(), &config, None, &Silent).unwrap(), made);
    let other = TemplateConfig { seed: 4, ..config };
    assert_ne!(context_templates(model.as_ref(), &other, Some(folder.path()), &Silent).unwrap(), made);
}
