//! What must hold for MEND on any model, checked on small random ones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use easyedit_core::tokens::encode_with_target;
use easyedit_core::{
    CheckedRequest, EditMethod, EditRequest, EvaluationPrompt, HostTensor, LanguageModel, Method, ParamName, Result, Session, Trained,
    tensor_values,
};
use easyedit_kernels::{TargetLoss, TrainingRow};
use easyedit_mend::{EditExample, Init, Mend, MendHparams, MendLearner};
use easyedit_models::tiny::tiny_model;
use easyedit_trainer::{Batch, LAST_FILE, LOG_FILE, MODEL_FILE, MetaLearner, ParameterGroup, Split, StepReport, Trainer, TrainingConfig};
use serde_json::Value;

fn records() -> Vec<CheckedRequest> {
    let facts = [("France", "Paris", "Rome"), ("Peru", "Lima", "Oslo"), ("Japan", "Tokyo", "Lima"), ("Chad", "N'Djamena", "Rome")];
    let record = |(country, truth, target): &(&str, &str, &str)| EditRequest {
        ground_truth: Some((*truth).into()),
        rephrase_prompts: vec![format!("{country} is governed from")],
        locality: [("other".into(), vec![EvaluationPrompt::new("Two and two are", "four")])].into(),
        ..EditRequest::new(format!("The capital of {country} is"), *country, *target)
    };
    CheckedRequest::all(facts.iter().map(record)).unwrap()
}

fn hparams(model: &dyn LanguageModel) -> MendHparams {
    MendHparams { rank: 6, edit_lr: 3e-3, n_loc: 1, ..MendHparams::for_spec(model.spec()) }
}

fn example(model: &dyn LanguageModel, record: &CheckedRequest, loc: &str) -> EditExample {
    let row = |prompt: &str, target: &str| {
        let tokens = encode_with_target(model, prompt, target).unwrap();
        // The method ends the answers of an encoder-decoder.
        if model.spec().encoder.is_some() { tokens.ending_in(model.tokenizer().eos()[0]) } else { tokens }
    };
    EditExample {
        inner: vec![row(record.prompt(), record.target_new())],
        outer: vec![row(&record.written().rephrase_prompts[0], record.target_new())],
        loc: vec![row(loc, "four")],
        near: 0,
    }
}

/// A learner whose parameters are all other than at the start, and whose statistics have seen edits.
fn stirred(model: &dyn LanguageModel, hparams: MendHparams) -> MendLearner {
    let mut learner = MendLearner::new(model, hparams, &records(), &records()).unwrap();
    learner.step_on(&examples(model), true).unwrap();
    for (place, name) in names(&learner).into_iter().enumerate() {
        let value = learner.parameter(&name).unwrap();
        let [rows, cols] = value.dims();
        let noise: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 + place * 104_729) % 1000) as f32 / 1000.0 - 0.5).collect();
        let scale = if name == "edit_lrs" { 1e-3 } else { 0.1 };
        let noise = Tensor::<1>::from_floats(&noise[..], &value.device()).reshape([rows, cols]);
        learner.set_parameter(&name, value + noise * scale).unwrap();
    }
    learner
}

fn names(learner: &MendLearner) -> Vec<String> {
    learner.groups().into_iter().flat_map(|group| group.parameters).collect()
}

fn examples(model: &dyn LanguageModel) -> Vec<EditExample> {
    let locs = ["Two and two are", "Three plus one makes, if I am not mistaken,", "2 + 2 ="];
    records().iter().zip(locs).map(|(record, loc)| example(model, record, loc)).collect()
}

fn metric(report: &StepReport, key: &str) -> f64 {
    report.metrics[key].value
}

fn trained(learner: &MendLearner) -> Trained {
    Trained { method: "MEND".into(), tensors: learner.state().unwrap(), facts: learner.facts().unwrap() }
}

