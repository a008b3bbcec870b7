//! Small random models, and what their layers do at a fact: shared by the tests of the methods that edit many facts.
#![allow(dead_code, reason = "each test uses a part")]

use easyedit_core::tokens::FactToken;
use easyedit_core::{
    Capture, CheckedRequest, Corpora, Edit, EditMethod, EditRequest, LanguageModel, Module, Pass, Result, Session, Site, TokenBatch,
    tensor_values,
};

pub(crate) struct SmallText;

impl Corpora for SmallText {
    fn documents(&self, _: &str) -> Result<Vec<String>> {
        Ok((0..60).map(|i| format!("Text number {i} says that {} is {} and not {}.", i * 7, i + 3, i % 5)).collect())
    }
}

pub(crate) fn session() -> Session {
    Session::new().with_seed(5).with_corpora(SmallText)
}

pub(crate) fn request(case_id: usize, subject: &str, target: &str) -> CheckedRequest {
    let request = EditRequest { case_id, ..EditRequest::new(format!("The capital of {subject} is"), subject, target) };
    CheckedRequest::new(request).unwrap()
}

pub(crate) fn requests() -> Vec<CheckedRequest> {
    [("France", "Rome"), ("Italy", "Paris"), ("Peru", "Cuzco")].iter().enumerate().map(|(i, (s, t))| request(i, s, t)).collect()
}

/// What `module` of `layer` gives at the fact token of the bare prompt.
pub(crate) fn at_fact(model: &dyn LanguageModel, request: &CheckedRequest, layer: usize, module: Module) -> Vec<f64> {
    let prompt = request.subject().unwrap().encode(model.tokenizer(), FactToken::SubjectLast).unwrap();
    let site = Site::new(layer, module);
    let mut capture = Capture::new([site]);
    let mut pass = Pass::new(TokenBatch::new(&[prompt.row]).unwrap(), &model.device());
    model.hidden(&mut pass, &mut capture).unwrap();
    let rows = model.rows_of(capture.take(site).unwrap(), &[prompt.fact_index]);
    tensor_values(&rows).unwrap().into_iter().map(f64::from).collect()
}

/// The edit, and the model with it.
pub(crate) fn edit(method: &mut dyn EditMethod, model: &dyn LanguageModel, requests: &[CheckedRequest]) -> (Edit, Box<dyn LanguageModel>) {
    let edit = method.edit(model, requests, &session()).unwrap();
    let mut edited = model.boxed_clone();
    let _applied = edit.apply(edited.as_mut()).unwrap();
    (edit, edited)
}

pub(crate) fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// ‖a - b‖
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>())
}

/// How far the block output of `layer` at each request's fact token moves, over how far it was to move.
pub(crate) fn reached(edit: &Edit, before: &dyn LanguageModel, after: &dyn LanguageModel, layer: usize) -> Vec<f64> {
    let moved = |request: &EditRequest| {
        let request = &CheckedRequest::new(request.clone()).unwrap();
        let [before, after] = [before, after].map(|model| at_fact(model, request, layer, Module::BlockOutput));
        distance(&before, &after)
    };
    let wanted = edit.diagnostics.as_array().unwrap().iter().map(|told| told["delta_norm"].as_f64().unwrap());
    edit.requests.iter().zip(wanted).map(|(request, wanted)| moved(request) / wanted).collect()
}
