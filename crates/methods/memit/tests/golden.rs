//! Whole edits against the Python implementation, on tiny weights (shared fixtures; `EASYEDIT_SHARED` names another folder of them).
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../../rome/tests/fixtures/mod.rs"]
mod fixtures;

use std::path::Path;

use easyedit_core::{CheckedRequest, EditMethod, EditRequest, HparamsDocument, Method, Session, device, tensor_values};
use easyedit_kernels::Cholesky;
use easyedit_memit::Memit;
use easyedit_models::Checkpoint;
use fixtures::{NoCorpora, shared};
use safetensors::SafeTensors;
use serde_json::Value;

fn tensor(file: &Path, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(file).unwrap();
    let view = SafeTensors::deserialize(&bytes).unwrap();
    view.tensor(name).unwrap().data().chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

fn agrees(arch: &str) {
    let (Some(edits), Some(folder)) = (shared("fixtures/edits"), shared(&format!("fixtures/{arch}"))) else { return };
    let model = Checkpoint::open(&folder).unwrap().load(&device::select("cpu").unwrap()).unwrap();
    let file = edits.join(format!("memit_{arch}.safetensors"));
    let info: Value = serde_json::from_slice(&std::fs::read(file.with_extension("json")).unwrap()).unwrap();
    let requests: Vec<CheckedRequest> = info["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| EditRequest::new(r["prompt"].as_str().unwrap(), r["subject"].as_str().unwrap(), r["target_new"].as_str().unwrap()))
        .map(|request| CheckedRequest::new(request).unwrap())
        .collect();
    assert_eq!(requests.len(), 2);
    let groups: Vec<Vec<String>> = serde_json::from_value(info["context_templates"].clone()).unwrap();
    let document = HparamsDocument::parse(&serde_yaml::to_string(&info["hparams"]).unwrap(), "golden").unwrap();
    let mut method = Memit::new(document.read().unwrap()).with_templates(groups.concat()).unwrap();
    let layers: Vec<usize> = serde_json::from_value(info["hparams"]["layers"].clone()).unwrap();
    let size = model.spec().d_mlp;
    for layer in &layers {
        let module = model.spec().modules.mlp_out.replace("{}", &layer.to_string());
        let moment = tensor(&edits.join(format!("cov_{arch}.safetensors")), &format!("{module}.moment"));
        method = method.with_moments(*layer, Cholesky::new(size, |r, c| f64::from(moment[r * size + c]), "the golden moment").unwrap());
    }
    let context = Session::new().with_seed(0).with_corpora(NoCorpora);
    let edit = method.edit(&*model, &requests, &context).unwrap();
    assert_eq!(edit.deltas.len(), layers.len());
    for layer in layers {
        let delta = &edit.deltas[&model.spec().mlp_out_weight(layer)].delta;
        assert_eq!(delta.rank(), Some(2));
        let got = tensor_values(&delta.to_tensor(&model.device())).unwrap();
        let want = tensor(&file, &format!("delta_{layer}"));
        let scale = want.iter().fold(0f32, |max, v| max.max(v.abs()));
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / scale;
        println!("{arch}, layer {layer}: the weight change differs by {worst:.2e} of its largest value");
        assert!(got.len() == want.len() && worst < 2e-3, "{worst}");
    }
}

#[test]
fn tiny_gpt2() {
    agrees("gpt2");
}

#[test]
fn tiny_llama() {
    agrees("llama");
}
