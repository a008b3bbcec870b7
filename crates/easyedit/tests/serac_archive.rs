//! An archive as EasyEdit saves it: read without running anything, and edited with. `archives/make_serac_archive.py` made it.
#![cfg(feature = "serac")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit::models::Checkpoint;
use easyedit::serac::{Serac, SeracHparams};
use easyedit::{CheckedRequest, EditMethod, EditRequest, Method, Predictor, Session, Silent, TextCorpora, open_trained, tensor_values};

const ARCHIVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/archives/serac_reference.pt");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/golden");

fn hparams() -> SeracHparams {
    SeracHparams {
        archive: Some(ARCHIVE.to_owned()),
        cls_name: format!("{GOLDEN}/distilbert"),
        small_name: format!("{GOLDEN}/llama"),
        ..SeracHparams::default()
    }
}

#[test]
fn tensors_have_the_references_names_and_objects_are_passed_over() {
    let trained = open_trained(ARCHIVE, "SERAC").unwrap();
    assert!(trained.facts.is_null() && !trained.tensors.contains_key("model_config"));
    let bias = trained.tensors["classifier.embeddings.LayerNorm.bias"].values();
    let rule = |i: usize| (0.05 * (((7 * i) % 19) as f64 / 9.5 - 1.0)) as f32;
    assert!(bias.iter().enumerate().all(|(i, value)| *value == rule(i)), "{bias:?}");
    assert_eq!(trained.tensors["scale"].values(), [1.0]);
    assert_eq!(trained.tensors.keys().filter(|name| name.starts_with("replacement.")).count(), 21);
}

#[test]
fn it_edits_with_the_archives_networks() {
    let session = Session::new().with_corpora(TextCorpora::default());
    let device = session.device().unwrap();
    let base = Checkpoint::open(format!("{GOLDEN}/gpt2").as_ref()).unwrap().load(&device).unwrap();
    let request = CheckedRequest::new(EditRequest::new("w3 w4 w5", "", "w6")).unwrap();
    let mut method = Serac::new(hparams());
    let edit = method.edit(&*base, std::slice::from_ref(&request), &session).unwrap();
    let edited = method.lay_over(&edit, base.clone()).unwrap();
    // The answer is the counterfactual model's with the weights of the archive.
    let trained = open_trained(ARCHIVE, "SERAC").unwrap();
    let mut small = Checkpoint::open(format!("{GOLDEN}/llama").as_ref()).unwrap().load(&device).unwrap();
    for name in small.parameter_names() {
        let value = &trained.tensors[&format!("replacement.{name}")];
        assert_ne!(tensor_values(&small.weight(&name).unwrap()).unwrap(), value.values());
        small.set_weight(&name, value.to_matrix(name.as_str(), &device).unwrap()).unwrap();
    }
    let score = |predictor: &dyn Predictor, prompt: &str| {
        let row = easyedit::tokens::encode_with_target(predictor, prompt, "w6").unwrap();
        predictor.score(&[&row], &Silent).unwrap()
    };
    assert_eq!(score(&*edited, "w3 w4 w5"), score(&*small, "w3 w4 w5 w6 w3 w4 w5"));
}

#[test]
fn another_network_is_refused_by_the_tensors_name() {
    let session = Session::new().with_corpora(TextCorpora::default());
    let device = session.device().unwrap();
    let message = |hparams: SeracHparams| Serac::new(hparams).load_learned(&device, &session).unwrap_err().to_string();
    let other = message(SeracHparams { small_name: format!("{GOLDEN}/gpt2"), ..hparams() });
    assert!(other.contains("replacement.transformer.") && other.contains("small_name"), "{other}");
    let other = message(SeracHparams { cls_name: format!("{GOLDEN}/bert"), ..hparams() });
    assert!(other.contains("classifier.") && other.contains("cls_name"), "{other}");
    let missing = message(SeracHparams { archive: Some("nowhere".into()), ..hparams() });
    assert!(missing.contains("nowhere") && missing.contains("easyedit train"), "{missing}");
}

#[test]
fn every_file_of_the_repository_is_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hparams");
    for (place, count) in [("SERAC", 10), ("TRAINING/SERAC", 9)] {
        let files: Vec<_> = std::fs::read_dir(folder.join(place)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), count, "{place}: {files:?}");
        for file in files {
            let hparams: SeracHparams = easyedit::HparamsDocument::load(&file).unwrap().read().unwrap();
            hparams.training_config().unwrap();
            // EasyEdit's files train and answer through the mixture; ours route.
            assert_eq!(hparams.is_soft(), hparams.model_class.is_string(), "{}", file.display());
        }
    }
}
