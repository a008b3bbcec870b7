//! What must hold for ROME on any model, checked on small random ones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use easyedit_core::tokens::FactToken;
use easyedit_core::{
    Capture, CheckedRequest, Corpora, Edit, EditMethod, EditRequest, Error, HparamsDocument, LanguageModel, Matrix, Method, Module, Pass,
    Result, Session, Site, TokenBatch, WeightDelta, tensor_values,
};
use easyedit_kernels::Cholesky;
use easyedit_models::tiny::tiny_model;
use easyedit_rome::{Rome, RomeHparams};

struct OneText;

impl Corpora for OneText {
    fn documents(&self, name: &str) -> Result<Vec<String>> {
        if name == "none" {
            return Err(Error::hparams("there is no such text"));
        }
        Ok((0..40).map(|i| format!("This is text number {i} of the small corpus, which says nothing.")).collect())
    }
}

fn session() -> Session {
    Session::new().with_seed(5).with_corpora(OneText)
}

fn hparams(model: &dyn LanguageModel) -> RomeHparams {
    RomeHparams {
        v_num_grad_steps: 6,
        v_lr: 0.2,
        mom2_adjustment: false,
        context_template_length_params: vec![(12, 5)],
        ..RomeHparams::for_spec(model.spec())
    }
}

fn request() -> EditRequest {
    EditRequest::new("The capital of France is", "France", "Rome")
}

fn edit(model: &dyn LanguageModel, hparams: RomeHparams) -> Edit {
    Rome::new(hparams).edit(model, &CheckedRequest::all([request()]).unwrap(), &session()).unwrap()
}

/// Key and output at the fact token of the bare prompt, and the value the edit aimed at (without its norm's direction).
fn at_fact(model: &dyn LanguageModel, layer: usize) -> (Vec<f32>, Vec<f32>) {
    let prompt = CheckedRequest::new(request()).unwrap().subject().unwrap().encode(model.tokenizer(), FactToken::SubjectLast).unwrap();
    let sites = [Module::MlpKey, Module::MlpOutput].map(|module| Site::new(layer, module));
    let mut capture = Capture::new(sites);
    let mut pass = Pass::new(TokenBatch::new(&[prompt.row]).unwrap(), &model.device());
    model.hidden(&mut pass, &mut capture).unwrap();
    let [key, output] = sites.map(|site| {
        let all = capture.take(site).unwrap();
        tensor_values(&all.narrow(0, prompt.fact_index, 1)).unwrap()
    });
    (key, output)
}

#[test]
fn with_the_bare_prompts_key_the_edited_mlp_gives_the_value_aimed_at() {
    for family in ["gpt2", "llama"] {
        let model = tiny_model(family, 11).unwrap();
        let edit = edit(model.as_ref(), RomeHparams { consistent_keys: false, ..hparams(model.as_ref()) });
        let layer = edit.diagnostics[0]["layer"].as_u64().unwrap() as usize;
        let (key, before) = at_fact(model.as_ref(), layer);
        let mut edited = model.boxed_clone();
        let _applied = edit.apply(edited.as_mut()).unwrap();
        let (key_after, after) = at_fact(edited.as_ref(), layer);
        assert_eq!(key, key_after, "the key lies before the edited weight");
        let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let change: Vec<f32> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        let delta_norm = edit.diagnostics[0]["delta_norm"].as_f64().unwrap();
        assert!((norm(&change) / delta_norm - 1.0).abs() < 1e-4, "{family}: the output moved by {}, δ is {delta_norm}", norm(&change));
        let value_norm = edit.diagnostics[0]["value_norm"].as_f64().unwrap();
        assert!((norm(&after) / value_norm - 1.0).abs() < 1e-4, "{family}");
    }
}

#[test]
fn an_edit_has_rank_one_and_leaves_the_model_as_it_was() {
    for family in ["gpt2", "llama"] {
        let model = tiny_model(family, 12).unwrap();
        let names = model.parameter_names();
        let before: Vec<Matrix> = names.iter().map(|n| Matrix::from_tensor(&model.weight(n).unwrap()).unwrap()).collect();
        let edit = edit(model.as_ref(), hparams(model.as_ref()));
        assert_eq!(edit.deltas.len(), 1);
        assert!(edit.deltas.values().all(|d| d.delta.rank() == Some(1)));
        let after: Vec<Matrix> = names.iter().map(|n| Matrix::from_tensor(&model.weight(n).unwrap()).unwrap()).collect();
        assert!(before == after);
        let mut edited = model.boxed_clone();
        let applied = edit.apply(edited.as_mut()).unwrap();
        for _ in 0..2 {
            applied.revert(edited.as_mut()).unwrap();
            let reverted: Vec<Matrix> = names.iter().map(|n| Matrix::from_tensor(&edited.weight(n).unwrap()).unwrap()).collect();
            assert!(before == reverted, "{family}: reverting is exact, and once is as good as twice");
        }
    }
}

