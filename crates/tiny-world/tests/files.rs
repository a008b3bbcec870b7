//! What lies in `data/tiny-world` is what the code makes, and training repeats itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use easyedit_core::{Fingerprint, LanguageModel, Progress};
use easyedit_tiny_world::{self as tiny_world, TrainingConfig};

#[test]
fn committed_text_datasets_and_tokenizers_are_those_of_the_seed() {
    let made = tempfile::tempdir().unwrap();
    tiny_world::save_world(tiny_world::world(), made.path()).unwrap();
    for file in ["corpus.txt", "facts.json", "requests.json", "zsre.json", "counterfact.json"] {
        let read = |folder: &std::path::Path| std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(read(made.path()) == read(&tiny_world::folder()), "{file} is not what the seed gives; run `cargo xtask tiny-world`");
    }
    for name in tiny_world::model_names() {
        let committed = std::fs::read_to_string(tiny_world::model_folder(name).unwrap().join("tokenizer.json")).unwrap();
        let made = tiny_world::tokenizer(name, tiny_world::world()).unwrap().inner().to_string(true).unwrap();
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&made), value(&committed), "{name}: tokenizer.json");
    }
}

/// Keeps the remarks, which say the loss.
#[derive(Default)]
struct Losses(std::sync::Mutex<Vec<String>>);

impl Progress for Losses {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn remark(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn end(&self) {}
}

fn weights(model: &dyn LanguageModel) -> BTreeMap<String, Fingerprint> {
    model.parameter_names().iter().map(|name| (name.to_string(), Fingerprint::of(&model.weight(name).unwrap()).unwrap())).collect()
}

#[test]
fn the_same_seed_trains_the_same_model_and_every_weight_learns() {
    for name in ["gpt_neo", "t5"] {
        let run = |seed, steps| {
            let tokenizer = tiny_world::tokenizer(name, tiny_world::world()).unwrap();
            let config = TrainingConfig { steps, tokens: 256, seed, ..TrainingConfig::of(name).unwrap() };
            let losses = Losses::default();
            let model = tiny_world::train(name, tiny_world::world(), &tokenizer, &config, &losses).unwrap();
            (weights(&*model), losses.0.into_inner().unwrap())
        };
        let (first, losses) = run(3, 6);
        assert_eq!((&first, &losses), (&run(3, 6).0, &run(3, 6).1), "{name}");
        let other = run(4, 6).0;
        let untrained = run(3, 0).0;
        for (parameter, weight) in &first {
            assert_ne!(weight, &untrained[parameter], "{name}: {parameter} did not change");
        }
        assert_ne!(first, other, "{name}");
        let loss = |line: &String| line.trim_start_matches("loss ").parse::<f64>().unwrap();
        assert!(loss(losses.last().unwrap()) < loss(&losses[0]), "{name}: {losses:?}");
    }
}

#[test]
fn unknown_models_are_named_with_the_known_ones() {
    let message = tiny_world::model("mamba").map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("mamba") && message.contains("gptj"), "{message}");
}
