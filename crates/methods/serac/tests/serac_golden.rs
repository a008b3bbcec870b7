//! One training step, the losses through the mixture, and predictions against PyTorch (`fixtures/README.md`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use easyedit_core::tokens::encode_with_target;
use easyedit_core::{CheckedRequest, EditRequest, EvaluationPrompt, LanguageModel, Predictor, Session, Silent, Tokenizer, tensor_values};
use easyedit_models::tiny::tiny_model;
use easyedit_models::{Checkpoint, ModelConfig, SafetensorsSource, load_text_encoder, read_json_object};
use easyedit_serac::{
    HardNegatives, Memory, Networks, RoutedPredictor, Routing, ScopeClassifier, ScopeRules, ScopedMemory, SeracHparams, SeracLearner, mix,
};
use easyedit_trainer::{Batch, MetaLearner, Split, StepReport, Trainer};
use safetensors::SafeTensors;
use serde_json::Value;

/// Largest accepted difference of losses, log-scores and log-probabilities.
const TOLERANCE: f64 = 1e-4;

struct Golden {
    info: Value,
    tensors: Vec<u8>,
}

impl Golden {
    fn open() -> Self {
        let read = |name: &str| std::fs::read(fixtures().join(name)).unwrap();
        Self { info: serde_json::from_slice(&read("serac_train.json")).unwrap(), tensors: read("serac_train.safetensors") }
    }

    fn tensor(&self, name: &str) -> Option<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.tensors).unwrap();
        let view = file.tensor(name).ok()?;
        Some(view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Records whose locality prompt is the fact's neighbour.
    fn records(&self) -> Vec<CheckedRequest> {
        let of = |fact: &Value, key: &str| fact[key].as_str().unwrap().to_owned();
        let facts = self.info["facts"].as_array().unwrap().iter().enumerate();
        let requests = facts.map(|(case_id, fact)| EditRequest {
            case_id,
            rephrase_prompts: vec![of(fact, "rephrase")],
            locality: [("near".to_owned(), vec![EvaluationPrompt::new(of(fact, "loc"), of(fact, "loc_answer"))])].into(),
            ..EditRequest::new(of(fact, "prompt"), "", of(fact, "target"))
        });
        CheckedRequest::all(requests).unwrap()
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn shared(name: &str) -> Option<Box<dyn LanguageModel>> {
    let root =
        std::env::var_os("EASYEDIT_SHARED").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared"), PathBuf::from);
    let folder = root.join("fixtures").join(name);
    if !folder.exists() {
        eprintln!("SKIPPED: {} is not there", folder.display());
        return None;
    }
    Some(Checkpoint::open(&folder).unwrap().load(&easyedit_core::device::select("cpu").unwrap()).unwrap())
}

/// The classifier of the golden values: its texts are `[1]`, the tokens of a prompt, `[2]`, and one of its norms is scaled.
fn classifier(golden: &Golden) -> ScopeClassifier {
    let mut json: Value = serde_json::from_slice(&std::fs::read(fixtures().join("tokenizer.json")).unwrap()).unwrap();
    let vocabulary = json["model"]["vocab"].as_object().unwrap().clone();
    let token = |id: u64| vocabulary.iter().find(|(_, known)| known.as_u64() == Some(id)).unwrap().0.clone();
    let (start, end) = (token(1), token(2));
    let special = |id: &str, number: u64| serde_json::json!({"id": id, "ids": [number], "tokens": [id]});
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": start, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}],
        "special_tokens": {start.clone(): special(&start, 1), end.clone(): special(&end, 2)},
    });
    let tokenizer = Tokenizer::new(tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap(), Vec::new());
    let folder = fixtures().join("distilbert");
    let config = ModelConfig::new(read_json_object(&folder.join("config.json")).unwrap(), folder.join("config.json")).unwrap();
    let source = SafetensorsSource::open(&folder).unwrap();
    let device = easyedit_core::device::select("cpu").unwrap();
    let encoder = load_text_encoder(&config, "distilbert", &source, tokenizer, &device).unwrap();
    let mut classifier = ScopeClassifier::new(Box::new(encoder), ScopeRules::of(&hparams()), 0).unwrap();
    let scaled = &golden.info["scaled_parameter"];
    let name = format!("classifier.{}", scaled["name"].as_str().unwrap());
    let weight = classifier.weight(&name).unwrap() * scaled["factor"].as_f64().unwrap();
    classifier.set_weight(&name, weight).unwrap();
    classifier
}

