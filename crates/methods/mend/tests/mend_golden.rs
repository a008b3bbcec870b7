//! Training steps and an edit against PyTorch, on a tiny model.
//!
//! The fixtures lie in a folder `shared` beside the repository (`EASYEDIT_SHARED` names another one); without it the tests say that they
//! are skipped.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use easyedit_core::tokens::TargetTokens;
use easyedit_core::{
    CheckedRequest, EditMethod, EditRequest, HostTensor, LanguageModel, Method, Result, Session, Trained, device, tensor_values,
};
use easyedit_mend::{EditExample, Mend, MendHparams, MendLearner};
use easyedit_models::Checkpoint;
use easyedit_trainer::{Batch, LOG_FILE, MetaLearner, ParameterGroup, Split, StepReport, Trainer, TrainingConfig, read_log};
use safetensors::SafeTensors;
use serde_json::Value;

fn shared(path: &str) -> Option<PathBuf> {
    let root =
        std::env::var_os("EASYEDIT_SHARED").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared"), PathBuf::from);
    let path = root.join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

struct Golden {
    info: Value,
    tensors: BTreeMap<String, HostTensor>,
}

impl Golden {
    fn open(folder: &Path, name: &str) -> Self {
        let info = serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let floats = file.tensors().into_iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
        let tensors = floats.map(|(name, view)| {
            let values = view.data().chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
            (name, HostTensor::new(view.shape().to_vec(), values).unwrap())
        });
        Self { info, tensors: tensors.collect() }
    }

    /// The tensors whose names begin with `prefix`, without it.
    fn with_prefix(&self, prefix: &str) -> BTreeMap<String, HostTensor> {
        self.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))).collect()
    }

    fn example(&self, facts: &[usize]) -> EditExample {
        let rows = |kind: &str| facts.iter().map(|fact| self.row(*fact, kind)).collect();
        EditExample { inner: rows("inner"), outer: rows("outer"), loc: rows("loc"), near: 0 }
    }

    fn row(&self, fact: usize, kind: &str) -> TargetTokens {
        let row = &self.info["rows"][fact][kind];
        let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        TargetTokens { source: Default::default(), row: ids.into(), start: row["start"].as_u64().unwrap() as usize }
    }

    /// The state before the first step: what the fixture gives, first rates, and no tokens seen.
    fn initial(&self) -> BTreeMap<String, HostTensor> {
        let mut state = self.with_prefix("initial.");
        let rate = self.info["config"]["edit_lr"].as_f64().unwrap() as f32;
        state.insert("edit_lrs".into(), HostTensor::vector(vec![rate; self.info["inner_params"].as_array().unwrap().len()]));
        for (name, statistic) in self.with_prefix("norm.") {
            state.insert(format!("mend.{name}"), HostTensor::vector(vec![0.0; statistic.values().len()]));
        }
        state
    }

    fn hparams(&self) -> MendHparams {
        let config = &self.info["config"];
        let number = |key: &str| config[key].as_f64().unwrap();
        MendHparams {
            inner_params: serde_json::from_value(self.info["inner_params"].clone()).unwrap(),
            rank: number("rank") as usize,
            lr: number("lr"),
            lr_lr: number("lr_lr"),
            edit_lr: number("edit_lr"),
            cedit: number("cedit"),
            cloc: number("cloc"),
            ..MendHparams::default()
        }
    }
}

fn records() -> Vec<CheckedRequest> {
    vec![CheckedRequest::new(EditRequest::new("The capital of France is", "France", "Rome")).unwrap()]
}

fn model(folder: &Path) -> Box<dyn LanguageModel> {
    Checkpoint::open(folder).unwrap().load(&device::select("cpu").unwrap()).unwrap()
}

fn relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied()).max(1e-12)
}

/// The learner with the fixture's batches in place of drawn ones: two facts an iteration, in one edit.
struct WithBatches<'a> {
    learner: MendLearner,
    golden: &'a Golden,
}

