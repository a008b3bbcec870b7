//! In-context editing of the tiny world's models, which never saw a context: what it comes to is reported.
#![cfg(feature = "ike")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use easyedit::eval::Evaluation;
use easyedit::ike::{Ike, IkeHparams, Kind, Retrieval};
use easyedit::{
    CheckedRequest, EditRequest, EditRun, Editor, EditorOptions, LanguageModel, Method, Mode, Session, Silent, TextCorpora, hparams,
};
use easyedit_tiny_world as tiny_world;
use serde_json::json;

/// Facts that are edited on each model.
const EDITS: usize = 20;

/// The hyperparameters of the repository, with the records where they are.
fn tiny_hparams(model: &dyn LanguageModel) -> IkeHparams {
    let registry = easyedit::registry();
    let entry = registry.get("IKE").unwrap();
    let found = hparams::find(entry, &model.spec().name, model.spec()).unwrap();
    assert!(matches!(&found.source, hparams::HparamsSource::BuiltIn(name) if name.contains("tiny-world")), "{}", found.source);
    let hparams: IkeHparams = found.document.read().unwrap();
    assert_eq!(hparams.train_data.as_deref(), Some("data/tiny-world/requests.json"));
    IkeHparams { train_data: Some(tiny_world::folder().join("requests.json").display().to_string()), ..hparams }
}

fn run(model: Box<dyn LanguageModel>, hparams: IkeHparams, requests: &[EditRequest], mode: Mode, cache: Option<PathBuf>) -> EditRun {
    let session = Session::new().with_corpora(TextCorpora::default());
    let session = match cache {
        Some(cache) => session.with_cache(cache),
        None => session,
    };
    let options = EditorOptions { mode, ..EditorOptions::default() };
    let mut editor = Editor::new(&session, model, Box::new(Ike::new(hparams)), options);
    editor.run(requests, &mut |_| Ok(())).unwrap()
}

fn scores(session: &EditRun) -> [f64; 3] {
    let scores = &session.summary.mean_metrics.post;
    [scores.rewrite_acc.unwrap(), scores.rephrase_acc.unwrap(), scores.locality["neighborhood_acc"]]
}

#[test]
fn every_family_is_edited_and_measured() {
    let requests = &tiny_world::requests()[..EDITS];
    for name in tiny_world::model_names() {
        let model = tiny_world::model(name).unwrap();
        let hparams = tiny_hparams(&*model);
        let session = run(model.boxed_clone(), hparams.clone(), requests, Mode::Independent, None);
        assert_eq!((session.summary.failed, session.edits.len()), (0, EDITS), "{name}");
        let alone = run(model.boxed_clone(), IkeHparams { train_data: None, ..hparams }, requests, Mode::Independent, None);
        let before = session.summary.mean_metrics.pre.rewrite_acc.unwrap();
        let (got, zero) = (scores(&session), scores(&alone));
        let left = session.edits.iter().filter(|edit| edit.diagnostics["left_out"] != 0).count();
        println!(
            "{name}: before {before:.3}; reliability, generalization, locality {got:.3?}; without demonstrations {zero:.3?}; {left} shortened"
        );
        // They were trained on single sentences of at most some twenty tokens, and hardly copy: what little they reach is what they reach.
        let reached = |scores: [f64; 3], least: [f64; 3]| scores.iter().zip(least).all(|(got, least)| *got >= least);
        assert!(reached(got, [0.1, 0.1, 0.15]) && reached(zero, [0.12, 0.1, 0.6]), "{name}: {got:?} {zero:?}");
    }
}

#[test]
fn locality_is_against_the_plain_model_and_its_plain_prompt() {
    let requests = &tiny_world::requests()[..6];
    for name in ["llama", "t5"] {
        let model = tiny_world::model(name).unwrap();
        let evaluation = Evaluation::new(&*model, &CheckedRequest::all(requests.iter().cloned()).unwrap()).unwrap();
        let before = evaluation.ask(&*model, &Silent).unwrap();
        let mut changed = false;
        for mode in [Mode::Independent, Mode::Batch] {
            let requests = if mode == Mode::Batch { &requests[..2] } else { requests };
            let session = run(model.boxed_clone(), IkeHparams { k: 2, ..tiny_hparams(&*model) }, requests, mode, None);
            for (index, record) in session.records.iter().enumerate() {
                let edited = session.edited_by(if mode == Mode::Batch { 0 } else { index }).unwrap();
                let after = evaluation.ask_some(&*edited, &[index], &Silent).unwrap();
                assert_eq!(record.post, after[0].metrics(Some(&before[index])), "{name} {mode}");
                assert_eq!(record.pre, before[index].metrics(None), "{name} {mode}");
                changed |= record.post.locality.as_ref().unwrap()["neighborhood_acc"].iter().any(|score| *score < 1.0);
                // The same model in the same context, with nothing to compare but itself, changes nothing.
                let itself = after[0].metrics(Some(&after[0])).locality.unwrap();
                assert!(itself["neighborhood_acc"].iter().all(|score| *score == 1.0));
            }
        }
        assert!(changed, "{name}: a context leaves some trace in models that never saw one");
    }
}

