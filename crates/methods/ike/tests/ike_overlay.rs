//! What models read under edits, on small random ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::borrow::Cow;

use easyedit_core::tokens::{encode_prompt, encode_with_target};
use easyedit_core::{
    CheckedRequest, Edit, EditMethod, EditRequest, EditedModel, ForwardChange, GenerationConfig, LanguageModel, Method, Overlay, Registry,
    Session, generate,
};
use easyedit_ike::{Ike, IkeHparams, Retrieval, Selection, demonstrations_of};
use easyedit_models::tiny::tiny_model;
use serde_json::{Value, json};
use support::{Given, Letters, records};

const QUESTION: &str = "Ada 8 lives in";

fn hparams() -> IkeHparams {
    IkeHparams { k: 2, train_data: Some("facts.json".into()), reserve: Some(40), ..IkeHparams::default() }
}

fn requests() -> [EditRequest; 2] {
    [EditRequest::new(QUESTION, "Ada 8", "Oslo"), EditRequest::new("Bruno 9 lives in", "Bruno 9", "Rome")]
}

fn edit(hparams: IkeHparams, model: &dyn LanguageModel, requests: &[EditRequest]) -> easyedit_core::Result<Edit> {
    let given = Given { records: records(12), encoder: Some(Letters::default()) };
    let context = Session::new().with_seed(3).with_corpora(given);
    Ike::new(hparams).edit(model, &CheckedRequest::all(requests.iter().cloned())?, &context)
}

fn zero_shot() -> IkeHparams {
    IkeHparams { train_data: None, ..hparams() }
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register::<Ike>();
    registry
}