/// Mean loss of the targets of rows.
fn nll(model: &dyn LanguageModel, rows: &[easyedit_core::tokens::TargetTokens]) -> f64 {
    let rows: Vec<TrainingRow> = rows.iter().map(TrainingRow::teacher_forced).collect();
    TargetLoss::new(model, &rows, &[]).unwrap().forward(model).unwrap().loss
}

#[test]
fn the_low_rank_pass_is_the_pass_of_the_edited_model() {
    for family in ["gpt2", "llama", "chatglm", "gptj", "t5"] {
        let model = tiny_model(family, 5).unwrap();
        let mut learner = stirred(&*model, hparams(&*model));
        let mut method = Mend::new(MendHparams::default());
        method.load(&*model, &trained(&learner)).unwrap();
        for (record, example) in records().iter().zip(examples(&*model)) {
            let report = learner.step_on(std::slice::from_ref(&example), false).unwrap();
            let edit = method.edit(&*model, std::slice::from_ref(record), &Session::new()).unwrap();
            let mut edited = model.boxed_clone();
            let _applied = edit.apply(edited.as_mut()).unwrap();
            let (before, want) = (nll(&*model, &example.outer), nll(&*edited, &example.outer));
            let got = metric(&report, "loss/edit");
            assert!((got - want).abs() < 1e-5 * (1.0 + want), "{family}: {got} instead of {want}");
            assert!((before - want).abs() > 1e-3, "{family}: the edit changes the outer row: {before} {want}");
        }
    }
}

#[test]
fn a_batch_of_edits_is_the_edits_one_by_one() {
    for family in ["gpt2", "llama", "t5"] {
        let model = tiny_model(family, 6).unwrap();
        let mut learner = stirred(&*model, hparams(&*model));
        let examples = examples(&*model);
        let together = learner.step_on(&examples, false).unwrap();
        for key in ["loss/inner", "loss/edit", "loss/loc"] {
            let alone: f64 = examples.iter().map(|one| metric(&learner.step_on(std::slice::from_ref(one), false).unwrap(), key)).sum();
            let (got, want) = (metric(&together, key), alone / examples.len() as f64);
            assert!((got - want).abs() < 1e-6 * (1.0 + want), "{family} {key}: {got} instead of {want}");
        }
    }
}

#[test]
fn an_untrained_network_without_normalisation_gives_the_gradient() {
    for family in ["gpt2", "llama", "t5"] {
        let model = tiny_model(family, 7).unwrap();
        let hparams = MendHparams { norm: false, edit_lr: 1.0, ..hparams(&*model) };
        let names: Vec<ParamName> = hparams.inner_params.iter().map(|name| name.as_str().into()).collect();
        let learner = MendLearner::new(&*model, hparams, &records(), &records()).unwrap();
        let mut method = Mend::new(MendHparams::default());
        method.load(&*model, &trained(&learner)).unwrap();
        let record = &records()[0];
        let edit = method.edit(&*model, std::slice::from_ref(record), &Session::new()).unwrap();

        let rows = [TrainingRow::teacher_forced(&example(&*model, record, "a b").inner[0])];
        let mut tracked_model = model.boxed_clone();
        let tracked: Vec<Tensor<2>> = names.iter().map(|name| Tensor::from_inner(model.weight(name).unwrap()).require_grad()).collect();
        for (name, weight) in names.iter().zip(&tracked) {
            tracked_model.set_weight(name, weight.clone()).unwrap();
        }
        let gradients = TargetLoss::new(&*model, &rows, &names).unwrap().forward(&*tracked_model).unwrap().backward().unwrap();
        for (name, weight) in names.iter().zip(&tracked) {
            let want = tensor_values(&weight.grad(&gradients).unwrap()).unwrap();
            let got = tensor_values(&edit.deltas[name].delta.to_tensor(&model.device())).unwrap();
            let largest = want.iter().fold(0f32, |most, v| most.max(v.abs()));
            let error = got.iter().zip(&want).fold(0f32, |most, (got, want)| most.max((got + want).abs()));
            assert!(largest > 0.0 && error < 1e-4 * largest, "{family} {name}: {error} of {largest}");
        }
    }
}