/// A real encoder of the family the index is made for, small: the golden weights, and a vocabulary of words of the tiny world.
fn small_encoder(folder: &Path) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/golden/bert");
    let encoder = folder.join("small-encoder");
    std::fs::create_dir_all(&encoder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(file), encoder.join(file)).unwrap();
    }
    let mut vocabulary = serde_json::Map::new();
    for word in ["[UNK]", "[CLS]", "[SEP]"] {
        vocabulary.insert(word.into(), vocabulary.len().into());
    }
    let texts = tiny_world::requests().into_iter().map(|request| format!("{} {}", request.filled_prompt(), request.target_new));
    for word in texts.collect::<Vec<_>>().join(" ").split_whitespace() {
        if vocabulary.len() < 80 && !vocabulary.contains_key(word) {
            vocabulary.insert(word.into(), vocabulary.len().into());
        }
    }
    let frame = |token: &str, id: u32| json!({ "id": token, "ids": [id], "tokens": [token] });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null, "added_tokens": [],
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
        "post_processor": {
            "type": "TemplateProcessing", "pair": [],
            "single": [
                { "SpecialToken": { "id": "[CLS]", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "[SEP]", "type_id": 0 } },
            ],
            "special_tokens": { "[CLS]": frame("[CLS]", 1), "[SEP]": frame("[SEP]", 2) },
        },
    });
    std::fs::write(encoder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    encoder
}

#[test]
fn a_sentence_encoder_finds_demonstrations_and_its_index_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let encoder = small_encoder(folder.path());
    let model = tiny_world::model("gpt2").unwrap();
    let hparams =
        IkeHparams { retrieval: Retrieval::Embedding, sentence_model_name: encoder.display().to_string(), k: 2, ..tiny_hparams(&*model) };
    let requests = &tiny_world::requests()[..2];
    let session = run(model.boxed_clone(), hparams.clone(), requests, Mode::Sequential, Some(cache.clone()));
    assert_eq!(session.summary.failed, 0);
    let again = run(model.boxed_clone(), hparams.clone(), requests, Mode::Sequential, Some(cache.clone()));
    assert_eq!(again.edits, session.edits, "the same from the index that was kept");
    assert_eq!(std::fs::read_dir(cache.join("ike")).unwrap().count(), 1);
    // The nearest of all, by hand.
    let device = easyedit::device::select("cpu").unwrap();
    let embed = easyedit::open_sentence_encoder(&hparams.sentence_model_name, &device, &Silent).unwrap();
    let request = &requests[0];
    let fact = format!("{} {}", request.filled_prompt(), request.target_new);
    let query = format!("New Fact: {fact}\nPrompt: {}\n\n", request.filled_prompt());
    let asked = embed.embed(&[&query]).unwrap();
    let strings = easyedit::ike::demonstrations_of(&CheckedRequest::all(tiny_world::requests()).unwrap());
    assert!(Kind::ALL.iter().all(|kind| strings.iter().any(|one| one.kind == *kind)));
    let mut best: Vec<(f32, &str)> = Vec::new();
    for one in strings.iter().filter(|one| tiny_world::requests()[one.record].filled_prompt() != request.filled_prompt()) {
        let row = embed.embed(&[&one.text]).unwrap();
        best.push((row.values().iter().zip(asked.values()).map(|(a, b)| a * b).sum(), &one.text));
    }
    best.sort_by(|a, b| b.0.total_cmp(&a.0));
    let data = &session.edits[0].overlay.as_ref().unwrap().data;
    for (shown, (similarity, _)) in data["demonstrations"].as_array().unwrap().iter().zip(&best) {
        assert!((shown["similarity"].as_f64().unwrap() - f64::from(*similarity)).abs() < 1e-5, "{shown} {similarity}");
    }
    // Another encoder, another index.
    let other = IkeHparams { sentence_model_name: folder.path().join("nowhere").display().to_string(), ..hparams };
    let mut editor =
        Editor::new(&Session::new().with_corpora(TextCorpora::default()), model, Box::new(Ike::new(other)), EditorOptions::default());
    let error = editor.run(requests, &mut |_| Ok(())).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("sentence_model_name") && error.contains("lexical"), "{error}");
}
