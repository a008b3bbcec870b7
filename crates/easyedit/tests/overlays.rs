//! Edits that lay something over a model: they compose, are kept in files, and go the way of edits of weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use easyedit::models::tiny::tiny_model;
use easyedit::tokens::{encode_prompt, encode_with_target};
use easyedit::{
    Capture, CheckedRequest, Edit, EditMethod, EditRequest, EditedModel, Editor, EditorOptions, EvaluationPrompt, ForwardChange,
    GenerationConfig, Hparams, LanguageModel, Matrix, Method, Mode, ModelSpec, Module, Overlay, Pass, Probe, Registry, Result, Session,
    Site, TextCorpora, TokenBatch, generate, tensor_values,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const SITE: Site = Site::new(1, Module::MlpOutput);

/// Adds a vector where a prompt ends, and has every prompt begin with a text.
struct Nudge {
    hparams: NudgeHparams,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct NudgeHparams {
    alg_name: String,
    size: f32,
    opening: String,
}

impl Hparams for NudgeHparams {
    const METHOD: &'static str = "NUDGE";
    const KEYS: &'static [&'static str] = &["alg_name", "size", "opening"];
}

#[derive(Debug)]
struct Change {
    vector: Matrix,
    opening: String,
}

struct AtPromptEnds<'a> {
    vector: &'a Matrix,
    rows: Vec<usize>,
}

impl Probe for AtPromptEnds<'_> {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        if site != SITE {
            return activations;
        }
        let [tokens, width] = activations.dims();
        let mut added = vec![0f32; tokens * width];
        for row in &self.rows {
            added[row * width..(row + 1) * width].copy_from_slice(self.vector.values());
        }
        let device = activations.device();
        activations + Tensor::from_data(TensorData::new(added, [tokens, width]), &device)
    }
}

impl ForwardChange for Change {
    fn probe(&self, pass: &Pass) -> Option<Box<dyn Probe + '_>> {
        let rows = (0..pass.batch().rows()).filter_map(|row| Some(pass.batch().index(row, pass.prompt_end(row)?))).collect();
        Some(Box::new(AtPromptEnds { vector: &self.vector, rows }))
    }

    fn prompt_text<'a>(&self, prompt: &'a str) -> Cow<'a, str> {
        match self.opening.as_str() {
            "" => Cow::Borrowed(prompt),
            opening => Cow::Owned(format!("{opening}{prompt}")),
        }
    }
}

impl EditMethod for Nudge {
    fn name(&self) -> &'static str {
        "NUDGE"
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap()
    }

    fn prepare(&mut self, _: &dyn LanguageModel, _: &Session) -> Result<()> {
        Ok(())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        let vector = Matrix::row((0..model.spec().d_model).map(|i| self.hparams.size * (i as f32 - 3.0)).collect());
        let overlay = Overlay { data: json!({ "opening": self.hparams.opening }), tensors: BTreeMap::from([("vector".into(), vector)]) };
        Ok(Edit::of(self, model, requests, session.seed(), Value::Null, BTreeMap::new()).with_overlay(overlay))
    }

    fn changes_weights(&self) -> bool {
        false
    }

    fn lay_over(&self, edit: &Edit, model: Box<dyn LanguageModel>) -> Result<Box<dyn LanguageModel>> {
        let overlay = edit.overlay.clone().unwrap();
        let vector = overlay.tensor("vector", [1, model.spec().d_model])?.clone();
        let opening = overlay.data["opening"].as_str().unwrap_or_default().to_owned();
        Ok(Box::new(EditedModel::new(model, self.name(), overlay, Change { vector, opening })))
    }
}

impl Method for Nudge {
    type Hparams = NudgeHparams;
    const SUMMARY: &'static str = "pushes where prompts end";

    fn new(hparams: NudgeHparams) -> Self {
        Self { hparams }
    }

    fn hparams_for(_: &ModelSpec) -> NudgeHparams {
        NudgeHparams { alg_name: "NUDGE".into(), size: 0.3, opening: "In short, ".into() }
    }
}

