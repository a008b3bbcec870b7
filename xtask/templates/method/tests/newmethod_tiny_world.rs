//! NEWMETHOD on a model of the tiny world: the fact becomes true, and the edit is taken back bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit_core::tokens::encode_with_target;
use easyedit_core::{
    CheckedRequest, Corpora, EditMethod, EditRequest, Fingerprint, HparamsDocument, LanguageModel, Method, Result, Session, TokenBatch,
};
use easyedit_newmethod::NewMethod;

/// The settings for the models of the tiny world.
const HPARAMS: &str = include_str!("../hparams/tiny-world.yaml");

struct NoText;

impl Corpora for NoText {
    fn documents(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

fn session() -> Session {
    Session::new().with_seed(1).with_corpora(NoText)
}

fn method() -> NewMethod {
    NewMethod::new(HparamsDocument::parse(HPARAMS, "tiny-world.yaml").unwrap().read().unwrap())
}

/// Whether every token of the target is the likeliest where it stands.
fn says(model: &dyn LanguageModel, request: &EditRequest) -> bool {
    let tokens = encode_with_target(model, &request.prompt, &request.target_new).unwrap();
    let mut pass = model.start(&[&tokens.source], TokenBatch::new(&[tokens.input()]).unwrap()).unwrap();
    let hidden = model.hidden(&mut pass, &mut ()).unwrap();
    let positions: Vec<usize> = tokens.predicting().collect();
    let likeliest = model.logits(hidden, &positions).unwrap().argmax(1).into_data();
    likeliest.iter::<i64>().eq(tokens.target().iter().map(|id| i64::from(*id)))
}

#[test]
fn facts_become_true_and_are_taken_back() {
    let model = easyedit_tiny_world::model("gpt2").unwrap();
    for request in &easyedit_tiny_world::requests()[..5] {
        assert!(!says(&*model, request), "{} is followed by {} already", request.prompt, request.target_new);
        let edit = method().edit(&*model, &[CheckedRequest::new(request.clone()).unwrap()], &session()).unwrap();
        assert!(edit.deltas.values().all(|change| change.delta.rank() == Some(1)));
        let mut edited = model.boxed_clone();
        let applied = edit.apply(&mut *edited).unwrap();
        assert!(says(&*edited, request), "{} is not followed by {}", request.prompt, request.target_new);
        applied.revert(&mut *edited).unwrap();
        for (parameter, change) in &edit.deltas {
            assert_eq!(Fingerprint::of(&edited.weight(parameter).unwrap()).unwrap(), change.base);
        }
    }
}

#[test]
fn the_same_request_gives_the_same_edit_and_bad_ones_are_errors() {
    let model = easyedit_tiny_world::model("gpt2").unwrap();
    let requests = easyedit_tiny_world::requests();
    let edit = |requests: &[EditRequest]| method().edit(&*model, &CheckedRequest::all(requests.iter().cloned()).unwrap(), &session());
    assert_eq!(edit(&requests[..1]).unwrap(), edit(&requests[..1]).unwrap());
    assert!(edit(&requests[..2]).unwrap_err().to_string().contains("one fact at a time"));
    let nameless = EditRequest { subject: None, case_id: 7, ..requests[0].clone() };
    assert!(edit(&[nameless]).unwrap_err().to_string().contains("request 7"));
}
