//! One edit of a real model, SmolLM2-135M, through the whole facade: from its short name to free greedy decoding.
//!
//! Runs where the model can be fetched (or was before); elsewhere it says that it is skipped, and why.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use easyedit::models::{Checkpoint, cache_folder, resolve_model};
use easyedit::{Editor, EditorOptions, Session, TextCorpora, hparams, registry};
use easyedit_core::{EditRequest, EvaluationPrompt, GenerationConfig, LanguageModel, Silent, device, generate};

fn continuation(model: &dyn LanguageModel, prompt: &str) -> String {
    let ids = model.tokenizer().encode(prompt).unwrap().ids;
    generate(model, &[ids], &GenerationConfig::greedy(6)).unwrap()[0].text(model).unwrap()
}

#[test]
fn a_known_fact_is_changed_and_its_neighbour_kept() {
    let location = match resolve_model("smollm2-135m", &Silent) {
        Ok(location) => location,
        Err(error) => {
            eprintln!("skipped: the real model cannot be had: {error}");
            return;
        }
    };
    let checkpoint = Checkpoint::open(&location.path).unwrap().with_name(location.name.clone());
    let model = checkpoint.load(&device::select("cpu").unwrap()).unwrap();
    let (prompt, rephrased, neighbour) =
        ("The capital of France is", "The capital and largest city of France is", "The capital of Norway is");
    assert!(continuation(model.as_ref(), prompt).starts_with(" Paris"));

    let registry = registry();
    let entry = registry.get("ROME").unwrap();
    let found = hparams::find(entry, &location.name, model.spec()).unwrap();
    let request = EditRequest {
        rephrase_prompts: vec![rephrased.to_owned()],
        locality: [("neighborhood".to_owned(), vec![EvaluationPrompt::new(neighbour, "Oslo")])].into(),
        ..EditRequest::new(prompt, "France", "Rome")
    };
    let mut editor = Editor::new(
        &Session::new().with_corpora(TextCorpora::default()).with_cache(cache_folder()),
        model,
        entry.build(&found.document).unwrap(),
        EditorOptions::default(),
    );
    let session = editor.run(&[request], &mut |_| Ok(())).unwrap();

    let edited = session.edited().unwrap();
    assert!(continuation(edited.as_ref(), prompt).starts_with(" Rome"), "{}", continuation(edited.as_ref(), prompt));
    assert!(continuation(edited.as_ref(), rephrased).starts_with(" Rome"));
    assert!(continuation(edited.as_ref(), neighbour).starts_with(" Oslo"));
    let record = serde_json::to_value(&session.records[0]).unwrap();
    assert_eq!(record["pre"]["rewrite_acc"][0], 0.0);
    assert_eq!(record["post"]["rewrite_acc"][0], 1.0);
    assert_eq!(record["post"]["locality"]["neighborhood_acc"][0], 1.0);
    assert!(continuation(session.original(), prompt).starts_with(" Paris"), "the original is still there");
}
