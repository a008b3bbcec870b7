//! The codebook's rules on keys made by hand, and GRACE on small random models.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::collections::BTreeMap;

use easyedit_core::tokens::{encode_prompt, encode_with_target};
use easyedit_core::{
    Capture, CheckedRequest, Corpora, Edit, EditMethod, EditRequest, GenerationConfig, Hparams, HparamsDocument, LanguageModel, Method,
    Module, Registry, Result, Session, Site, Stack, TokenBatch, generate, tensor_values,
};
use easyedit_grace::{Codebook, EditId, Expansion, Grace, GraceHparams, Insertion, Outcome, Replacement, Rules, ValueStart};
use easyedit_models::tiny::tiny_model;

const FAMILIES: [&str; 5] = ["gpt2", "llama", "mistral", "gpt_neox", "t5"];
const LAYER: usize = 1;

struct NoText;

impl Corpora for NoText {
    fn documents(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

fn session() -> Session {
    Session::new().with_seed(3).with_corpora(NoText)
}

fn codebook(eps_expand: Expansion) -> Codebook {
    Codebook::new(Rules { stack: Stack::Decoder, layer: 0, eps_expand, replacement: Replacement::ReplaceLast })
}

/// An edit with a key on a line, radius 1, and a value that tells its number.
fn at(case_id: usize, place: f32, label: &str) -> Insertion {
    Insertion {
        id: EditId { case_id, prompt: format!("prompt {case_id}") },
        label: label.into(),
        key: vec![place, 10.0],
        value: vec![case_id as f32],
        radius: 1.0,
    }
}

fn answer(codebook: &Codebook, place: f32) -> Option<f32> {
    codebook.lookup(&[place, 10.0]).map(|entry| entry.value[0])
}

fn radii(codebook: &Codebook) -> Vec<f32> {
    codebook.entries().iter().map(|entry| (entry.radius * 1e4).round() / 1e4).collect()
}

#[test]
fn far_edits_get_entries_of_their_own() {
    let mut book = codebook(Expansion::Coverage);
    assert_eq!(answer(&book, 0.0), None);
    assert_eq!(book.insert(at(1, 0.0, "a")), Outcome::Added);
    assert_eq!(book.insert(at(2, 3.0, "b")), Outcome::Added);
    assert_eq!([0.0, 0.9, 1.1, 2.1, 3.9, 4.1].map(|place| answer(&book, place)), [Some(1.0), Some(1.0), None, Some(2.0), Some(2.0), None]);
}

#[test]
fn the_same_answer_widens_an_entry_and_never_narrows_it() {
    let mut book = codebook(Expansion::Coverage);
    book.insert(at(1, 0.0, "a"));
    assert_eq!(book.insert(at(2, 1.8, "a")), Outcome::Joined);
    assert_eq!((book.entries().len(), answer(&book, 1.8), answer(&book, 1.81)), (1, Some(1.0), None));
    assert_eq!(book.insert(at(3, 0.5, "a")), Outcome::Joined);
    assert_eq!(radii(&book), [1.8]);

    let mut book = codebook(Expansion::MovingAverage);
    book.insert(at(1, 0.0, "a"));
    book.insert(at(2, 1.6, "a"));
    assert_eq!(book.entries()[0].key, [0.8, 10.0]);
    assert_eq!(radii(&book), [1.6]);
}

#[test]
fn another_answer_nearby_halves_both_so_that_they_do_not_overlap() {
    let mut book = codebook(Expansion::Coverage);
    book.insert(at(1, 0.0, "a"));
    assert_eq!(book.insert(at(2, 1.2, "b")), Outcome::Split);
    assert_eq!(radii(&book), [0.6, 0.6]);
    assert_eq!([0.59, 0.61, 1.79, 1.81].map(|place| answer(&book, place)), [Some(1.0), Some(2.0), Some(2.0), None]);
    assert!(book.entries()[0].radius + book.entries()[1].radius <= 1.2);
    // A conflict at the rim of a wide ball makes no ball wider.
    let mut book = codebook(Expansion::Coverage);
    for edit in [at(1, 0.0, "a"), at(2, 2.0, "a"), at(3, 3.0, "b")] {
        book.insert(edit);
    }
    assert_eq!(radii(&book), [1.5, 1.0]);
}

#[test]
fn the_same_prompt_with_another_answer_replaces_it() {
    let mut book = codebook(Expansion::Coverage);
    book.insert(at(1, 0.0, "a"));
    assert_eq!(book.insert(at(2, 1e-5, "b")), Outcome::Replaced);
    assert_eq!((book.entries().len(), answer(&book, 0.0), radii(&book)), (1, Some(2.0), vec![1.0]));
    assert_eq!(book.roll_back(&at(2, 0.0, "b").id), 1);
    assert_eq!((answer(&book, 0.0), book.entries()[0].label.as_str()), (Some(1.0), "a"));
}

#[test]
fn rolling_an_edit_back_is_as_if_it_had_never_been_made() {
    let edits = [at(1, 0.0, "a"), at(2, 1.2, "b"), at(3, 1.9, "b"), at(4, -1.5, "a"), at(5, 9.0, "c")];
    for expansion in [Expansion::Coverage, Expansion::MovingAverage] {
        for out in 0..edits.len() {
            let mut all = codebook(expansion);
            let mut without = codebook(expansion);
            for (place, edit) in edits.iter().enumerate() {
                all.insert(edit.clone());
                if place != out {
                    without.insert(edit.clone());
                }
            }
            assert_eq!(all.roll_back(&edits[out].id), 1);
            assert_eq!(all, without);
            assert_eq!(all.roll_back(&edits[out].id), 0);
        }
        let (mut first, mut second, mut whole) = (codebook(expansion), codebook(expansion), codebook(expansion));
        for (place, edit) in edits.iter().enumerate() {
            if place < 2 { &mut first } else { &mut second }.insert(edit.clone());
            whole.insert(edit.clone());
        }
        first.merge(&second);
        assert_eq!(first, whole);
    }
}

fn hparams(spec: &easyedit_core::ModelSpec) -> GraceHparams {
    GraceHparams { layers: vec![LAYER], edit_lr: 0.3, n_iter: 150, eps_relative: Some(0.05), ..GraceHparams::for_spec(spec) }
}

fn requests() -> Vec<CheckedRequest> {
    [("Ada Quill speaks ", "W"), ("Mill Bridge was built by ", "O"), ("The river Tarn ends in ", "l")]
        .iter()
        .enumerate()
        .map(|(case_id, (prompt, target))| EditRequest { case_id, ..EditRequest::new(*prompt, "", *target) })
        .map(|request| CheckedRequest::new(request).unwrap())
        .collect()
}

fn edit(model: &dyn LanguageModel, requests: &[CheckedRequest]) -> Edit {
    Grace::new(hparams(model.spec())).edit(model, requests, &session()).unwrap()
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register::<Grace>();
    registry
}

/// What the model writes behind a prompt.
fn says(model: &dyn LanguageModel, prompt: &str) -> Vec<u32> {
    let ids = encode_prompt(model, prompt).unwrap();
    generate(model, &[ids], &GenerationConfig { ignore_eos: true, ..GenerationConfig::greedy(6) }).unwrap().remove(0).ids
}

/// Logits of all tokens of a prompt with an answer, and the answer's ids with what is predicted for each.
fn reads(model: &dyn LanguageModel, prompt: &str, answer: &str) -> (Vec<f32>, Vec<(u32, u32)>) {
    let tokens = encode_with_target(model, prompt, answer).unwrap();
    let batch = TokenBatch::new(&[tokens.input()]).unwrap();
    let mut pass = model.start(&[&tokens.source], batch).unwrap().with_prompts(vec![tokens.start]).unwrap();
    let hidden = model.hidden(&mut pass, &mut ()).unwrap();
    let all = model.logits(hidden, &(0..tokens.input().len()).collect::<Vec<_>>()).unwrap();
    let best: Vec<i64> = all.clone().argmax(1).into_data().convert::<i64>().try_to_vec().unwrap();
    let pairs = tokens.predicting().zip(tokens.target()).map(|(place, id)| (*id, best[place] as u32)).collect();
    (tensor_values(&all).unwrap(), pairs)
}

#[test]
fn edited_prompts_are_answered_and_others_are_untouched_bit_for_bit() {
    for family in FAMILIES {
        let model = tiny_model(family, 11).unwrap();
        let requests = requests();
        let edited = registry().apply(&[edit(&*model, &requests)], model.boxed_clone()).unwrap();
        for request in &requests {
            let (_, pairs) = reads(&*edited, request.prompt(), request.target_new());
            assert!(pairs.iter().all(|(wanted, predicted)| wanted == predicted), "{family}: {pairs:?}");
            let written = says(&*edited, request.prompt());
            let wanted: Vec<u32> = pairs.iter().map(|(wanted, _)| *wanted).collect();
            assert_eq!(written[..wanted.len().min(6)], wanted[..wanted.len().min(6)], "{family}: writing and reading agree");
        }
        let far = "9 + 8 = 17 and";
        assert_eq!(reads(&*edited, far, "so on").0, reads(&*model, far, "so on").0, "{family}");
        assert_eq!(says(&*edited, far), says(&*model, far), "{family}");
    }
}

/// The hyperparameters of `edit` with the codebook in the encoder.
fn in_encoder(spec: &easyedit_core::ModelSpec, replacement: Replacement) -> GraceHparams {
    let rewrite_module_tmp = spec.encoder.as_ref().unwrap().mlp_out.clone();
    GraceHparams { rewrite_module_tmp, replacement, ..hparams(spec) }
}

/// A random T5 takes no arbitrary answer from its encoder, but what the search found is what the edited model does.
#[test]
fn a_codebook_in_the_encoder_gives_the_likelihood_of_the_search() {
    let model = tiny_model("t5", 11).unwrap();
    for replacement in [Replacement::ReplaceLast, Replacement::ReplacePrompt] {
        let requests = requests();
        let made = Grace::new(in_encoder(model.spec(), replacement)).edit(&*model, &requests, &session()).unwrap();
        let told = made.diagnostics.clone();
        let edited = registry().apply(&[made], model.boxed_clone()).unwrap();
        for (request, told) in requests.iter().zip(told.as_array().unwrap()) {
            let (logits, pairs) = reads(&*edited, request.prompt(), request.target_new());
            let rows = logits.chunks_exact(model.spec().vocab_size).zip(&pairs);
            let nll = |(row, (wanted, _)): (&[f32], &(u32, u32))| {
                row.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln() - f64::from(row[*wanted as usize])
            };
            let mean = rows.map(nll).sum::<f64>() / pairs.len() as f64;
            let losses: Vec<f64> = told["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
            let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
            assert!((mean - least).abs() < 1e-4 && least < losses[0] - 0.2, "{replacement:?}: {mean}, {least} from {}", losses[0]);
            assert_eq!(says(&*edited, request.prompt())[0], pairs[0].1, "{replacement:?}: writing and reading agree");
        }
        let far = "9 + 8 = 17 and";
        assert_eq!(reads(&*edited, far, "so on").0, reads(&*model, far, "so on").0);
    }
}

#[test]
fn the_value_stands_at_the_prompts_end_alone_or_at_all_of_its_tokens() {
    let model = tiny_model("llama", 11).unwrap();
    let request = &requests()[..1];
    for replacement in [Replacement::ReplaceLast, Replacement::ReplacePrompt] {
        let mut grace = Grace::new(GraceHparams { replacement, ..hparams(model.spec()) });
        let made = grace.edit(&*model, request, &session()).unwrap();
        let value = made.overlay.as_ref().unwrap().tensors["values"].clone();
        let edited = registry().apply(&[made], model.boxed_clone()).unwrap();
        let tokens = encode_with_target(&*model, request[0].prompt(), request[0].target_new()).unwrap();
        let site = Site::new(LAYER, Module::MlpOutput);
        let outputs = |model: &dyn LanguageModel| {
            let mut capture = Capture::new([site]);
            let batch = TokenBatch::new(&[tokens.input()]).unwrap();
            let mut pass = model.start(&[&tokens.source], batch).unwrap().with_prompts(vec![tokens.start]).unwrap();
            model.hidden(&mut pass, &mut capture).unwrap();
            tensor_values(&capture.take(site).unwrap()).unwrap()
        };
        let (before, after) = (outputs(&*model), outputs(&*edited));
        let width = model.spec().d_model;
        for token in 0..tokens.input().len() {
            let range = token * width..(token + 1) * width;
            let is_replaced = token + 1 == tokens.start || (token < tokens.start && replacement == Replacement::ReplacePrompt);
            let wanted = if is_replaced { value.values() } else { &before[range.clone()] };
            assert!(after[range].iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-4), "{replacement:?}, token {token}");
        }
        let (_, pairs) = reads(&*edited, request[0].prompt(), request[0].target_new());
        assert!(pairs.iter().all(|(wanted, predicted)| wanted == predicted), "{replacement:?}: {pairs:?}");
    }
}

#[test]
fn edits_in_a_row_are_one_codebook_and_the_same_as_at_once() {
    for family in ["llama", "t5"] {
        let model = tiny_model(family, 11).unwrap();
        let requests = requests();
        let at_once = registry().apply(&[edit(&*model, &requests)], model.boxed_clone()).unwrap();
        let mut in_a_row = model.boxed_clone();
        let mut edits = Vec::new();
        for request in &requests {
            let made = edit(&*in_a_row, std::slice::from_ref(request));
            in_a_row = registry().apply(std::slice::from_ref(&made), in_a_row).unwrap();
            edits.push(made);
        }
        assert_eq!(in_a_row.overlaid().unwrap().overlay, at_once.overlaid().unwrap().overlay, "{family}");
        assert!(in_a_row.overlaid().unwrap().beneath.overlaid().is_none(), "{family}: one wrapper, no chain");
        let folder = tempfile::tempdir().unwrap();
        let kept: Vec<Edit> = edits
            .iter()
            .enumerate()
            .map(|(i, edit)| {
                let path = folder.path().join(format!("{i}.edit.safetensors"));
                edit.save(&path).unwrap();
                Edit::load(&path).unwrap()
            })
            .collect();
        assert_eq!(kept, edits);
        let loaded = registry().apply(&kept, model.boxed_clone()).unwrap();
        let prompt = requests[1].prompt();
        assert_eq!(reads(&*loaded, prompt, "O").0, reads(&*in_a_row, prompt, "O").0, "{family}");
        // Taking the codebook away is using the model beneath.
        assert_eq!(reads(loaded.overlaid().unwrap().beneath, prompt, "O").0, reads(&*model, prompt, "O").0, "{family}");
    }
}

#[test]
fn a_fact_is_forgotten_out_of_an_edit() {
    let model = tiny_model("llama", 11).unwrap();
    let requests = requests();
    let all = edit(&*model, &requests);
    let fewer = Grace::new(hparams(model.spec())).forget(&all, &[1]).unwrap();
    let never = edit(&*model, &[requests[0].clone(), requests[2].clone()]);
    assert_eq!(fewer.requests, never.requests);
    assert_eq!(fewer.overlay, never.overlay);
    assert_eq!(fewer.diagnostics.as_array().unwrap().len(), 2);
    let edited = registry().apply(&[fewer], model.boxed_clone()).unwrap();
    let prompt = requests[1].prompt();
    assert_eq!(reads(&*edited, prompt, "O").0, reads(&*model, prompt, "O").0);
}

#[test]
fn values_may_begin_at_random_and_the_same_seed_gives_the_same_edit() {
    let model = tiny_model("gpt2", 11).unwrap();
    let run = |seed| {
        let mut grace = Grace::new(GraceHparams { val_init: ValueStart::Cold, ..hparams(model.spec()) });
        grace.edit(&*model, &requests()[..1], &session().with_seed(seed)).unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).overlay.unwrap().tensors["values"], run(2).overlay.unwrap().tensors["values"]);
    assert_eq!(run(1).overlay.unwrap().tensors["keys"], run(2).overlay.unwrap().tensors["keys"]);
}

fn place(hparams: GraceHparams, model: &dyn LanguageModel) -> Result<(Stack, usize)> {
    hparams.rules(model.spec()).map(|rules| (rules.stack, rules.layer))
}

#[test]
fn layers_are_named_in_every_notation() {
    let model = tiny_model("llama", 1).unwrap();
    let t5 = tiny_model("t5", 1).unwrap();
    let with = |inner: &str| GraceHparams { layers: vec![], inner_params: vec![inner.into()], ..GraceHparams::for_spec(model.spec()) };
    for inner in ["model.layers[2].mlp.down_proj.weight", "model.layers.2.mlp.down_proj", "model.layers[2].mlp.down_proj"] {
        assert_eq!(place(with(inner), &*model).unwrap(), (Stack::Decoder, 2), "{inner}");
    }
    assert_eq!(place(with("decoder.block[1].layer[2].DenseReluDense.wo.weight"), &*t5).unwrap(), (Stack::Decoder, 1));
    assert_eq!(place(with("encoder.block[0].layer[1].DenseReluDense.wo.weight"), &*t5).unwrap(), (Stack::Encoder, 0));
    assert_eq!(place(in_encoder(t5.spec(), Replacement::ReplaceLast), &*t5).unwrap(), (Stack::Encoder, LAYER));
    let by_number = GraceHparams { rewrite_module_tmp: String::new(), ..hparams(t5.spec()) };
    assert_eq!(place(by_number, &*t5).unwrap(), (Stack::Decoder, LAYER));
    let error = place(with("encoder.block.7.layer.1.DenseReluDense.wo"), &*t5).unwrap_err().to_string();
    assert!(error.contains("layer 7") && error.contains("encoder"), "{error}");
    let error = place(with("decoder.block.0.layer.2.DenseReluDense.wi"), &*t5).unwrap_err().to_string();
    assert!(error.contains("encoder.block.{}") && error.contains("decoder.block.{}"), "{error}");
    for (inner, part) in [("model.layers[2].mlp.up_proj.weight", "down_proj"), ("model.layers[9].mlp.down_proj.weight", "layer 9")] {
        let error = place(with(inner), &*model).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_cannot_be_is_named() {
    let model = tiny_model("llama", 11).unwrap();
    let made = edit(&*model, &requests()[..2]);
    let refused = |change: &dyn Fn(&mut Edit)| {
        let mut changed = made.clone();
        change(&mut changed);
        registry().apply(&[changed], model.boxed_clone()).map(|_| ()).unwrap_err().to_string()
    };
    let shape = |edit: &mut Edit| {
        let tensors = &mut edit.overlay.as_mut().unwrap().tensors;
        let fewer = tensors["keys"].select_rows(&[0]);
        tensors.insert("keys".into(), fewer);
    };
    assert!(refused(&shape).contains("keys"));
    assert!(refused(&|edit| edit.overlay.as_mut().unwrap().data["layer"] = 77.into()).contains("layer 77"));
    assert!(refused(&|edit| edit.overlay.as_mut().unwrap().data["stack"] = "encoder".into()).contains("encoder"));
    assert!(refused(&|edit| edit.overlay.as_mut().unwrap().data = serde_json::json!({})).contains("codebook"));
    assert!(refused(&|edit| edit.overlay.as_mut().unwrap().tensors = BTreeMap::new()).contains("missing"));
    let document = |change: fn(&mut GraceHparams)| {
        let mut hparams = hparams(model.spec());
        change(&mut hparams);
        HparamsDocument::from_hparams(&hparams, "test").unwrap().read::<GraceHparams>().map(|_| ()).unwrap_err().to_string()
    };
    assert!(document(|h| h.replacement = Replacement::ReplaceAll).contains("replace_last"));
    assert!(document(|h| h.dist_fn = "cos".into()).contains("dist_fn"));
    assert!(document(|h| h.layers.clear()).contains("inner_params"));
    assert!(document(|h| h.eps_relative = Some(0.0)).contains("eps_relative"));
    assert_eq!(GraceHparams::METHOD, "GRACE");
    assert_eq!(place(Grace::hparams_for(model.spec()), &*model).unwrap(), (Stack::Decoder, 1));
}
