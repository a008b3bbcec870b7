//! Integrated gradients against their axioms and a reference, and KN on small random models.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use burn::tensor::{Tensor, activation};
use easyedit_core::tokens::{TargetTokens, encode_with_target};
use easyedit_core::{
    Capture, CheckedRequest, Corpora, Edit, EditMethod, EditRequest, HparamsDocument, Insert, LanguageModel, Matrix, Method, Module,
    ParamName, Probe, Registry, Result, Session, Silent, Site, TokenBatch, TokenRow, WeightLayout, tensor_values,
};
use easyedit_kn::{Kn, KnHparams, KnMode, attribute};
use easyedit_models::tiny::tiny_model;

const FAMILIES: [&str; 6] = ["gpt2", "llama", "mistral", "gpt_neox", "gpt_neo", "t5"];

struct NoText;

impl Corpora for NoText {
    fn documents(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

fn session() -> Session {
    Session::new().with_seed(3).with_corpora(NoText)
}

/// Scales one token's activations at a site, tracked if a gradient is wanted.
struct Scaled {
    site: Site,
    token: usize,
    factor: f32,
    tracked: Option<Tensor<2>>,
    gradient: bool,
}

impl Probe for Scaled {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        if site != self.site {
            return activations;
        }
        let tokens = activations.dims()[0];
        let mut scaled = activations.clone().narrow(0, self.token, 1).mul_scalar(self.factor);
        if self.gradient {
            scaled = Tensor::from_inner(scaled).require_grad();
            self.tracked = Some(scaled.clone());
        }
        let mut parts = Vec::new();
        if self.token > 0 {
            parts.push(activations.clone().narrow(0, 0, self.token));
        }
        parts.push(scaled);
        if self.token + 1 < tokens {
            parts.push(activations.narrow(0, self.token + 1, tokens - self.token - 1));
        }
        Tensor::cat(parts, 0)
    }
}

/// Probability of the answer's token behind `token`, whose key in `layer` is scaled, and its gradient by the scaled key.
fn probability(
    model: &dyn LanguageModel,
    tokens: &TargetTokens,
    token: usize,
    layer: usize,
    factor: f32,
    gradient: bool,
) -> (f64, Vec<f32>) {
    let answer = tokens.row.ids()[token + 1] as usize;
    let mut probe = Scaled { site: Site::new(layer, Module::MlpKey), token, factor, tracked: None, gradient };
    let mut pass = model.start(&[&tokens.source], TokenBatch::new(&[tokens.input()]).unwrap()).unwrap();
    let hidden = model.hidden(&mut pass, &mut probe).unwrap();
    let chosen = activation::softmax(model.logits(hidden, &[token]).unwrap(), 1).narrow(1, answer, 1);
    let value = f64::from(tensor_values(&chosen.clone().inner()).unwrap()[0]);
    let slope = probe.tracked.map(|tracked| tensor_values(&tracked.grad(&chosen.sum().backward()).unwrap()).unwrap());
    (value, slope.unwrap_or_default())
}

fn key(model: &dyn LanguageModel, tokens: &TargetTokens, token: usize, layer: usize) -> Vec<f32> {
    let site = Site::new(layer, Module::MlpKey);
    let mut capture = Capture::new([site]);
    let mut pass = model.start(&[&tokens.source], TokenBatch::new(&[tokens.input()]).unwrap()).unwrap();
    model.hidden(&mut pass, &mut capture).unwrap();
    tensor_values(&model.rows_of(capture.take(site).unwrap(), &[token])).unwrap()
}

#[test]
fn attributions_sum_to_what_a_layers_neurons_add() {
    for family in FAMILIES {
        let model = tiny_model(family, 21).unwrap();
        let tokens = encode_with_target(&*model, "The capital of Peru is ", "L").unwrap();
        assert_eq!(tokens.target().len(), 1);
        let found = attribute(&*model, &tokens, 60, &Silent).unwrap();
        let place = tokens.predicting().start;
        let (whole, _) = probability(&*model, &tokens, place, 0, 1.0, false);
        assert!((found.probabilities[0] - whole).abs() < 1e-6, "{family}");
        for (layer, scores) in found.scores.iter().enumerate() {
            let (without, _) = probability(&*model, &tokens, place, layer, 0.0, false);
            let (sum, added) = (scores.iter().sum::<f64>(), whole - without);
            let size = scores.iter().map(|score| score.abs()).sum::<f64>();
            assert!((sum - added).abs() < 0.03 * size.max(added.abs()), "{family}, layer {layer}: {sum} and {added}, of {size}");
        }
    }
}

#[test]
fn attributions_are_those_of_the_inserted_tokens() {
    let model = tiny_model("gpt2", 22).unwrap();
    let found = |subject: &str, with_insert: bool| {
        let mut tokens = encode_with_target(&*model, &format!("The seat of {subject} is"), "Li").unwrap();
        if with_insert {
            // The head is the embedding.
            let table = model.weight(&ParamName::weight_of(&model.spec().modules.lm_head, 0)).unwrap();
            let mut ids = tokens.row.ids().to_vec();
            let rows: Vec<usize> = ids[12..16].iter().map(|id| *id as usize).collect();
            ids[12..16].fill(3);
            let insert = Insert::new(12, Matrix::from_tensor(&model.rows_of(table, &rows)).unwrap()).unwrap();
            tokens.row = TokenRow::with_inserts(ids, vec![insert]).unwrap();
        }
        attribute(&*model, &tokens, 3, &Silent).unwrap().scores
    };
    assert_eq!(found("Peru", true), found("Peru", false));
    assert_eq!(found("Chad", true), found("Chad", false));
    assert_ne!(found("Peru", true), found("Chad", true));
}

#[test]
fn many_at_once_are_what_they_are_one_by_one() {
    for family in FAMILIES {
        let model = tiny_model(family, 22).unwrap();
        let tokens = encode_with_target(&*model, "The capital of Peru is", "Li").unwrap();
        let (steps, count) = (3, tokens.target().len());
        assert!(count > 1, "an answer of several tokens");
        let found = attribute(&*model, &tokens, steps, &Silent).unwrap();
        for layer in 0..model.spec().n_layers {
            let mut wanted = vec![0.0; model.spec().d_mlp];
            for token in tokens.predicting() {
                let key = key(&*model, &tokens, token, layer);
                for k in 1..=steps {
                    let (_, slope) = probability(&*model, &tokens, token, layer, k as f32 / steps as f32, true);
                    for ((wanted, slope), activation) in wanted.iter_mut().zip(slope).zip(&key) {
                        *wanted += f64::from(slope) * f64::from(*activation) / (steps * count) as f64;
                    }
                }
            }
            let largest = wanted.iter().fold(0f64, |max, v| max.max(v.abs()));
            let apart = wanted.iter().zip(&found.scores[layer]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(largest > 0.0 && apart < 1e-3 * largest, "{family}, layer {layer}: {apart} of {largest}");
        }
    }
}

fn request() -> EditRequest {
    let ground_truth = Some("Lima".to_owned());
    EditRequest { case_id: 4, ground_truth, ..EditRequest::new("The capital of Peru is", "Peru", "Quito") }
}

fn hparams(model: &dyn LanguageModel, mode: KnMode) -> KnHparams {
    KnHparams { steps: 4, mode, max_neurons: Some(5), ..KnHparams::for_spec(model.spec()) }
}

fn edit(model: &dyn LanguageModel, hparams: KnHparams, request: EditRequest) -> Edit {
    Kn::new(hparams).edit(model, &[CheckedRequest::new(request).unwrap()], &session()).unwrap()
}

#[test]
fn columns_of_the_neurons_alone_change_by_the_embeddings_with_their_activations_signs() {
    let mut signs = [0, 0];
    for (family, line_search) in [("gpt2", false), ("llama", false), ("t5", false), ("llama", true)] {
        let model = tiny_model(family, 23).unwrap();
        let wanted = KnHparams { lambda_1: 0.5, lambda_2: 3.0, line_search, ..hparams(&*model, KnMode::Edit) };
        let made = edit(&*model, wanted, request());
        let factor = made.diagnostics[0]["change"]["factor"].as_f64().unwrap();
        assert!(line_search || factor == 1.0);
        let neurons = made.diagnostics[0]["neurons"].as_array().unwrap();
        assert!(!neurons.is_empty() && neurons.len() <= 5, "{family}");
        let head = model.weight(&easyedit_core::ParamName::weight_of(&model.spec().modules.lm_head, 0)).unwrap();
        let spec = model.spec();
        // The sum of the answer's embeddings, each times the neuron's activation where its token is predicted, over the sum of their sizes.
        let direction = |answer: &str, layer: usize, index: usize| {
            let tokens = encode_with_target(&*model, "The capital of Peru is", answer).unwrap();
            let mut sum = vec![0f32; spec.d_model];
            let mut size = 0.0;
            for (place, id) in tokens.predicting().zip(tokens.target()) {
                let activation = key(&*model, &tokens, place, layer)[index];
                let embedding = tensor_values(&model.rows_of(head.clone(), &[*id as usize])).unwrap();
                sum.iter_mut().zip(embedding).for_each(|(sum, e)| *sum += activation * e);
                size += activation.abs();
            }
            sum.iter().map(|v| v / size).collect::<Vec<f32>>()
        };
        for layer in 0..spec.n_layers {
            let chosen: Vec<u64> = neurons.iter().filter(|n| n["layer"] == layer).map(|n| n["index"].as_u64().unwrap()).collect();
            let Some(delta) = made.deltas.get(&spec.mlp_out_weight(layer)) else {
                assert!(chosen.is_empty(), "{family}");
                continue;
            };
            let delta = delta.delta.to_tensor(&model.device());
            let layout = spec.parameter(&spec.mlp_out_weight(layer)).unwrap().layout;
            let columns = if layout == Some(WeightLayout::OutIn) { delta.transpose() } else { delta };
            let values = tensor_values(&columns).unwrap();
            for (index, change) in values.chunks_exact(spec.d_model).enumerate() {
                let wanted: Vec<f32> = if chosen.contains(&(index as u64)) {
                    let tokens = encode_with_target(&*model, "The capital of Peru is", "Quito").unwrap();
                    signs[usize::from(key(&*model, &tokens, tokens.predicting().start, layer)[index] < 0.0)] += 1;
                    let (old, new) = (direction("Lima", layer, index), direction("Quito", layer, index));
                    old.iter().zip(new).map(|(old, new)| factor as f32 * (3.0 * new - 0.5 * old)).collect()
                } else {
                    vec![0.0; spec.d_model]
                };
                assert!(change.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{family}, layer {layer}, neuron {index}");
            }
        }
        let mut edited = model.boxed_clone();
        let applied = made.apply(&mut *edited).unwrap();
        applied.revert(&mut *edited).unwrap();
        for name in made.deltas.keys() {
            assert_eq!(edited.weight(name).unwrap().into_data(), model.weight(name).unwrap().into_data(), "{family}");
        }
    }
    assert!(signs[0] > 0 && signs[1] > 0, "neurons of both signs: {signs:?}");
}

/// Log-probability of the request's new answer.
fn new_answer(model: &dyn LanguageModel) -> f64 {
    let tokens = encode_with_target(model, "The capital of Peru is", "Quito").unwrap();
    let mut pass = model.start(&[&tokens.source], TokenBatch::new(&[tokens.input()]).unwrap()).unwrap();
    let hidden = model.hidden(&mut pass, &mut ()).unwrap();
    let logits = model.logits(hidden, &tokens.predicting().collect::<Vec<_>>()).unwrap();
    let vocabulary = logits.dims()[1];
    let values = tensor_values(&activation::log_softmax(logits, 1)).unwrap();
    tokens.target().iter().enumerate().map(|(place, id)| f64::from(values[place * vocabulary + *id as usize])).sum()
}

#[test]
fn the_new_answer_becomes_more_probable_with_every_neuron_and_with_all_of_them() {
    for family in FAMILIES {
        let model = tiny_model(family, 26).unwrap();
        let before = new_answer(&*model);
        let after = |made: &Edit| {
            let mut edited = model.boxed_clone();
            let _applied = made.apply(&mut *edited).unwrap();
            new_answer(&*edited)
        };
        let searched = edit(&*model, hparams(&*model, KnMode::Edit), request());
        assert!(after(&searched) > before, "{family}: {} after {before}", after(&searched));
        let change = &searched.diagnostics[0]["change"];
        assert!(change["passes"].as_u64().unwrap() <= 16 && change["works"].is_boolean() && change["margin"].is_f64(), "{change}");
        // One neuron at a time, whatever the sign of its activation, and so little that only the direction counts.
        for max_neurons in 1..=5 {
            let fixed = KnHparams {
                lambda_1: 0.0,
                lambda_2: 1e-2,
                line_search: false,
                max_neurons: Some(max_neurons),
                ..hparams(&*model, KnMode::Edit)
            };
            let made = edit(&*model, fixed, request());
            assert!(after(&made) > before, "{family}, {max_neurons} neurons: {} after {before}", after(&made));
        }
    }
}

#[test]
fn several_requests_are_told_of_alone_and_together() {
    let model = tiny_model("llama", 28).unwrap();
    let second = EditRequest { case_id: 9, ..EditRequest::new("Two and two are", "", "five") };
    let made =
        Kn::new(hparams(&*model, KnMode::Edit)).edit(&*model, &CheckedRequest::all([request(), second]).unwrap(), &session()).unwrap();
    let [first, last] = [0, 1].map(|place| made.diagnostics[place]["change"].clone());
    // The last was searched for on top of all others; the first was not.
    assert_eq!((&last["predicted"], &last["margin"]), (&last["together"]["predicted"], &last["together"]["margin"]));
    assert_ne!(first["margin"], first["together"]["margin"]);
    let alone = edit(&*model, hparams(&*model, KnMode::Edit), request());
    assert!(alone.diagnostics[0]["change"]["together"].is_null());
}

#[test]
fn a_search_that_finds_no_factor_says_so_and_keeps_the_best() {
    let model = tiny_model("gpt2", 27).unwrap();
    let made = edit(&*model, KnHparams { margin: 1e6, ..hparams(&*model, KnMode::Edit) }, request());
    let change = &made.diagnostics[0]["change"];
    assert_eq!((change["works"].as_bool(), change["passes"].as_u64()), (Some(false), Some(12)));
    assert!(change["factor"].as_f64().unwrap() > 0.0 && !made.deltas.is_empty());
}

#[test]
fn patches_scale_the_neurons_are_kept_in_files_and_can_be_taken_apart() {
    let mut registry = Registry::new();
    registry.register::<Kn>();
    for (family, mode) in [("llama", KnMode::Suppress), ("t5", KnMode::Enhance), ("gpt2", KnMode::Suppress)] {
        let model = tiny_model(family, 24).unwrap();
        let second = EditRequest { case_id: 9, ..EditRequest::new("Two and two are", "", "five") };
        let mut kn = Kn::new(hparams(&*model, mode));
        assert!(!kn.changes_weights());
        let made = kn.edit(&*model, &CheckedRequest::all([request(), second]).unwrap(), &session()).unwrap();
        assert_eq!(made.diagnostics[1]["answer_from"], "the model");
        assert!(made.deltas.is_empty());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kn.edit.safetensors");
        made.save(&path).unwrap();
        let loaded = Edit::load(&path).unwrap();
        assert_eq!(loaded, made);
        let edited = registry.apply(&[loaded], model.boxed_clone()).unwrap();
        let tokens = encode_with_target(&*model, "The capital of Peru is", "Lima").unwrap();
        let all: Vec<(usize, usize)> = made
            .diagnostics
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|told| told["neurons"].as_array().unwrap())
            .map(|n| (n["layer"].as_u64().unwrap() as usize, n["index"].as_u64().unwrap() as usize))
            .collect();
        // In the first changed layer, everything else is as it was.
        let layer = all.iter().map(|(layer, _)| *layer).min().unwrap();
        for token in 0..tokens.input().len() {
            let (before, after) = (key(&*model, &tokens, token, layer), key(&*edited, &tokens, token, layer));
            for (index, (before, after)) in before.iter().zip(&after).enumerate() {
                let factor = if all.contains(&(layer, index)) { mode.factor().unwrap() } else { 1.0 };
                assert!((after - factor * before).abs() < 1e-5, "{family}: layer {layer}, neuron {index}");
            }
        }
        let fewer = kn.forget(&made, &[0]).unwrap();
        assert_eq!((fewer.requests.len(), fewer.requests[0].case_id), (1, 9));
        let data = &fewer.overlay.unwrap().data["neurons"];
        assert_eq!(data.as_array().unwrap().len(), 1);
        assert_eq!(data[0], made.overlay.as_ref().unwrap().data["neurons"][1]);
        let mut wrong = made.clone();
        wrong.overlay.as_mut().unwrap().data["neurons"][0][0]["index"] = 1000.into();
        let error = registry.apply(&[wrong], model.boxed_clone()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("neuron 1000"), "{error}");
    }
    let model = tiny_model("gpt2", 24).unwrap();
    let weights = edit(&*model, hparams(&*model, KnMode::Edit), request());
    let error = Kn::new(hparams(&*model, KnMode::Edit)).forget(&weights, &[0]).unwrap_err().to_string();
    assert!(error.contains("cannot be taken apart"), "{error}");
}

#[test]
fn refining_takes_the_neurons_that_prompts_share() {
    let model = tiny_model("llama", 25).unwrap();
    let with = |refine, p| {
        let request = EditRequest { rephrase_prompts: vec!["Peru has the capital".into()], ..request() };
        let hparams = KnHparams { refine, p, max_neurons: None, adaptive_threshold: 0.1, ..hparams(&*model, KnMode::Suppress) };
        let made = edit(&*model, hparams, request);
        let count = made.diagnostics[0]["neurons"].as_array().unwrap().len();
        let by_prompt: Vec<usize> =
            made.diagnostics[0]["found_by_prompt"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        (count, by_prompt)
    };
    let (alone, by_prompt) = with(false, 0.4);
    assert_eq!(by_prompt, [alone]);
    let (either, by_prompt) = with(true, 0.4);
    assert!(by_prompt.len() == 2 && either >= by_prompt[0].max(by_prompt[1]));
    let (both, _) = with(true, 0.6);
    assert!(both <= by_prompt[0].min(by_prompt[1]) && both < either);
}

#[test]
fn easyedits_files_load_and_bad_values_are_named() {
    for text in [include_str!("../../../../hparams/KN/llama-7b.yaml"), include_str!("../../../../hparams/KN/gpt2-xl.yaml")] {
        let hparams: KnHparams = HparamsDocument::parse(text, "file").unwrap().read().unwrap();
        assert_eq!((hparams.lambda_1, hparams.lambda_2, hparams.mode, hparams.line_search), (1.0, 8.0, KnMode::Edit, true));
    }
    let text = include_str!("../../../../hparams/KN/gpt2-xl.yaml");
    for (from, to, part) in [
        ("steps: 20", "steps: 0", "steps"),
        ("steps: 20", "steps: 1000000000", "steps is 1000000000; it must be at most 1000"),
        ("p: 0.4", "p: 1.5", "p is 1.5"),
        ("refine:", "refined:", "did you mean refine"),
    ] {
        let error = HparamsDocument::parse(&text.replace(from, to), "file").unwrap().read::<KnHparams>().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(Kn::hparams_for(tiny_model("gpt2", 1).unwrap().spec()).steps, 20);
}