fn hparams() -> SeracHparams {
    SeracHparams {
        small_name: "given".into(),
        outer_rephrase: 1.0,
        own_loc: 1.0,
        hard_neg: HardNegatives::Off,
        hard_neg_prob: 0.0,
        batch_size: 4,
        accumulate_bs: 1,
        max_iters: Some(1),
        early_stop_key: "loss/total_edit_val".into(),
        final_eval: false,
        ..SeracHparams::default()
    }
}

fn learner(golden: &Golden, hparams: SeracHparams, counterfactual: Box<dyn LanguageModel>, base: &dyn LanguageModel) -> SeracLearner {
    let networks = Networks { classifier: classifier(golden), counterfactual };
    SeracLearner::with_networks(hparams, base, networks, &golden.records(), &golden.records()).unwrap()
}

fn step(learner: &mut SeracLearner) -> StepReport {
    learner.step(&Batch { split: Split::Train, examples: vec![0, 1, 2, 3], iteration: 1, seed: 0 }, true).unwrap()
}

#[track_caller]
fn close(what: &str, got: f64, want: &Value) {
    let want = want.as_f64().unwrap();
    println!("{what}: {got} and {want}");
    assert!((got - want).abs() < TOLERANCE * (1.0 + want.abs()), "{what}: {got} instead of {want}");
}

/// Compares all gradients of a part by their norms, and those that were kept number by number.
fn check_gradients(golden: &Golden, report: &StepReport, prefix: &str) {
    let norms = golden.info["train"]["grad_norms"].as_object().unwrap();
    let mut compared = 0;
    for (name, norm) in norms.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let gradient = tensor_values(report.gradients.get(name).unwrap_or_else(|| panic!("{name} has no gradient"))).unwrap();
        let own = gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        close(name, own, norm);
        if let Some(want) = golden.tensor(&format!("train.grad.{name}")) {
            let worst = gradient.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
            assert!(f64::from(worst) < TOLERANCE, "{name}: a gradient differs by {worst}");
            compared += 1;
        }
    }
    assert!(compared > 5 && norms.len() > 60, "{compared}");
    let of_part = report.gradients.keys().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(of_part, norms.keys().filter(|name| name.starts_with(prefix)).count());
}

#[test]
fn the_scope_loss_and_its_gradients_are_the_reference() {
    let golden = Golden::open();
    let classifier = classifier(&golden);
    let records = golden.records();
    for (what, ids) in [("memory_ids", "prompt"), ("outer_ids", "rephrase"), ("loc_ids", "loc")] {
        for (fact, want) in golden.info["facts"].as_array().unwrap().iter().zip(golden.info["train"][what].as_array().unwrap()) {
            let own = classifier.encoder().tokenizer().encode_whole(fact[ids].as_str().unwrap()).unwrap();
            assert_eq!(&serde_json::json!(own), want);
        }
    }
    let of = |query: fn(&CheckedRequest) -> &str| -> Vec<f32> {
        let pairs = records.iter().flat_map(|one| records.iter().map(move |memory| (query(one), memory.prompt())));
        tensor_values(&classifier.log_scores(&pairs.collect::<Vec<_>>()).unwrap()).unwrap()
    };
    let positive = of(|record| record.rephrase_prompts().next().unwrap());
    let negative = of(|record| &record.locality()["near"][0].prompt);
    for (got, name) in [(positive, "train.log_sims_positive"), (negative, "train.log_sims_negative")] {
        let want = golden.tensor(name).unwrap();
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(got.len() == 16 && f64::from(worst) < TOLERANCE, "{name}: {worst}");
    }
    let base = tiny_model("gpt2", 1).unwrap();
    let mut learner = learner(&golden, hparams(), tiny_model("llama", 1).unwrap(), &*base);
    let report = step(&mut learner);
    close("loss/loc", report.metrics["loss/loc"].value, &golden.info["train"]["loss_cls"]);
    close("recall", report.metrics["scope/recall"].value, &golden.info["train"]["cls_positive_accuracy"]);
    close("kept out", report.metrics["loc/acc"].value, &golden.info["train"]["cls_negative_accuracy"]);
    check_gradients(&golden, &report, "classifier.");
}

#[test]
fn mixtures_are_those_of_the_reference() {
    let golden = Golden::open();
    for (place, query) in golden.info["inference"].as_array().unwrap().iter().enumerate() {
        let of = |what: &str| golden.tensor(&format!("infer.{place}.{what}")).unwrap();
        let (base, counterfactual, want) = (of("base_logits"), of("counterfactual_logits"), of("mixture"));
        let rows = base.chunks(512).zip(counterfactual.chunks(512)).zip(want.chunks(512));
        for ((base, counterfactual), want) in rows {
            let mixed = mix(base, counterfactual, query["score"].as_f64().unwrap());
            let worst = mixed.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(f64::from(worst) < TOLERANCE, "query {place}: {worst}");
        }
    }
}