/// The texts of the edit's demonstrations, the nearest first.
fn demonstrations(edit: &Edit) -> Vec<String> {
    let data = &edit.overlay.as_ref().unwrap().data;
    data["demonstrations"].as_array().unwrap().iter().map(|one| one["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn prompts_stand_behind_demonstrations_and_the_new_fact() {
    let model = tiny_model("llama", 1).unwrap();
    let own = "New Fact: Ada 8 lives in Oslo\nPrompt: Ada 8 lives in Oslo\n\nNew Fact: Ada 8 lives in Oslo\nPrompt: Who is it?";
    for (selection, retrieval) in [(Selection::Nearest, Retrieval::Lexical), (Selection::Ratio, Retrieval::Embedding)] {
        let edit = edit(IkeHparams { selection, retrieval, ..hparams() }, &*model, &requests()[..1]).unwrap();
        let texts = demonstrations(&edit);
        assert_eq!(texts.len(), 2);
        assert!(texts.iter().all(|text| !text.contains(QUESTION)), "the fact's own record is no demonstration: {texts:?}");
        let all: Vec<String> = demonstrations_of(&CheckedRequest::all(records(12)).unwrap()).into_iter().map(|one| one.text).collect();
        assert!(texts.iter().all(|text| all.contains(text)));
        let edited = registry().apply(&[edit], model.boxed_clone()).unwrap();
        let [near, far] = &texts[..] else { panic!() };
        // EasyEdit's order, and the paper's.
        let shown = if selection == Selection::Nearest { [near, far] } else { [far, near] };
        assert_eq!(edited.prompt_text("Who is it?"), format!("{}{}{own}", shown[0], shown[1]), "{selection:?}");
    }
    let alone = registry().apply(&[edit(zero_shot(), &*model, &requests()[..1]).unwrap()], model.boxed_clone()).unwrap();
    assert_eq!(alone.prompt_text("Who is it?"), "New Fact: Ada 8 lives in Oslo\nPrompt: Who is it?");
}

#[test]
fn edits_are_kept_in_files_and_change_no_weight() {
    for family in ["llama", "gpt2", "gpt_neox", "t5"] {
        let model = tiny_model(family, 1).unwrap();
        let made = edit(hparams(), &*model, &requests()[..1]).unwrap();
        assert!(made.deltas.is_empty() && !Ike::new(hparams()).changes_weights());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ada.edit.safetensors");
        made.save(&path).unwrap();
        let loaded = Edit::load(&path).unwrap();
        assert_eq!(loaded, made);
        let edited = registry().apply(&[loaded], model.boxed_clone()).unwrap();
        let text = edited.prompt_text(QUESTION).into_owned();
        let read = encode_prompt(&*edited, QUESTION).unwrap();
        assert_eq!(read, encode_prompt(&*model, &text).unwrap(), "{family}");
        let tokens = encode_with_target(&*edited, QUESTION, "Oslo").unwrap();
        assert_eq!(tokens, encode_with_target(&*model, &text, "Oslo").unwrap(), "{family}");
        assert_eq!(tokens.prompt(), read.as_slice(), "{family}: an encoder reads the context, too");
        for name in model.parameter_names() {
            assert_eq!(model.weight(&name).unwrap().into_data(), edited.weight(&name).unwrap().into_data());
        }
        let config = GenerationConfig { ignore_eos: true, ..GenerationConfig::greedy(6) };
        let write = |model: &dyn LanguageModel| generate(model, &[encode_prompt(model, QUESTION).unwrap()], &config).unwrap().remove(0).ids;
        assert_ne!(write(&*edited), write(&*model), "{family}");
    }
}

#[test]
fn sequences_become_one_context_in_which_the_later_fact_wins() {
    let model = tiny_model("llama", 1).unwrap();
    let [ada, bruno] = requests();
    let moved = EditRequest { target_new: "Rome".into(), ..ada.clone() };
    let small = IkeHparams { k: 1, ..hparams() };
    let edits: Vec<Edit> =
        [&ada, &bruno, &moved].into_iter().map(|one| edit(small.clone(), &*model, std::slice::from_ref(one)).unwrap()).collect();
    let edited = registry().apply(&edits, model.boxed_clone()).unwrap();
    let text = edited.prompt_text("x").into_owned();
    assert!(text.ends_with("New Fact: Bruno 9 lives in Rome\nNew Fact: Ada 8 lives in Rome\nPrompt: x"), "{text}");
    assert!(!text.contains("Oslo"));
    let upper = edited.overlaid().unwrap();
    assert!(upper.beneath.overlaid().is_none(), "there is one overlay");
    // The nearest demonstration of all edits.
    let all: Vec<String> = edits.iter().flat_map(demonstrations).collect();
    assert_eq!(upper.overlay.data["demonstrations"].as_array().unwrap().len(), 1);
    assert!(all.contains(&upper.overlay.data["demonstrations"][0]["text"].as_str().unwrap().to_owned()));

    // One edit of several facts states them all, and of one prompt the last.
    let batch = edit(hparams(), &*model, &[ada, bruno, moved]).unwrap();
    let edited = registry().apply(&[batch], model.boxed_clone()).unwrap();
    let own = "New Fact: Bruno 9 lives in Rome\nPrompt: Bruno 9 lives in Rome\n\nNew Fact: Ada 8 lives in Rome\nPrompt: Ada 8 lives in Rome\n\n\
               New Fact: Bruno 9 lives in Rome\nNew Fact: Ada 8 lives in Rome\nPrompt: x";
    let text = edited.prompt_text("x").into_owned();
    assert!(text.ends_with(own) && !text.contains("Oslo"), "{text}");
}

#[derive(Debug)]
struct Opening;

impl ForwardChange for Opening {
    fn prompt_text<'a>(&self, prompt: &'a str) -> Cow<'a, str> {
        Cow::Owned(format!("In short: {prompt}"))
    }
}

