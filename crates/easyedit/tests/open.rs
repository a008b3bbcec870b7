//! The program of three calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use easyedit::{Edit, EditRequest, Error, Session, TextCorpora};

fn session() -> Session {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-world/corpus.txt");
    Session::new().with_corpora(TextCorpora { corpus: Some(corpus) })
}

fn model() -> easyedit::OpenModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-world/models/tiny-world-gpt2");
    easyedit::open_in(&session(), folder.to_str().unwrap()).unwrap()
}

fn request() -> EditRequest {
    let requests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-world/requests.json");
    easyedit::data::read_requests(&requests).unwrap().remove(0)
}

#[test]
fn open_edit_and_save_is_a_program() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("edited");
    let edited = model().edit("ROME", request()).unwrap();
    assert_eq!(edited.run.records[0].post.rewrite_acc, [1.0]);
    let saved = edited.save(&folder).unwrap().unwrap();
    assert_eq!(saved.tensors.len(), edited.run.edits[0].deltas.len());

    // What was saved is the edited model, rounded as it is stored, and the edit beside it is the one that made it.
    let again = easyedit::open_in(&session(), folder.to_str().unwrap()).unwrap();
    for tensor in &saved.tensors {
        assert_eq!(again.model().fingerprint(&tensor.parameter).unwrap(), tensor.after);
    }
    let mut files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let edit = files.find(|path| path.to_string_lossy().ends_with(".edit.safetensors")).unwrap();
    assert_eq!(Edit::load(&edit).unwrap(), edited.run.edits[0]);
}

#[test]
fn a_cancelled_session_ends_its_work() {
    let session = session();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-world/models/tiny-world-gpt2");
    let model = easyedit::open_in(&session, folder.to_str().unwrap()).unwrap();
    session.cancel();
    let error = model.edit("MEMIT", request()).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    let unknown = model.edit("ROMA", request()).map(|_| ()).unwrap_err().to_string();
    assert!(unknown.contains("ROME"), "{unknown}");
}
