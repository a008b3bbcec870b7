//! The networks that ship for SERAC, on facts about subjects that they were not trained on.
#![cfg(feature = "serac")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit::serac::{Networks, SeracHparams};
use easyedit::{
    Corpora, EditRequest, EditRun, Editor, EditorOptions, HparamsDocument, LanguageModel, Mode, Session, TextCorpora, hparams,
    tensor_values,
};
use easyedit_tiny_world as tiny_world;

const MODELS: [&str; 3] = ["gpt2", "llama", "t5"];
/// Facts that are to stay: of the same relation and object, of the same relation, of the same subject, others.
const KINDS: [&str; 4] = ["same_object", "same_relation", "same_subject", "unrelated"];

fn document(model: &dyn LanguageModel) -> HparamsDocument {
    let registry = easyedit::registry();
    let found = hparams::find(registry.get("SERAC").unwrap(), &model.spec().name, model.spec()).unwrap();
    assert!(matches!(&found.source, hparams::HparamsSource::BuiltIn(name) if name.contains("tiny-world")), "{}", found.source);
    found.document
}

fn session() -> Session {
    Session::new().with_corpora(TextCorpora::default())
}

/// Test facts, with the neighbours of the same relation and object apart from those of the relation alone.
fn requests() -> Vec<EditRequest> {
    let mut requests = tiny_world::world().practice().test;
    for request in &mut requests {
        let object = request.ground_truth.clone().unwrap();
        let near = request.locality.remove("neighborhood").unwrap();
        let (same, other): (Vec<_>, Vec<_>) = near.into_iter().partition(|one| one.ground_truth == object);
        for (name, prompts) in [("same_object", same), ("same_relation", other)] {
            if !prompts.is_empty() {
                request.locality.insert(name.to_owned(), prompts);
            }
        }
    }
    requests
}

fn run(name: &str, mode: Mode) -> EditRun {
    let mut requests = requests();
    if mode == Mode::Batch {
        // What another request edits is to change, in every wording.
        let edited: Vec<String> = requests.iter().map(|request| request.prompt.clone()).collect();
        let is_edited = |prompt: &String| {
            let mut facts = tiny_world::facts().iter().filter(|fact| edited.contains(&fact.prompt));
            facts.any(|fact| fact.prompt == *prompt || fact.trained.contains(prompt) || fact.held_out.contains(prompt))
        };
        requests
            .iter_mut()
            .flat_map(|request| request.locality.values_mut())
            .for_each(|prompts| prompts.retain(|one| !is_edited(&one.prompt)));
    }
    let model = tiny_world::model(name).unwrap();
    let method = easyedit::registry().get("SERAC").unwrap().build(&document(&*model)).unwrap();
    Editor::new(&session(), model, method, EditorOptions { mode, ..EditorOptions::default() }).run(&requests, &mut |_| Ok(())).unwrap()
}

/// Share of the answers that are right from the first token to the last; `None` without answers.
fn exact<'a>(scores: impl Iterator<Item = &'a f64>) -> Option<f64> {
    let all: Vec<&f64> = scores.collect();
    let right = all.iter().filter(|score| ***score >= 1.0).count();
    (!all.is_empty()).then(|| right as f64 / all.len() as f64)
}

/// Reliability, generalization, and locality by its kinds, of whole answers.
#[track_caller]
fn check(what: &str, run: &EditRun, kinds: &[&'static str]) {
    let post = || run.records.iter().map(|record| &record.post);
    let of_kind = |kind: &str| exact(post().filter_map(|post| post.locality.as_ref()?.get(&format!("{kind}_acc"))).flatten());
    let reliability = exact(post().flat_map(|post| &post.rewrite_acc)).unwrap();
    let generalization = exact(post().flat_map(|post| &post.rephrase_acc)).unwrap();
    let locality: Vec<(&str, f64)> = kinds.iter().map(|kind| (*kind, of_kind(kind).unwrap_or_else(|| panic!("no {kind}")))).collect();
    let free = &run.summary.free_decoding.post;
    println!(
        "SERAC {what}, {} facts: reliability {reliability:.3}, generalization {generalization:.3}, locality {locality:.3?}; written freely {:.3?} {:.3?}",
        run.records.len(),
        free.rewrite_acc.unwrap(),
        free.rephrase_acc.unwrap()
    );
    assert_eq!(run.summary.failed, 0);
    assert!(reliability >= 0.95 && generalization >= 0.9, "{what}: {reliability} {generalization}");
    assert!(locality.iter().all(|(_, kept)| *kept >= 0.95), "{what}: {locality:?}");
}

#[test]
fn one_edit_at_a_time_on_subjects_that_were_held_out() {
    for name in MODELS {
        check(name, &run(name, Mode::Independent), &KINDS);
    }
}

#[test]
fn all_edits_in_one_memory() {
    for name in MODELS {
        // All facts of a subject are in one set, and so edited.
        check(&format!("{name}, one memory"), &run(name, Mode::Batch), &["same_object", "same_relation", "unrelated"]);
    }
}

/// With hard routing nothing of the base model was learned: the networks that were trained beside one model serve the others.
#[test]
fn models_of_every_family_are_edited_with_networks_of_one() {
    for name in tiny_world::model_names().filter(|name| !MODELS.contains(name)) {
        check(name, &run(name, Mode::Independent), &KINDS);
    }
}

/// Every wording of a test fact against the fact's own prompt and against those of all other test facts.
#[test]
fn scope_is_told_from_the_prompt() {
    let requests = requests();
    let world = tiny_world::world();
    for name in MODELS {
        let model = tiny_world::model(name).unwrap();
        let hparams: SeracHparams = document(&*model).read().unwrap();
        let session = session();
        let mut networks = Networks::open(&hparams, &model.device(), &session).unwrap();
        let trained = TextCorpora::default().trained(hparams.archive.as_deref().unwrap(), "SERAC").unwrap();
        networks.take_over(&trained, false).unwrap();
        let prompts: Vec<&str> = requests.iter().map(|request| request.prompt.as_str()).collect();
        let (mut found, mut all, mut mistaken, mut others) = (0, 0, 0, 0);
        for request in &requests {
            let fact = world.facts().iter().find(|fact| fact.prompt == request.prompt).unwrap();
            for wording in fact.trained.iter().chain(&fact.held_out) {
                let pairs: Vec<(&str, &str)> = prompts.iter().map(|memory| (wording.as_str(), *memory)).collect();
                let scores = tensor_values(&networks.classifier.log_scores(&pairs).unwrap()).unwrap();
                for (score, (_, memory)) in scores.iter().zip(&pairs) {
                    let is_in = score.exp() > 0.5;
                    match *memory == request.prompt {
                        true => (found, all) = (found + usize::from(is_in), all + 1),
                        false => (mistaken, others) = (mistaken + usize::from(is_in), others + 1),
                    }
                }
            }
        }
        let (recall, precision) = (f64::from(found as u32) / all as f64, f64::from(found as u32) / (found + mistaken) as f64);
        println!(
            "SERAC {name}: scope recall {recall:.3} of {all}, precision {precision:.3} with {others} others, of which {mistaken} were taken in"
        );
        assert!(recall >= 0.95 && precision >= 0.9, "{name}: {recall} {precision}");
    }
}
