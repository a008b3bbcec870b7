//! Edits of the small model, made by methods in as few steps as there can be.

use std::path::PathBuf;

use burn::tensor::Device;
use easyedit::{
    CheckedRequest, Corpora, Edit, EditMethod, EditRequest, HparamsDocument, Matrix, Progress, Result, SentenceEncoder, Session,
};
use serde_json::Value;

use crate::small_model::model;

/// Two facts.
pub(crate) fn facts() -> Vec<EditRequest> {
    vec![EditRequest::new("ab is in", "ab", "x"), EditRequest { case_id: 1, ..EditRequest::new("cd is", "cd", "y") }]
}

/// The method called `name`, with the hyperparameters by rule and these changes.
pub(crate) fn method(name: &str, changes: &Value) -> Box<dyn EditMethod> {
    let registry = easyedit::registry();
    let entry = registry.get(name).unwrap();
    let mut values = entry.hparams_for(model().spec()).unwrap().to_json().unwrap();
    changes.as_object().into_iter().flatten().for_each(|(key, value)| values[key] = value.clone());
    entry.build(&HparamsDocument::from_json(&values, "fuzz").unwrap()).unwrap()
}

/// What a method makes of the facts; with a `cache`, what was kept there is used.
///
/// # Errors
///
/// As the method.
pub(crate) fn edit(mut method: Box<dyn EditMethod>, cache: Option<&PathBuf>) -> Result<Edit> {
    let session = Session::new().with_corpora(Few);
    let session = match cache {
        Some(cache) => session.with_cache(cache),
        None => session,
    };
    method.prepare(model(), &session)?;
    method.edit(model(), &CheckedRequest::all(facts())?, &session)
}

/// A corpus of a few words, records of two facts, and an encoder that counts letters.
pub(crate) struct Few;

impl Corpora for Few {
    fn documents(&self, _: &str) -> Result<Vec<String>> {
        Ok(vec!["one text of a few words".to_owned(), "and another".to_owned()])
    }

    fn records(&self, _: &str) -> Result<Vec<EditRequest>> {
        Ok(facts())
    }

    fn sentence_encoder(&self, _: &str, _: &Device, _: &dyn Progress) -> Result<Box<dyn SentenceEncoder>> {
        Ok(Box::new(Letters))
    }
}

struct Letters;

impl SentenceEncoder for Letters {
    fn name(&self) -> &str {
        "letters"
    }

    fn fingerprint(&self) -> Result<String> {
        Ok("00".repeat(32))
    }

    fn embed(&self, texts: &[&str]) -> Result<Matrix> {
        let count = |text: &str, letter: char| 1.0 + text.matches(letter).count() as f32;
        let rows = texts.iter().flat_map(|text| {
            let row = ['a', 'e', 'i'].map(|letter| count(text, letter));
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.map(|value| value / length)
        });
        Ok(Matrix::new(texts.len(), 3, rows.collect()).unwrap())
    }
}
