//! Records, and an encoder that needs no weights.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use easyedit_core::{Corpora, EditRequest, Error, EvaluationPrompt, Matrix, Progress, Result, SentenceEncoder};

/// Width of [`Letters`].
const WIDTH: usize = 24;

/// Embeds a text by its runs of three letters.
#[derive(Clone, Default)]
pub(crate) struct Letters {
    pub(crate) version: u64,
    /// How many texts were embedded.
    pub(crate) embedded: Arc<AtomicUsize>,
    /// Gives NaN.
    pub(crate) broken: bool,
}

impl SentenceEncoder for Letters {
    fn name(&self) -> &str {
        "some/letters"
    }

    fn fingerprint(&self) -> Result<String> {
        Ok(format!("letters {}", self.version))
    }

    fn embed(&self, texts: &[&str]) -> Result<Matrix> {
        self.embedded.fetch_add(texts.len(), Ordering::Relaxed);
        let values = texts.iter().flat_map(|text| self.one(text)).collect();
        Ok(Matrix::new(texts.len(), WIDTH, values).unwrap())
    }
}

impl Letters {
    pub(crate) fn one(&self, text: &str) -> Vec<f32> {
        let mut row = [0f32; WIDTH];
        for run in text.as_bytes().windows(3) {
            let place = run.iter().fold(7 + self.version, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte))) % WIDTH as u64;
            row[place as usize] += 1.0;
        }
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter().map(|v| if self.broken { f32::NAN } else { v / length }).collect()
    }
}

/// A dataset, and an encoder if there is one.
#[derive(Clone, Default)]
pub(crate) struct Given {
    pub(crate) records: Vec<EditRequest>,
    pub(crate) encoder: Option<Letters>,
}

impl Corpora for Given {
    fn documents(&self, name: &str) -> Result<Vec<String>> {
        panic!("{name} was asked for")
    }

    fn records(&self, _: &str) -> Result<Vec<EditRequest>> {
        Ok(self.records.clone())
    }

    fn sentence_encoder(&self, name: &str, _: &Device, _: &dyn Progress) -> Result<Box<dyn SentenceEncoder>> {
        match &self.encoder {
            Some(encoder) => Ok(Box::new(encoder.clone())),
            None => Err(Error::hparams(format!("{name} cannot be downloaded"))),
        }
    }
}

const NAMES: [&str; 8] = ["Ada", "Bruno", "Cleo", "Dario", "Edda", "Fritz", "Gwen", "Hugo"];
const PLACES: [&str; 6] = ["Tarn", "Mill Bridge", "Norland", "Purton", "East Quay", "Velm"];

/// Records whose every third lacks a rephrased prompt, and every fourth a locality prompt.
pub(crate) fn records(count: usize) -> Vec<EditRequest> {
    let record = |i: usize| {
        let (name, place) = (NAMES[i % 8], PLACES[i % 6]);
        let subject = format!("{name} {i}");
        let mut request = EditRequest::new(format!("{subject} lives in"), subject.clone(), place);
        request.case_id = i;
        if i % 3 != 2 {
            request.rephrase_prompts = vec![format!("The home of {subject} is")];
        }
        if i % 4 != 3 {
            let near = EvaluationPrompt::new(format!("{} lives in", NAMES[(i + 3) % 8]), PLACES[(i + 1) % 6]);
            request.locality = BTreeMap::from([("neighborhood".to_owned(), vec![near])]);
        }
        request
    };
    (0..count).map(record).collect()
}