#[test]
fn gradients_are_those_of_the_loss() {
    let forms: [fn(MendHparams) -> MendHparams; 5] = [
        |hparams| hparams,
        |hparams| MendHparams { shared: false, ..hparams },
        |hparams| MendHparams { combine: false, ..hparams },
        |hparams| MendHparams { combine: false, one_sided: true, ..hparams },
        |hparams| MendHparams { combine: false, x_only: true, init: Init::Xavier, ..hparams },
    ];
    let model = tiny_model("llama", 8).unwrap();
    let examples = examples(&*model);
    for (number, form) in forms.iter().enumerate() {
        let mut learner = stirred(&*model, form(MendHparams { cedit: 1.0, ..hparams(&*model) }));
        let state = learner.state().unwrap();
        let report = learner.step_on(&examples, true).unwrap();
        for name in names(&learner) {
            // Along the gradient of one parameter the loss has to rise by its squared norm.
            learner.load_state(&state).unwrap();
            let value = learner.parameter(&name).unwrap();
            let gradient = report.gradients[&name].clone();
            let squared: f64 = tensor_values(&gradient).unwrap().iter().map(|v| f64::from(*v).powi(2)).sum();
            let size = if name == "edit_lrs" { 1e-4 } else { 2e-3 } / squared.sqrt();
            let mut loss = |sign: f64| {
                learner.load_state(&state).unwrap();
                learner.set_parameter(&name, value.clone() + gradient.clone() * (sign * size)).unwrap();
                metric(&learner.step_on(&examples, true).unwrap(), "loss/total")
            };
            let slope = (loss(1.0) - loss(-1.0)) / (2.0 * size);
            assert!(squared > 0.0 && (slope / squared - 1.0).abs() < 0.05, "form {number}, {name}: {slope} instead of {squared}");
        }
    }
}

#[test]
fn what_does_not_fit_is_said_before_anything_is_computed() {
    let (model, other) = (tiny_model("llama", 9).unwrap(), tiny_model("llama", 10).unwrap());
    let learner = stirred(&*model, hparams(&*model));
    let load = |model: &dyn LanguageModel, hparams: MendHparams, trained: &Trained| {
        Mend::new(hparams).load(model, trained).unwrap_err().to_string()
    };
    let message = load(&*other, MendHparams::default(), &trained(&learner));
    assert!(message.contains("other weights") && message.contains("easyedit train"), "{message}");
    let message = load(&*model, MendHparams { inner_params: vec!["x".into()], ..MendHparams::default() }, &trained(&learner));
    assert!(message.contains("inner_params are not those of the archive"), "{message}");
    let foreign = Trained { facts: Value::Null, ..trained(&learner) };
    let message = load(&*model, MendHparams { rank: 7, ..hparams(&*model) }, &foreign);
    assert!(message.contains("rank"), "{message}");
    let mut without = Mend::new(MendHparams::default());
    let message = without.prepare(&*model, &Session::new()).unwrap_err().to_string();
    assert!(message.contains("archive is missing") && message.contains("easyedit train"), "{message}");
    let wrong = |names: &[&str]| {
        let hparams = MendHparams { inner_params: names.iter().map(|name| (*name).to_owned()).collect(), ..hparams(&*model) };
        MendLearner::new(&*model, hparams, &records(), &records()).err().unwrap().to_string()
    };
    assert!(wrong(&["model.layers.1.mlp.down_proj.weigh"]).contains("did you mean model.layers.1.mlp.down_proj.weight"));
    assert!(wrong(&["model.norm.weight"]).contains("is not the weight of a linear map"));
    assert!(wrong(&["model.layers.1.mlp.down_proj.weight"; 2]).contains("listed twice"));
}