#[test]
fn other_overlays_stay_beneath() {
    let model = tiny_model("llama", 1).unwrap();
    let made = edit(zero_shot(), &*model, &requests()[..1]).unwrap();
    let beneath = Box::new(EditedModel::new(model.boxed_clone(), "OTHER", Overlay::default(), Opening));
    let edited = registry().apply(&[made.clone(), made], beneath).unwrap();
    assert_eq!(edited.prompt_text("x"), "In short: New Fact: Ada 8 lives in Oslo\nPrompt: x");
    let upper = edited.overlaid().unwrap();
    assert_eq!((upper.method, upper.beneath.overlaid().unwrap().method), ("IKE", "OTHER"));
}

#[test]
fn a_context_is_never_longer_than_the_positions() {
    for family in ["llama", "gpt2"] {
        let model = tiny_model(family, 1).unwrap();
        let positions = model.spec().max_positions;
        let all = IkeHparams { k: 30, ..hparams() };
        for reserve in [Some(0), Some(40), Some(250), None] {
            let made = edit(IkeHparams { reserve, ..all.clone() }, &*model, &requests()[..1]).unwrap();
            let (used, left) = (made.diagnostics["demonstrations"].as_u64().unwrap(), made.diagnostics["left_out"].as_u64().unwrap());
            let texts = demonstrations(&made);
            assert!(left > 0 && used + left == texts.len() as u64, "{family}: {used} + {left}, {}", texts.len());
            let edited = registry().apply(&[made], model.boxed_clone()).unwrap();
            let tokens = encode_prompt(&*edited, "").unwrap().len();
            let room = positions - reserve.unwrap_or(128);
            assert!(tokens <= room, "{family}: {tokens}, {room}");
            // One more would not fit, and the nearest stay.
            let text = edited.prompt_text("").into_owned();
            let kept = texts.iter().take_while(|shown| text.contains(shown.as_str())).count() as u64;
            assert_eq!(kept, used, "{family}");
            assert!(tokens + texts[used as usize].len() > room, "{family}: bytes are tokens here");
        }
        let error = edit(IkeHparams { reserve: Some(positions - 20), ..all }, &*model, &requests()).unwrap_err().to_string();
        for part in ["IKE", "the new facts (2) alone", "reserve", &model.spec().name] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

type Change<'a> = &'a dyn Fn(&mut Value);

#[test]
fn overlays_that_are_no_contexts_are_refused() {
    let model = tiny_model("llama", 1).unwrap();
    let sound = edit(hparams(), &*model, &requests()[..1]).unwrap();
    let with = |change: Change<'_>| {
        let mut edit = sound.clone();
        change(&mut edit.overlay.as_mut().unwrap().data);
        registry().apply(&[edit], model.boxed_clone()).map(|_| ()).unwrap_err().to_string()
    };
    let hostile: [(Change<'_>, &str); 7] = [
        (&|data| *data = Value::Null, "holds no demonstrations and facts"),
        (&|data| *data = json!([1, 2]), "holds no demonstrations and facts"),
        (&|data| data["facts"] = json!([]), "holds no fact"),
        (&|data| data["facts"] = json!("x"), "holds no demonstrations and facts"),
        (&|data| data["demonstrations"][0]["similarity"] = json!("near"), "holds no demonstrations and facts"),
        (&|data| data["facts"][0]["target"] = json!("long ".repeat(1000)), "positions"),
        (&|data| data["version"] = json!(9), "update easyedit"),
    ];
    for (change, part) in hostile {
        let message = with(change);
        assert!(message.contains(part) && message.contains("IKE"), "{part}: {message}");
    }
    let mut bare = sound.clone();
    bare.overlay = None;
    assert!(Ike::new(hparams()).lay_over(&bare, model.boxed_clone()).map(|_| ()).unwrap_err().to_string().contains("nothing to lay over"));
    let blank = EditRequest { target_new: " ".into(), ..requests()[0].clone() };
    assert!(edit(hparams(), &*model, &[blank]).unwrap_err().to_string().contains("target_new"));
    assert!(edit(hparams(), &*model, &[]).is_err());
}