impl MetaLearner for WithBatches<'_> {
    fn name(&self) -> &str {
        self.learner.name()
    }
    fn identity(&self) -> Result<Value> {
        self.learner.identity()
    }
    fn examples(&self, _: Split) -> usize {
        4
    }
    fn metric_keys(&self) -> Vec<String> {
        self.learner.metric_keys()
    }
    fn groups(&self) -> Vec<ParameterGroup> {
        self.learner.groups()
    }
    fn parameter(&self, name: &str) -> Result<Tensor<2>> {
        self.learner.parameter(name)
    }
    fn set_parameter(&mut self, name: &str, value: Tensor<2>) -> Result<()> {
        self.learner.set_parameter(name, value)
    }
    fn step(&mut self, batch: &Batch, training: bool) -> Result<StepReport> {
        let first = 2 * (batch.iteration as usize - 1);
        self.learner.step_on(&[self.golden.example(&[first % 4, (first + 1) % 4])], training)
    }
    fn state(&self) -> Result<BTreeMap<String, HostTensor>> {
        self.learner.state()
    }
    fn load_state(&mut self, state: &BTreeMap<String, HostTensor>) -> Result<()> {
        self.learner.load_state(state)
    }
}

#[test]
fn the_first_gradients_are_pytorchs() {
    let Some(folder) = shared("fixtures") else { return };
    let golden = Golden::open(&folder.join("edits"), "mend_train_llama");
    let model = model(&folder.join("llama"));
    let mut learner = MendLearner::new(&*model, golden.hparams(), &records(), &records()).unwrap();
    learner.load_state(&golden.initial()).unwrap();
    let report = learner.step_on(&[golden.example(&[0, 1])], true).unwrap();
    for (name, want) in golden.with_prefix("grad1.") {
        let got = tensor_values(&report.gradients[&name]).unwrap();
        // V has no gradient while U is 0.
        let is_zero = want.values().iter().all(|v| *v == 0.0);
        let error = if is_zero { got.iter().fold(0.0, |most: f64, v| most.max(f64::from(v.abs()))) } else { relative(&got, want.values()) };
        assert!(error < 1e-3, "{name}: {error}");
    }
    let u = golden.with_prefix("grad1.").keys().filter(|name| name.ends_with(".u")).count();
    assert_eq!(u, 4, "U is trained although it is 0");
}

#[test]
fn five_steps_and_an_edit_are_pytorchs() {
    let Some(folder) = shared("fixtures") else { return };
    let golden = Golden::open(&folder.join("edits"), "mend_train_llama");
    let model = model(&folder.join("llama"));
    let learner = MendLearner::new(&*model, golden.hparams(), &records(), &records()).unwrap();
    let mut learner = WithBatches { learner, golden: &golden };
    learner.load_state(&golden.initial()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let config = TrainingConfig {
        accumulate_bs: 1,
        max_iters: 5,
        log_interval: 1,
        val_interval: 5,
        val_steps: 1,
        final_eval: false,
        ..TrainingConfig::default()
    };
    Trainer::new(&mut learner, config, out.path()).unwrap().run(&Session::new(), false).unwrap();

    let log = read_log(&out.path().join(LOG_FILE)).unwrap();
    for (step, want) in golden.info["steps"].as_array().unwrap().iter().enumerate() {
        for (ours, theirs) in [
            ("loss/inner", "loss_inner"),
            ("loss/edit", "loss_edit"),
            ("loss/loc", "loss_loc"),
            ("loss/total", "loss_total"),
            ("grad", "grad_norm"),
        ] {
            let got = log[step].values[&format!("{ours}_train")].unwrap();
            let want = want[theirs].as_f64().unwrap();
            let bound = if ours == "grad" { 1e-3 * want } else { 1e-4 };
            assert!((got - want).abs() < bound, "step {step}, {ours}: {got} instead of {want}");
        }
    }
    let state = learner.state().unwrap();
    for (name, want) in golden.with_prefix("final.") {
        let error = relative(state[&name].values(), want.values());
        assert!(error < 1e-2, "{name}: {error}");
    }
    for (name, want) in golden.with_prefix("norm.") {
        let error = relative(state[&format!("mend.{name}")].values(), want.values());
        assert!(error < 1e-4, "{name}: {error}");
    }

    let trained = Trained { method: "MEND".into(), tensors: state, facts: learner.learner.facts().unwrap() };
    let mut method = Mend::new(MendHparams::default());
    method.load(&*model, &trained).unwrap();
    let edit = method.edit(&*model, &records(), &Session::new()).unwrap();
    for (name, want) in golden.with_prefix("edit0.change.") {
        let delta = &edit.deltas[&name.as_str().into()].delta;
        let got = tensor_values(&delta.to_tensor(&model.device())).unwrap();
        let error = relative(&got, want.values());
        assert!(error < 1e-2, "{name}: {error}");
    }
}
