//! KN on every model of the tiny world: the neurons it finds matter, and what editing them does.
#![cfg(feature = "kn")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use burn::tensor::activation;
use easyedit::tokens::encode_with_target;
use easyedit::{
    CheckedRequest, Edit, EditRequest, Editor, EditorOptions, HparamsDocument, LanguageModel, Mode, Registry, Session, TextCorpora,
    TokenBatch, hparams, tensor_values,
};
use easyedit_tiny_world as tiny_world;
use serde_json::{Value, json};

/// Facts whose neurons are looked for.
const FACTS: usize = 10;
/// Facts that are edited. Every setting in `hparams/KN/tiny-world.yaml` was chosen on the first half of the 420 facts; these are of the second.
const HELD_OUT: std::ops::Range<usize> = 210..240;

fn document(registry: &Registry, model: &dyn LanguageModel) -> HparamsDocument {
    let entry = registry.get("KN").unwrap();
    let found = hparams::find(entry, &model.spec().name, model.spec()).unwrap();
    assert!(matches!(&found.source, hparams::HparamsSource::BuiltIn(name) if name.contains("tiny-world")), "{}", found.source);
    found.document
}

/// Probability of the request's old answer.
fn probability(model: &dyn LanguageModel, request: &EditRequest) -> f64 {
    let tokens = encode_with_target(model, &request.filled_prompt(), request.ground_truth.as_ref().unwrap()).unwrap();
    let batch = TokenBatch::new(&[tokens.input()]).unwrap();
    let mut pass = model.start(&[&tokens.source], batch).unwrap().with_prompts(vec![tokens.start]).unwrap();
    let hidden = model.hidden(&mut pass, &mut ()).unwrap();
    let logits = model.logits(hidden, &tokens.predicting().collect::<Vec<_>>()).unwrap();
    let vocabulary = logits.dims()[1];
    let probabilities = tensor_values(&activation::softmax(logits, 1)).unwrap();
    tokens.target().iter().enumerate().map(|(place, id)| f64::from(probabilities[place * vocabulary + *id as usize])).product()
}

/// Numbers that follow from a seed alone.
fn random(state: &mut u64, below: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % below
}

#[test]
fn the_neurons_found_matter_more_than_others() {
    let registry = easyedit::registry();
    let context = Session::new().with_corpora(TextCorpora::default());
    for name in tiny_world::model_names() {
        let model = tiny_world::model(name).unwrap();
        let mut document = document(&registry, &*model);
        document.set("mode", "suppress");
        let mut method = registry.get("KN").unwrap().build(&document).unwrap();
        let mut state = 17;
        let (mut before, mut found, mut others, mut count) = (0.0, 0.0, 0.0, 0);
        for request in &tiny_world::requests()[..FACTS] {
            let made = method.edit(&*model, &[CheckedRequest::new(request.clone()).unwrap()], &context).unwrap();
            let suppressed = |edit: Edit| probability(&*registry.apply(&[edit], model.boxed_clone()).unwrap(), request);
            let mut random_ones = made.clone();
            let chosen = made.overlay.as_ref().unwrap().data["neurons"][0].as_array().unwrap();
            let others_of_layer: Vec<Value> =
                chosen.iter().map(|neuron| json!({"layer": neuron["layer"], "index": random(&mut state, model.spec().d_mlp)})).collect();
            count += chosen.len();
            random_ones.overlay.as_mut().unwrap().data["neurons"] = json!([others_of_layer]);
            before += probability(&*model, request);
            found += suppressed(made);
            others += suppressed(random_ones);
        }
        let [before, found, others] = [before, found, others].map(|sum| sum / FACTS as f64);
        println!(
            "KN {name}: probability of the true answer {before:.3}; {:.1} neurons suppressed {found:.3}, as many others {others:.3}",
            count as f64 / FACTS as f64
        );
        // Of an encoder-decoder only the decoder's neurons are looked at.
        let least = if tiny_world::is_encoder_decoder(name) { 0.0 } else { 0.03 };
        assert!(before - found > 2.0 * (before - others) + least, "{name}: {before} {found} {others}");
    }
}

#[test]
fn kn_edits_facts_that_no_setting_was_chosen_on() {
    let registry = easyedit::registry();
    let mut short = Vec::new();
    for name in tiny_world::model_names() {
        let model = tiny_world::model(name).unwrap();
        let document = document(&registry, &*model);
        let method = registry.get("KN").unwrap().build(&document).unwrap();
        let mut editor = Editor::new(
            &Session::new().with_corpora(TextCorpora::default()),
            model,
            method,
            EditorOptions { mode: Mode::Independent, ..EditorOptions::default() },
        );
        let requests = &tiny_world::requests()[HELD_OUT];
        let session = editor.run(requests, &mut |_| Ok(())).unwrap();
        assert_eq!(session.summary.failed, 0, "{name}");
        let scores = &session.summary.mean_metrics.post;
        let got = [scores.rewrite_acc.unwrap(), scores.rephrase_acc.unwrap(), scores.locality["neighborhood_acc"]];
        let changes: Vec<&Value> = session.edits.iter().map(|edit| &edit.diagnostics[0]["change"]).collect();
        let failed = changes.iter().filter(|change| change["works"] == false).count();
        let passes = changes.iter().map(|change| change["passes"].as_u64().unwrap()).sum::<u64>() as f64 / changes.len() as f64;
        println!(
            "KN {name}: reliability, generalization, locality {got:.2?}, {:.1} s; {failed} without a factor that works, {passes:.1} passes",
            session.summary.seconds.edit
        );
        if got[0] < 0.9 || got[2] < 0.4 {
            short.push((name, got));
        }
    }
    assert!(short.is_empty(), "{short:.2?}");
}

/// What the sign and the search are for: the update of the paper, and λ as the file says it.
#[test]
fn a_fixed_lambda_costs_what_is_left_alone() {
    let registry = easyedit::registry();
    for name in ["gpt2", "llama"] {
        let model = tiny_world::model(name).unwrap();
        let locality = |line_search: bool| {
            let mut document = document(&registry, &*model);
            document.set("line_search", line_search);
            let method = registry.get("KN").unwrap().build(&document).unwrap();
            let options = EditorOptions { mode: Mode::Independent, ..EditorOptions::default() };
            let mut editor = Editor::new(&Session::new().with_corpora(TextCorpora::default()), model.boxed_clone(), method, options);
            let session = editor.run(&tiny_world::requests()[HELD_OUT][..10], &mut |_| Ok(())).unwrap();
            session.summary.mean_metrics.post.locality["neighborhood_acc"]
        };
        let (searched, fixed) = (locality(true), locality(false));
        assert!(searched > fixed + 0.1, "{name}: {searched} with the search, {fixed} without");
    }
}
