//! An archive as EasyEdit saves it: read without running anything, and edited with. `archives/make_archive.py` made it.
#![cfg(feature = "mend")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit::mend::{Mend, MendHparams};
use easyedit::models::tiny::tiny_model;
use easyedit::{CheckedRequest, EditMethod, EditRequest, HostTensor, Method, Session, TextCorpora, open_trained};

const ARCHIVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/archives/mend_reference.pt");

/// The rule by which the archive was filled.
fn filled(count: usize, place: usize, base: f64, scale: f64) -> Vec<f32> {
    (0..count).map(|i| (base + scale * (((7 * i + 13 * place) % 19) as f64 / 9.5 - 1.0)) as f32).collect()
}

#[test]
fn tensors_are_read_and_objects_are_passed_over() {
    let trained = open_trained(ARCHIVE, "MEND").unwrap();
    assert!(trained.facts.is_null() && trained.method == "MEND");
    assert_eq!(trained.tensors["edit_lrs"], HostTensor::vector(filled(4, 0, 2e-3, 1e-3)));
    assert_eq!(trained.tensors["mend.(32, 64).u_mean"], HostTensor::vector(filled(32, 1, 0.0, 0.05)));
    assert_eq!(trained.tensors["mend.(32, 64).k"].values(), [10.0]);
    assert_eq!(trained.tensors["mend.(64, 32).mlp.layers.0.u"].shape(), [96, 2]);
    // Of the two parts: rates, ten tensors of two layers, seven statistics each.
    assert_eq!(trained.tensors.len(), 1 + 2 * 17, "nothing of the optimiser: {:?}", trained.tensors.keys());
}

#[test]
fn it_edits_and_its_sign_is_up() {
    let model = tiny_model("gpt2", 3).unwrap();
    let names = [1, 2].iter().flat_map(|layer| ["c_fc", "c_proj"].map(|module| format!("transformer.h.{layer}.mlp.{module}.weight")));
    let hparams = MendHparams { inner_params: names.collect(), archive: Some(ARCHIVE.to_owned()), rank: 2, ..MendHparams::default() };
    let request = CheckedRequest::new(EditRequest::new("The capital of France is", "France", "Rome")).unwrap();
    let session = Session::new().with_corpora(TextCorpora::default());
    let mut method = Mend::new(hparams.clone());
    method.prepare(&*model, &session).unwrap();
    let edit = method.edit(&*model, std::slice::from_ref(&request), &session).unwrap();
    assert_eq!(edit.deltas.len(), 4);

    let mut turned = open_trained(ARCHIVE, "MEND").unwrap();
    let rates = turned.tensors["edit_lrs"].values().iter().map(|rate| -rate).collect();
    turned.tensors.insert("edit_lrs".into(), HostTensor::vector(rates));
    let mut down = Mend::new(MendHparams { descent: Some(true), ..hparams });
    down.load(&*model, &turned).unwrap();
    assert_eq!(down.edit(&*model, &[request], &session).unwrap().deltas, edit.deltas);
}