#[test]
fn the_reference_goes_up_with_the_sign_of_its_rates() {
    let model = tiny_model("gpt2", 11).unwrap();
    let learner = stirred(&*model, hparams(&*model));
    let (ours, mut theirs) = (trained(&learner), trained(&learner));
    let rates = theirs.tensors["edit_lrs"].values().iter().map(|rate| -rate).collect();
    theirs.tensors.insert("edit_lrs".into(), HostTensor::vector(rates));
    // Files of other programs say nothing of themselves; old ones have another prefix.
    theirs.facts = Value::Null;
    let renamed = theirs.tensors.iter().map(|(name, tensor)| (name.replace("mend.", "gtn."), tensor.clone()));
    let old = Trained { tensors: renamed.collect(), ..theirs.clone() };
    let edit = |trained: &Trained| {
        let mut method = Mend::new(hparams(&*model));
        method.load(&*model, trained).unwrap();
        method.edit(&*model, &records()[..1], &Session::new()).unwrap().deltas
    };
    assert_eq!(edit(&ours), edit(&theirs));
    assert_eq!(edit(&ours), edit(&old));
}

/// A learner that dies in an iteration, as a killed process would.
struct Dying(MendLearner, Option<u64>);

impl MetaLearner for Dying {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn identity(&self) -> Result<Value> {
        self.0.identity()
    }
    fn examples(&self, split: Split) -> usize {
        self.0.examples(split)
    }
    fn metric_keys(&self) -> Vec<String> {
        self.0.metric_keys()
    }
    fn groups(&self) -> Vec<ParameterGroup> {
        self.0.groups()
    }
    fn parameter(&self, name: &str) -> Result<Tensor<2>> {
        self.0.parameter(name)
    }
    fn set_parameter(&mut self, name: &str, value: Tensor<2>) -> Result<()> {
        self.0.set_parameter(name, value)
    }
    fn step(&mut self, batch: &Batch, training: bool) -> Result<StepReport> {
        match self.1 {
            Some(iteration) if training && iteration == batch.iteration => Err(easyedit_core::Error::Batch("killed".into())),
            _ => self.0.step(batch, training),
        }
    }
    fn state(&self) -> Result<BTreeMap<String, HostTensor>> {
        self.0.state()
    }
    fn load_state(&mut self, state: &BTreeMap<String, HostTensor>) -> Result<()> {
        self.0.load_state(state)
    }
    fn facts(&self) -> Result<Value> {
        self.0.facts()
    }
}

#[test]
fn a_killed_training_goes_on_to_the_same_bytes() {
    let model = tiny_model("llama", 12).unwrap();
    let hparams = MendHparams { lr: 1e-3, batch_size: 2, ..hparams(&*model) };
    let config = TrainingConfig {
        seed: 4,
        batch_size: 2,
        accumulate_bs: 3,
        max_iters: 20,
        log_interval: 3,
        val_interval: 5,
        val_steps: 2,
        save_interval: 4,
        ..TrainingConfig::default()
    };
    let run = |folder: &std::path::Path, dies_in: Option<u64>, resume: bool| {
        let learner = MendLearner::new(&*model, hparams.clone(), &records(), &records()).unwrap();
        Trainer::new(&mut Dying(learner, dies_in), config.clone(), folder).unwrap().run(&Session::new(), resume)
    };
    let files = |folder: &std::path::Path| [LAST_FILE, MODEL_FILE, LOG_FILE].map(|file| std::fs::read(folder.join(file)).unwrap());
    let whole = tempfile::tempdir().unwrap();
    let outcome = run(whole.path(), None, false).unwrap();
    assert!(outcome.results["loss/total_val"].is_finite() && outcome.steps == 7);
    // Every place in an accumulation, before and behind a validation and a checkpoint.
    for dies_in in 1..=20 {
        let dir = tempfile::tempdir().unwrap();
        assert!(run(dir.path(), Some(dies_in), false).is_err());
        run(dir.path(), None, true).unwrap();
        assert!(files(dir.path()) == files(whole.path()), "killed in iteration {dies_in}");
    }
}