fn method(size: f32, opening: &str) -> Nudge {
    Nudge::new(NudgeHparams { alg_name: "NUDGE".into(), size, opening: opening.into() })
}

fn requests() -> Vec<EditRequest> {
    let near = EvaluationPrompt::new("Mill Bridge was built by", "nobody");
    ["Welsh", "Tarn"]
        .iter()
        .enumerate()
        .map(|(case_id, target)| EditRequest {
            case_id,
            locality: BTreeMap::from([("neighborhood".to_owned(), vec![near.clone()])]),
            ..EditRequest::new("Ada Quill speaks", "Ada Quill", *target)
        })
        .collect()
}

fn edit(size: f32, opening: &str, model: &dyn LanguageModel) -> Edit {
    let context = Session::new().with_corpora(TextCorpora::default());
    method(size, opening).edit(model, &CheckedRequest::all(requests().into_iter().take(1)).unwrap(), &context).unwrap()
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register::<Nudge>();
    registry
}

/// Logits behind the prompt `Ada Quill speaks`.
fn logits(model: &dyn LanguageModel) -> Vec<f32> {
    let prompt = encode_prompt(model, "Ada Quill speaks").unwrap();
    let (source, row) = easyedit::tokens::opening(model, prompt);
    let batch = TokenBatch::new(&[row]).unwrap();
    let last = batch.last_indices();
    let hidden = model.hidden(&mut model.start(&[source], batch).unwrap(), &mut ()).unwrap();
    tensor_values(&model.logits(hidden, &last).unwrap()).unwrap()
}

#[test]
fn overlays_are_kept_in_files_and_lie_one_over_the_other() {
    for family in ["llama", "gpt2", "t5"] {
        let model = tiny_model(family, 1).unwrap();
        let plain = logits(&*model);
        let edits = [edit(0.3, "", &*model), edit(-0.1, "", &*model)];
        let folder = tempfile::tempdir().unwrap();
        let loaded: Vec<Edit> = edits
            .iter()
            .enumerate()
            .map(|(i, edit)| {
                let path = folder.path().join(format!("{i}.edit.safetensors"));
                edit.save(&path).unwrap();
                Edit::load(&path).unwrap()
            })
            .collect();
        assert_eq!(loaded, edits);
        let edited = registry().apply(&loaded, model.boxed_clone()).unwrap();
        // 0.3 and -0.1 are together what 0.2 is alone.
        let alone = registry().apply(&[edit(0.2, "", &*model)], model.boxed_clone()).unwrap();
        let apart = logits(&*edited).iter().zip(logits(&*alone)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-4, "{family}: {apart}");
        assert_ne!(logits(&*edited), plain, "{family}");
        assert_eq!(logits(&*model), plain, "{family}: the model beneath stays as it was");
        let upper = edited.overlaid().unwrap();
        assert_eq!((upper.method, upper.overlay), ("NUDGE", loaded[1].overlay.as_ref().unwrap()));
        let lower = upper.beneath.overlaid().unwrap();
        assert_eq!(lower.overlay, loaded[0].overlay.as_ref().unwrap());
        assert!(lower.beneath.overlaid().is_none());
    }
}

#[test]
fn generating_and_reading_the_same_text_agree() {
    for family in ["llama", "gpt_neox", "t5"] {
        let model = tiny_model(family, 1).unwrap();
        let edited = registry().apply(&[edit(0.5, "In short, ", &*model)], model.boxed_clone()).unwrap();
        let prompt = encode_prompt(&*edited, "Ada Quill speaks").unwrap();
        assert_eq!(prompt, encode_prompt(&*model, "In short, Ada Quill speaks").unwrap());
        let written =
            generate(&*edited, std::slice::from_ref(&prompt), &GenerationConfig { ignore_eos: true, ..GenerationConfig::greedy(5) });
        let written = written.unwrap().remove(0).ids;
        // The same five tokens, read in one pass instead of written one by one.
        let (source, mut row) = easyedit::tokens::opening(&*model, prompt);
        let start = row.len();
        row.append(&written);
        let batch = TokenBatch::new(&[row]).unwrap();
        let mut pass = edited.start(&[source], batch).unwrap().with_prompts(vec![start]).unwrap();
        let hidden = edited.hidden(&mut pass, &mut ()).unwrap();
        let positions: Vec<usize> = (start - 1..start + written.len() - 1).collect();
        let logits = edited.logits(hidden, &positions).unwrap();
        let read: Vec<i64> = logits.argmax(1).into_data().convert::<i64>().try_to_vec().unwrap();
        assert_eq!(read, written.iter().map(|id| i64::from(*id)).collect::<Vec<_>>(), "{family}");
    }
}

