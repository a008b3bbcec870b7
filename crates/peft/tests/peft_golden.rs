//! Adapters and logits of Hugging Face `peft` (`make_fixtures.py`) against ours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};

use easyedit_core::{EDIT_FILE_SUFFIX, Edit, LanguageModel, TokenBatch, apply_all, device};
use easyedit_models::{Checkpoint, SafetensorsSource};
use easyedit_peft::{CONFIG_FILE, ExportOptions, WEIGHTS_FILE, export, import};
use safetensors::SafeTensors;
use support::json;

/// Largest accepted difference of a logit. The largest seen is 3.2e-6.
const TOLERANCE: f32 = 2e-5;

struct Fixture {
    folder: PathBuf,
    model: Box<dyn LanguageModel>,
    source: Vec<u32>,
    row: Vec<u32>,
    logits: Vec<f32>,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = here.join("tests/fixtures").join(name);
        let bytes = std::fs::read(folder.join("logits.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let ids = |name: &str| -> Option<Vec<u32>> {
            let view = file.tensor(name).ok()?;
            Some(view.data().as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id) as u32).collect())
        };
        let input = ids("input_ids").unwrap();
        let (source, row) = match ids("decoder_input_ids") {
            Some(row) => (input, row),
            None => (Vec::new(), input),
        };
        let logits = file.tensor("logits").unwrap().data().as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let made: serde_json::Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["made"]).unwrap();
        let golden = here.join("../../data/golden").join(made["model"].as_str().unwrap());
        let model = Checkpoint::open(&golden).unwrap().load(&device::select("cpu").unwrap()).unwrap();
        Self { folder, model, source, row, logits }
    }

    fn adapter(&self) -> PathBuf {
        self.folder.join("adapter")
    }

    /// Largest difference between the logits of `peft` and those of the model with `edits`.
    fn difference(&self, edits: &[Edit]) -> f32 {
        let mut model = self.model.boxed_clone();
        let _applied = apply_all(edits, &mut *model).unwrap();
        let mut pass = model.start(&[self.source.as_slice()], TokenBatch::new(&[self.row.as_slice()]).unwrap()).unwrap();
        let hidden = model.hidden(&mut pass, &mut ()).unwrap();
        let positions: Vec<usize> = (0..self.row.len()).collect();
        let ours: Vec<f32> = model.logits(hidden, &positions).unwrap().into_data().try_to_vec().unwrap();
        assert_eq!(ours.len(), self.logits.len());
        ours.iter().zip(&self.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// The logits of the model with `edits` are those of `peft`, and without it they are not.
    #[track_caller]
    fn agrees(&self, edits: &[Edit], what: &str) {
        let (with, without) = (self.difference(edits), self.difference(&[]));
        println!("{what}: differs by up to {with:.1e}; without the change by {without:.2}");
        assert!(with <= TOLERANCE, "{what}: differs by up to {with}");
        assert!(without > 1000.0 * TOLERANCE, "{what}: the adapter changes nothing that could be seen ({without})");
    }
}

#[track_caller]
fn exported(name: &str, model: &str) {
    let fixture = Fixture::open(name);
    let files = std::fs::read_dir(&fixture.folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.to_string_lossy().ends_with(EDIT_FILE_SUFFIX)).collect();
    files.sort();
    let edits: Vec<Edit> = files.iter().map(|path| Edit::load(path).unwrap()).collect();
    assert!(!edits.is_empty());
    fixture.agrees(&edits, name);
    fixture.agrees(&[import(&fixture.adapter(), &*fixture.model).unwrap()], &format!("{name}, imported"));
    // What peft was given when the logits were made is what we write now.
    let dir = tempfile::tempdir().unwrap();
    let options = ExportOptions { base_model: Some(model.to_owned()), rank: None };
    export(&*fixture.model, &edits, &options, dir.path()).unwrap();
    assert_eq!(json(&dir.path().join(CONFIG_FILE)), json(&fixture.adapter().join(CONFIG_FILE)));
    assert_eq!(std::fs::read(dir.path().join(WEIGHTS_FILE)).unwrap(), std::fs::read(fixture.adapter().join(WEIGHTS_FILE)).unwrap());
}

#[track_caller]
fn imported(name: &str) {
    let fixture = Fixture::open(name);
    fixture.agrees(&[import(&fixture.adapter(), &*fixture.model).unwrap()], name);
}

#[test]
fn peft_computes_our_rank_one_edits() {
    exported("exported-gpt2-rome", "gpt2");
    exported("exported-llama-rome", "llama");
}

#[test]
fn peft_computes_our_edits_of_many_facts() {
    exported("exported-gpt2-both", "gpt2");
    exported("exported-llama-memit", "llama");
}

#[test]
fn a_lora_of_peft_with_patterns_is_what_it_is_in_peft() {
    imported("imported-gpt2-lora");
}

#[test]
fn a_rank_stabilised_lora_in_a_pickle_is_what_it_is_in_peft() {
    let fixture = Fixture::open("imported-llama-rslora");
    assert!(SafetensorsSource::open_file(&fixture.adapter().join(WEIGHTS_FILE)).is_err(), "the adapter is a pickle");
    imported("imported-llama-rslora");
}

#[test]
fn a_lora_of_an_encoder_decoder_is_what_it_is_in_peft() {
    imported("imported-t5-lora");
}

#[test]
fn an_adalora_is_what_it_is_in_peft() {
    imported("imported-llama-adalora");
}