#[test]
fn a_supervised_step_is_that_of_the_reference() {
    let golden = Golden::open();
    let (Some(base), Some(small)) = (shared("gpt2"), shared("llama")) else { return };
    let mut learner = learner(&golden, hparams(), small, &*base);
    let report = step(&mut learner);
    let train = &golden.info["train"];
    close("loss/edit", report.metrics["loss/edit"].value, &train["loss_cntr"]);
    close("loss/total", report.metrics["loss/total"].value, &train["loss_total"]);
    check_gradients(&golden, &report, "replacement.");
    check_gradients(&golden, &report, "classifier.");

    let before = learner.state().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = hparams().training_config().unwrap();
    let outcome = Trainer::new(&mut learner, config, dir.path()).unwrap().run(&Session::new(), false).unwrap();
    assert_eq!((outcome.iterations, outcome.steps), (1, 1));
    let after = learner.state().unwrap();
    let mut compared = 0;
    for (name, after) in &after {
        let Some(want) = golden.tensor(&format!("train.change.{name}")) else { continue };
        let changes = after.values().iter().zip(before[name].values()).map(|(after, before)| after - before);
        let worst = changes.zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
        // A step has the size of the rate, 1e-5; numbers near 1 are rounded by 6e-8.
        assert!(worst < 3e-7, "{name}: a change differs by {worst}");
        compared += 1;
    }
    assert_eq!(compared, 28);
}

#[test]
fn losses_through_the_mixture_are_those_of_the_reference() {
    let golden = Golden::open();
    let (Some(base), Some(small)) = (shared("gpt2"), shared("llama")) else { return };
    let mut learner = learner(&golden, SeracHparams { supervised: false, ..hparams() }, small, &*base);
    let report = step(&mut learner);
    let want = &golden.info["mixture_losses"];
    close("loss/edit", report.metrics["loss/edit"].value, &want["loss_edit"]);
    close("loss/loc", report.metrics["loss/loc"].value, &want["loss_loc"]);
    close("loss/total", report.metrics["loss/total"].value, &want["loss_total"]);
    assert!(report.gradients.keys().any(|name| name.starts_with("classifier.")));
    assert!(report.gradients.keys().any(|name| name.starts_with("replacement.")));
}

#[test]
fn queries_are_routed_and_mixed_as_in_the_reference() {
    let golden = Golden::open();
    let (Some(base), Some(small)) = (shared("gpt2"), shared("llama")) else { return };
    let networks = Arc::new(Networks { classifier: classifier(&golden), counterfactual: small });
    let memory = Memory::of(&golden.records()[..3], &networks.classifier).unwrap();
    let scope = ScopedMemory::new(networks, memory, &*base).unwrap();
    let soft = RoutedPredictor::new(base.clone(), scope.clone(), Routing::Soft).unwrap();
    let hard = RoutedPredictor::new(base.clone(), scope, Routing::Hard { threshold: 0.5 }).unwrap();
    for (place, query) in golden.info["inference"].as_array().unwrap().iter().enumerate() {
        let (prompt, target) = (query["prompt"].as_str().unwrap(), query["target"].as_str().unwrap());
        let row = encode_with_target(&*base, prompt, target).unwrap();
        assert_eq!(serde_json::json!(row.row.ids()), query["base_row"]["ids"], "{prompt}");
        let (_, nearest) = soft.decide(&[row.prompt()]).unwrap().remove(0);
        let nearest = nearest.unwrap();
        assert_eq!(nearest.entry as u64, query["memory"].as_u64().unwrap(), "{prompt}");
        close("score", nearest.score, &query["score"]);
        let log_probs = |predictor: &dyn Predictor| predictor.score(&[&row], &Silent).unwrap().remove(0).log_probs;
        let picked = |what: &str| -> Vec<f64> {
            let rows = golden.tensor(&format!("infer.{place}.{what}")).unwrap();
            let of = |(row, id): (&[f32], &u32)| {
                let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
                f64::from(row[*id as usize]) - sum.ln()
            };
            rows.chunks(512).zip(row.target()).map(of).collect()
        };
        let routed = if query["hard"] == "base" { "base_logits" } else { "counterfactual_logits" };
        for (got, want) in [(log_probs(&soft), picked("mixture")), (log_probs(&hard), picked(routed))] {
            let worst = got.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(worst < TOLERANCE, "{prompt}: {worst}");
        }
    }
}
