//! The models of the tiny world: what they know, and how methods edit it.
#![cfg(feature = "rome")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit::{EditRequest, EditRun, Editor, EditorOptions, Mode, Session, TextCorpora, hparams};
use easyedit_tiny_world as tiny_world;

/// Facts that are edited on each model.
const EDITS: usize = 20;

fn edit(method: &str, model: &str, requests: &[EditRequest], mode: Mode) -> easyedit::Result<EditRun> {
    let model = tiny_world::model(model).unwrap();
    let registry = easyedit::registry();
    let entry = registry.get(method).unwrap();
    let found = hparams::find(entry, &model.spec().name, model.spec())?;
    if model.spec().encoder.is_none() {
        let own = matches!(&found.source, hparams::HparamsSource::BuiltIn(name) if name.contains("tiny-world"));
        assert!(own, "{}", found.source);
    }
    let corpora = TextCorpora { corpus: Some(tiny_world::folder().join("corpus.txt")) };
    let mut editor = Editor::new(
        &Session::new().with_corpora(corpora),
        model,
        entry.build(&found.document)?,
        EditorOptions { mode, ..EditorOptions::default() },
    );
    editor.run(requests, &mut |_| Ok(()))
}

#[test]
fn the_datasets_are_read_as_the_requests_they_were_made_from() {
    let read = |file: &str| easyedit::data::read_requests(&tiny_world::folder().join(file)).unwrap();
    let requests = tiny_world::requests();
    assert_eq!(read("requests.json"), requests);
    for file in ["zsre.json", "counterfact.json"] {
        for (read, request) in read(file).iter().zip(&requests) {
            assert_eq!((&read.prompt, &read.subject, &read.target_new), (&request.prompt, &request.subject, &request.target_new), "{file}");
            assert_eq!((&read.ground_truth, &read.rephrase_prompts), (&request.ground_truth, &request.rephrase_prompts), "{file}");
            assert_eq!(read.locality["neighborhood"][0], request.locality["neighborhood"][0], "{file}");
        }
    }
    let kinds = |read: &EditRequest| read.portability.len();
    let zsre = read("zsre.json");
    assert_eq!(zsre.iter().map(kinds).sum::<usize>(), requests.iter().map(kinds).sum::<usize>());
}

#[test]
fn every_model_knows_its_world() {
    for name in tiny_world::model_names() {
        let model = tiny_world::model(name).unwrap();
        let accuracy = tiny_world::accuracy(&*model, tiny_world::facts()).unwrap();
        println!("{name}: facts {:.3}, held-out paraphrases {:.3}", accuracy.facts, accuracy.held_out);
        assert!(accuracy.facts >= 0.98 && accuracy.held_out >= 0.95, "{name}: {accuracy:?}");
    }
}

#[test]
fn rome_edits_every_decoder() {
    let requests = &tiny_world::requests()[..EDITS];
    for name in tiny_world::model_names() {
        let session = match edit("ROME", name, requests, Mode::Independent) {
            Ok(session) => session,
            Err(error) => {
                assert!(tiny_world::is_encoder_decoder(name), "{name}: {error}");
                assert!(error.to_string().contains("encoder-decoder"), "{error}");
                continue;
            }
        };
        assert!(!tiny_world::is_encoder_decoder(name), "{name}: ROME edits decoders only");
        assert_eq!(session.summary.failed, 0, "{name}");
        let scores = &session.summary.mean_metrics.post;
        let locality = scores.locality["neighborhood_acc"];
        let (reliability, generalization) = (scores.rewrite_acc.unwrap(), scores.rephrase_acc.unwrap());
        println!("{name}: reliability {reliability:.3}, generalization {generalization:.3}, locality {locality:.3}");
        assert!(reliability >= 0.95 && generalization >= 0.8 && locality >= 0.9, "{name}: {scores:?}");
    }
}

/// All facts in one batch, for which models as small as these have little room.
#[cfg(feature = "memit")]
#[test]
fn memit_edits_facts_in_a_batch() {
    let requests = &tiny_world::requests()[..EDITS];
    for name in ["gpt2", "chatglm2"] {
        let session = edit("MEMIT", name, requests, Mode::Batch).unwrap();
        assert_eq!((session.summary.failed, session.edits.len()), (0, 1), "{name}");
        let scores = &session.summary.mean_metrics.post;
        let got = [scores.rewrite_acc.unwrap(), scores.rephrase_acc.unwrap(), scores.locality["neighborhood_acc"]];
        println!("MEMIT {name}, in a batch: reliability, generalization, locality {got:.3?}");
        assert!(got.iter().zip([0.85, 0.65, 0.65]).all(|(got, least)| *got >= least), "{name}: {got:?}");
    }
}

/// Each fact on the original model.
#[cfg(all(feature = "memit", feature = "emmet", feature = "pmet", feature = "alphaedit"))]
mod mass_editors {
    use super::*;

    /// Enough that a fact that none of them can edit (one of the first twenty is) does not decide.
    const EDITS: usize = 60;

    /// `least`: of reliability, generalization and locality.
    fn edit_every_decoder(method: &str, least: [f64; 3]) {
        let requests = &tiny_world::requests()[..EDITS];
        for name in tiny_world::model_names().filter(|name| !tiny_world::is_encoder_decoder(name)) {
            let session = edit(method, name, requests, Mode::Independent).unwrap();
            assert_eq!(session.summary.failed, 0, "{method} {name}");
            let scores = &session.summary.mean_metrics.post;
            let got = [scores.rewrite_acc.unwrap(), scores.rephrase_acc.unwrap(), scores.locality["neighborhood_acc"]];
            println!("{method} {name}: reliability, generalization, locality {got:.3?}, {:.1} s", session.summary.seconds.edit);
            assert!(got.iter().zip(least).all(|(got, least)| *got >= least), "{method} {name}: {got:?}");
        }
    }

    #[test]
    fn memit_edits_every_decoder() {
        edit_every_decoder("MEMIT", [0.95, 0.7, 0.93]);
    }

    #[test]
    fn emmet_edits_every_decoder() {
        edit_every_decoder("EMMET", [0.95, 0.7, 0.93]);
    }

    #[test]
    fn pmet_edits_every_decoder() {
        edit_every_decoder("PMET", [0.95, 0.8, 0.9]);
    }

    #[test]
    fn alphaedit_edits_every_decoder() {
        edit_every_decoder("AlphaEdit", [0.95, 0.7, 0.93]);
    }
}