#[test]
fn a_second_moment_of_one_is_no_adjustment() {
    let model = tiny_model("llama", 13).unwrap();
    let plain = edit(model.as_ref(), hparams(model.as_ref()));
    let layer = plain.diagnostics[0]["layer"].as_u64().unwrap() as usize;
    let identity = Cholesky::new(model.spec().d_mlp, |r, c| f64::from(u8::from(r == c)), "the identity").unwrap();
    let adjusted = RomeHparams { mom2_adjustment: true, ..hparams(model.as_ref()) };
    let mut method = Rome::new(adjusted).with_moments(layer, identity);
    let adjusted = method.edit(model.as_ref(), &CheckedRequest::all([request()]).unwrap(), &session()).unwrap();
    for (a, b) in plain.deltas.values().zip(adjusted.deltas.values()) {
        let (a, b) =
            (tensor_values(&a.delta.to_tensor(&model.device())).unwrap(), tensor_values(&b.delta.to_tensor(&model.device())).unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}

#[test]
fn the_same_seed_gives_the_same_edit_and_statistics_change_it() {
    let model = tiny_model("gpt2", 14).unwrap();
    let with = RomeHparams { mom2_adjustment: true, ..hparams(model.as_ref()) };
    let first = edit(model.as_ref(), with.clone());
    let second = edit(model.as_ref(), with);
    assert_eq!(first.deltas, second.deltas);
    assert_ne!(edit(model.as_ref(), hparams(model.as_ref())).deltas, first.deltas);
}

#[test]
fn several_requests_and_layers_join_into_one_edit() {
    let model = tiny_model("llama", 15).unwrap();
    let second = EditRequest { case_id: 1, ..EditRequest::new("The capital of Japan is", "Japan", "Seoul") };
    let two_layers = RomeHparams { layers: vec![0, 1], ..hparams(model.as_ref()) };
    let mut method = Rome::new(two_layers);
    let both = method.edit(model.as_ref(), &CheckedRequest::all([request(), second.clone()]).unwrap(), &session()).unwrap();
    assert_eq!(both.deltas.values().map(|d| d.delta.rank()).collect::<Vec<_>>(), [Some(2), Some(2)]);
    // One after the other by hand gives the same weights.
    let mut by_hand = model.boxed_clone();
    for request in [request(), second] {
        let edit = method.edit(by_hand.as_ref(), &[CheckedRequest::new(request).unwrap()], &session()).unwrap();
        let _applied = edit.apply(by_hand.as_mut()).unwrap();
    }
    let mut at_once = model.boxed_clone();
    let _applied = both.apply(at_once.as_mut()).unwrap();
    for name in both.deltas.keys() {
        let (a, b) = (tensor_values(&by_hand.weight(name).unwrap()).unwrap(), tensor_values(&at_once.weight(name).unwrap()).unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}

#[test]
fn every_fact_token_finds_its_place() {
    let model = tiny_model("gpt2", 16).unwrap();
    let mut tokens = Vec::new();
    for fact_token in [FactToken::SubjectFirst, FactToken::SubjectLast, FactToken::SubjectFirstAfterLast, FactToken::Last] {
        let edit = edit(model.as_ref(), RomeHparams { fact_token, ..hparams(model.as_ref()) });
        tokens.push(edit.diagnostics[0]["fact_token"].as_str().unwrap().to_owned());
    }
    assert_eq!(tokens, ["F", "e", " ", "s"], "one token a byte: of France, behind it, and of the prompt's end");
}

#[test]
fn what_cannot_be_edited_is_an_error_that_names_it() {
    let model = tiny_model("llama", 17).unwrap();
    let spec = model.spec();
    let check = |hparams: RomeHparams, request: EditRequest, part: &str| {
        let message =
            Rome::new(hparams).edit(model.as_ref(), &[CheckedRequest::new(request).unwrap()], &session()).unwrap_err().to_string();
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    };
    let good = || RomeHparams { mom2_adjustment: false, ..RomeHparams::for_spec(spec) };
    check(RomeHparams { layers: vec![99], ..good() }, request(), "layer 99");
    check(RomeHparams { rewrite_module_tmp: "transformer.h.{}.mlp.c_proj".into(), ..good() }, request(), "rewrite_module_tmp");
    check(good(), EditRequest { subject: None, ..request() }, "no subject");
    let no_text = RomeHparams { mom2_adjustment: true, mom2_dataset: "none".into(), ..good() };
    check(no_text, request(), "no such text");
}

#[test]
fn hyperparameters_are_checked() {
    let model = tiny_model("llama", 18).unwrap();
    let document = |key: &str, value: serde_yaml::Value| {
        let mut document = HparamsDocument::from_hparams(&RomeHparams::for_spec(model.spec()), "test.yaml").unwrap();
        document.set(key, value);
        document.read::<RomeHparams>().map_err(|e| e.to_string())
    };
    assert!(document("v_lr", 0.5.into()).is_ok());
    for (key, value) in [
        ("v_lr", serde_yaml::Value::from(0)),
        ("kl_factor", (-1).into()),
        ("layers", serde_yaml::Value::Sequence(Vec::new())),
        ("v_num_grad_steps", 0.into()),
        ("fact_token", "subject_middle".into()),
        ("mom2_dtype", "float8".into()),
        ("clamp_norm_factor", f64::NAN.into()),
    ] {
        let message = document(key, value).unwrap_err();
        assert!(message.contains(key) && message.contains("test.yaml"), "{message}");
    }
}

#[test]
fn a_subject_that_occurs_twice_is_edited_where_it_occurs_last() {
    let model = tiny_model("gpt2", 19).unwrap();
    let twice = EditRequest::new("In France, the capital of France is", "France", "Rome");
    let edit = Rome::new(hparams(model.as_ref())).edit(model.as_ref(), &[CheckedRequest::new(twice).unwrap()], &session()).unwrap();
    assert_eq!(edit.diagnostics[0]["subject_occurrences"], 2);
    assert!(matches!(edit.deltas.values().next().unwrap().delta, WeightDelta::LowRank { .. }));
}