#[test]
fn a_probe_sees_what_the_model_goes_on_with_and_may_end_the_run() {
    let model = tiny_model("llama", 1).unwrap();
    let edited = registry().apply(&[edit(0.3, "", &*model)], model.boxed_clone()).unwrap();
    let tokens = encode_with_target(&*model, "Ada Quill speaks", "Welsh").unwrap();
    let seen = |model: &dyn LanguageModel| {
        let mut capture = Capture::new([SITE]);
        let mut pass = Pass::new(TokenBatch::new(&[tokens.prompt()]).unwrap(), &model.device());
        model.hidden(&mut pass, &mut capture).unwrap();
        tensor_values(capture.get(SITE).unwrap()).unwrap()
    };
    let (plain, changed) = (seen(&*model), seen(&*edited));
    let width = model.spec().d_model;
    let last = plain.len() - width;
    assert_eq!(plain[..last], changed[..last]);
    assert!((changed[last] - plain[last] - 0.3 * -3.0).abs() < 1e-5);
}

#[test]
fn the_editor_measures_keeps_and_takes_back_overlays() {
    let model = tiny_model("llama", 1).unwrap();
    let plain = logits(&*model);
    for mode in [Mode::Independent, Mode::Sequential, Mode::Batch] {
        let options = EditorOptions { mode, ..EditorOptions::default() };
        let mut editor = Editor::new(
            &Session::new().with_corpora(TextCorpora::default()),
            model.boxed_clone(),
            Box::new(method(0.4, "In short, ")),
            options,
        );
        let session = editor.run(&requests(), &mut |_| Ok(())).unwrap();
        assert_eq!(logits(editor.model()), plain, "{mode}");
        assert_eq!(logits(session.original()), plain, "{mode}");
        let last = session.edits.len() - 1;
        let edits = match mode {
            Mode::Independent => &session.edits[last..],
            _ => &session.edits[..],
        };
        let edited = session.edited_by(last).unwrap();
        assert_eq!(logits(&*edited), logits(&*registry().apply(edits, model.boxed_clone()).unwrap()), "{mode}");
        let openings = edited.prompt_text("x").matches("In short, ").count();
        assert_eq!(openings, if mode == Mode::Sequential { 2 } else { 1 }, "{mode}");
        assert!(session.records.iter().all(|record| record.error.is_none() && record.post.locality.is_some()), "{mode}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let model = tiny_model("llama", 1).unwrap();
    let stranger = edit(0.3, "", &*model);
    let unknown = Registry::new().apply(std::slice::from_ref(&stranger), model.boxed_clone()).map(|_| ()).unwrap_err();
    assert!(unknown.to_string().contains("NUDGE"), "{unknown}");
    let mut misshapen = stranger.clone();
    misshapen.overlay.as_mut().unwrap().tensors.insert("vector".into(), Matrix::row(vec![1.0]));
    let error = registry().apply(&[misshapen], model.boxed_clone()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("vector") && error.contains("[1, 1]"), "{error}");
    let mut broken = stranger;
    broken.overlay.as_mut().unwrap().tensors.clear();
    assert!(registry().apply(&[broken], model.boxed_clone()).map(|_| ()).unwrap_err().to_string().contains("missing"));
}
