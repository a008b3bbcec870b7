//! Whole edits against the Python implementations, on tiny weights and on a real model.
//!
//! The fixtures lie in a folder `shared` beside the repository (`EASYEDIT_SHARED` names another one); without it the tests say that they
//! are skipped.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod fixtures;

use std::path::Path;

use easyedit_core::{
    CheckedRequest, Edit, EditMethod, EditRequest, HparamsDocument, LanguageModel, Matrix, Method, Pass, Session, Silent, TokenBatch,
    WeightDelta, device, tensor_values,
};
use easyedit_kernels::{Cholesky, MomentConfig, SecondMoments};
use easyedit_models::Checkpoint;
use easyedit_rome::Rome;
use fixtures::{NoCorpora, shared};
use safetensors::SafeTensors;
use serde_json::Value;

struct Golden {
    info: Value,
    tensors: Vec<u8>,
}

impl Golden {
    fn open(folder: &Path, name: &str) -> Self {
        let info = serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        Self { info, tensors: std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap() }
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.tensors).unwrap();
        let view = file.tensor(name).unwrap();
        view.data().chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
    }

    fn request(&self) -> EditRequest {
        serde_json::from_value(self.info["request"].clone()).unwrap()
    }

    /// The reference's hyperparameters, with its asymmetric keys, and templates.
    fn method(&self) -> Rome {
        let yaml = serde_yaml::to_string(&self.info["hparams"]).unwrap();
        let mut document = HparamsDocument::parse(&yaml, "golden").unwrap();
        document.set("consistent_keys", false);
        let templates = serde_json::from_value(self.info["context_templates"].clone()).unwrap();
        Rome::new(document.read().unwrap()).with_templates(templates).unwrap()
    }

    fn layer(&self) -> usize {
        self.info["hparams"]["layers"][0].as_u64().unwrap() as usize
    }

    fn check_losses(&self, edit: &Edit, tolerance: f64) {
        let golden: Vec<[f64; 4]> = serde_json::from_value(self.info["losses_total_nll_kl_wd"].clone()).unwrap();
        let ours = edit.diagnostics[0]["losses"].as_array().unwrap();
        assert_eq!(ours.len(), golden.len(), "number of steps");
        for (step, (ours, golden)) in ours.iter().zip(&golden).enumerate() {
            for (part, want) in ["total", "nll", "kl", "weight_decay"].iter().zip(golden) {
                let got = ours[part].as_f64().unwrap();
                assert!((got - want).abs() < tolerance * (1.0 + want.abs()), "step {step}, {part}: {got} instead of {want}");
            }
        }
    }

    fn check_logits(&self, model: &dyn LanguageModel, when: &str, tolerance: f32) {
        let golden = self.tensor(&format!("{when}_logits"));
        let vocab = model.spec().vocab_size;
        for (row, prompt) in self.info["prompts"].as_array().unwrap().iter().enumerate() {
            let prompt = prompt.as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(self.info["prompt_ids"][prompt].clone()).unwrap();
            assert_eq!(model.tokenizer().encode(prompt).unwrap().ids, ids, "{prompt}");
            let last = ids.len() - 1;
            let mut pass = Pass::new(TokenBatch::new(&[ids]).unwrap(), &model.device());
            let hidden = model.hidden(&mut pass, &mut ()).unwrap();
            let logits = tensor_values(&model.logits(hidden, &[last]).unwrap()).unwrap();
            let worst = largest_difference(&logits, &golden[row * vocab..(row + 1) * vocab]);
            println!("{when} logits after {prompt:?}: largest difference {worst:.2e}");
            assert!(worst < tolerance, "{prompt}: {worst}");
        }
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn factors(edit: &Edit) -> (&Matrix, &Matrix) {
    let delta = edit.deltas.values().next().unwrap();
    match &delta.delta {
        WeightDelta::LowRank { left, right } => (left, right),
        other => panic!("ROME gave {other:?}"),
    }
}

fn run(method: &mut Rome, model: &dyn LanguageModel, request: EditRequest) -> Edit {
    let context = Session::new().with_seed(0).with_corpora(NoCorpora);
    method.edit(model, &[CheckedRequest::new(request).unwrap()], &context).unwrap()
}

fn tiny(arch: &str, name: &str, with_moments: bool) {
    let (Some(edits), Some(folder)) = (shared("fixtures/edits"), shared(&format!("fixtures/{arch}"))) else { return };
    let model = Checkpoint::open(&folder).unwrap().load(&device::select("cpu").unwrap()).unwrap();
    let golden = Golden::open(&edits, &format!("{name}_{arch}"));
    let mut method = golden.method();
    if with_moments {
        let module = model.spec().modules.mlp_out.replace("{}", &golden.layer().to_string());
        let moment = Golden::open(&edits, &format!("cov_{arch}")).tensor(&format!("{module}.moment"));
        let size = model.spec().d_mlp;
        let factor = Cholesky::new(size, |r, c| f64::from(moment[r * size + c]), "the golden moment").unwrap();
        method = method.with_moments(golden.layer(), factor);
    }
    let edit = run(&mut method, model.as_ref(), golden.request());
    golden.check_losses(&edit, 2e-4);
    let delta = edit.deltas.values().next().unwrap().delta.to_tensor(&model.device());
    let delta = tensor_values(&delta).unwrap();
    let want = golden.tensor("delta");
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = largest_difference(&delta, &want) / scale;
    println!("{name}_{arch}: largest difference of the weight change {worst:.2e} of its largest value");
    assert!(worst < 2e-3, "{worst}");
    golden.check_logits(model.as_ref(), "pre", 1e-4);
    let mut edited = model.boxed_clone();
    let applied = edit.apply(edited.as_mut()).unwrap();
    golden.check_logits(edited.as_ref(), "post", 1e-4);
    applied.revert(edited.as_mut()).unwrap();
    golden.check_logits(edited.as_ref(), "pre", 1e-4);
}

#[test]
fn tiny_gpt2_with_moments() {
    tiny("gpt2", "rome", true);
}

#[test]
fn tiny_gpt2_without_moments() {
    tiny("gpt2", "rome_nocov", false);
}

#[test]
fn tiny_llama_with_moments() {
    tiny("llama", "rome", true);
}

#[test]
fn tiny_llama_without_moments() {
    tiny("llama", "rome_nocov", false);
}

fn smollm2() -> Option<Box<dyn LanguageModel>> {
    let file = shared("models/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf")?;
    Some(Checkpoint::open(&file).unwrap().load(&device::select("cpu").unwrap()).unwrap())
}

fn real(name: &str, factor: Option<Cholesky>, model: &dyn LanguageModel, fixtures: &Path) {
    let golden = Golden::open(fixtures, name);
    let mut method = golden.method();
    if let Some(factor) = factor {
        method = method.with_moments(golden.layer(), factor);
    }
    golden.check_logits(model, "pre", 2e-3);
    let edit = run(&mut method, model, golden.request());
    golden.check_losses(&edit, 2e-3);
    let (left, right) = factors(&edit);
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let (u, v) = (cosine(right.values(), &golden.tensor("u")), cosine(left.values(), &golden.tensor("v")));
    let norm = left.norm() * right.norm() / golden.info["delta_norm"].as_f64().unwrap();
    println!("{name}: cosine of u {u:.6}, of v {v:.6}, norm of the change {norm:.5} of the reference's");
    assert!(u > 0.99999 && v > 0.99999 && (norm - 1.0).abs() < 1e-3);
    let mut edited = model.boxed_clone();
    let _applied = edit.apply(edited.as_mut()).unwrap();
    golden.check_logits(edited.as_ref(), "post", 1e-2);
}

#[test]
fn a_real_model_with_and_without_moments() {
    let (Some(model), Some(fixtures), Some(text)) = (smollm2(), shared("fixtures/smollm2"), shared("data/smollm2_cov_docs.txt")) else {
        return;
    };
    real("rome_nocov_smollm2", None, model.as_ref(), &fixtures);
    let documents: Vec<String> = std::fs::read_to_string(text).unwrap().split("\n\n").map(|d| d.trim().to_owned()).collect();
    let config = MomentConfig::default();
    let moments = SecondMoments::collect(model.as_ref(), &[3], &documents, &config, &Silent).unwrap().remove(&3).unwrap();
    let golden: Value = serde_json::from_slice(&std::fs::read(fixtures.join("cov_smollm2.json")).unwrap()).unwrap();
    let golden = &golden["layers"]["3"];
    assert_eq!(moments.tokens(), golden["count"].as_u64().unwrap());
    let trace: f64 = (0..moments.size()).map(|i| f64::from(moments.mean()[i * (moments.size() + 1)])).sum();
    assert!((trace / golden["trace"].as_f64().unwrap() - 1.0).abs() < 1e-4, "trace {trace}");
    real("rome_smollm2", Some(moments.factor(3).unwrap()), model.as_ref(), &fixtures);
}
