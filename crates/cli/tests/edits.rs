//! The commands on a tiny model: what they write, and that it fits together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Sandbox, TENSOR};
use serde_json::{Value, json};

const EDIT_FILE: &str = "out/rome-0-the-eiffel-tower.edit.safetensors";
const PROMPT: &str = "The Eiffel Tower is in";

#[test]
fn an_edit_is_saved_reported_inspected_applied_and_reverted() {
    let sandbox = Sandbox::new();
    let more = ["--rephrase", "You find The Eiffel Tower in", "--locality", "The Kremlin is in::Moscow", "--report", "report.jsonl"];
    let run = sandbox.edit(&[&["--json", "--out", "out", "--save", "both"], &more[..]].concat()).success();
    let result = run.json();
    assert_eq!(result["saved"]["edits"], json!([EDIT_FILE]));
    assert_eq!(result["summary"]["method"], "ROME");
    assert!(run.stderr().is_empty(), "nothing is drawn where nobody watches: {}", run.stderr());

    let report = std::fs::read_to_string(sandbox.path("report.jsonl")).unwrap();
    let lines: Vec<Value> = report.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for key in ["case_id", "requested_rewrite", "time", "pre", "post"] {
        assert!(lines[0].get(key).is_some(), "{key} is not in {}", lines[0]);
    }
    assert!(lines[0]["post"]["locality"]["neighborhood_acc"].is_array());
    assert!(lines[1]["summary"].is_object());

    let inspected = sandbox.run(&["inspect", EDIT_FILE, "--json"]).success().json();
    assert_eq!(inspected["tensors"][0]["name"], TENSOR);
    assert_eq!(inspected["tensors"][0]["rank"], 1);
    assert_eq!(inspected["requests"][0]["target_new"], "Rome");

    let applied = sandbox.run(&["apply", "--model", "model", "--edit", EDIT_FILE, "--out", "applied"]).success();
    assert!(applied.stdout().contains(TENSOR), "{}", applied.stdout());
    let weights = |folder: &str| std::fs::read(sandbox.path(folder).join("model.safetensors")).unwrap();
    assert_eq!(weights("applied"), weights("out"));
    assert_ne!(weights("applied"), weights("model"));

    let generate = |more: &[&str]| sandbox.run(&[&["generate", "--prompt", PROMPT, "-n", "8", "--json"], more].concat()).success().json();
    let with_file = generate(&["--model", "model", "--edit", EDIT_FILE]);
    assert_eq!(with_file, generate(&["--model", "applied"]));
    assert_ne!(with_file, generate(&["--model", "model"]));

    let with_base = ["revert", "--model", "applied", "--edit", EDIT_FILE, "--base", "model", "--out", "back"];
    assert!(sandbox.run(&with_base).success().stdout().contains("bit for bit"));
    assert_eq!(weights("back"), weights("model"));
    sandbox.run(&["revert", "--model", "applied", "--edit", EDIT_FILE, "--out", "near"]).success();
    assert_eq!(generate(&["--model", "near"]), generate(&["--model", "model"]));
}

#[test]
fn the_edit_makes_the_target_likelier() {
    let sandbox = Sandbox::new();
    sandbox.edit(&["--out", "out", "--no-evaluation"]).success();
    let inspected = sandbox.run(&["inspect", EDIT_FILE, "--json"]).success().json();
    let losses = inspected["diagnostics"][0]["losses"].as_array().unwrap();
    let nll = |loss: &Value| loss["nll"].as_f64().unwrap();
    let (first, last) = (nll(losses.first().unwrap()), nll(losses.last().unwrap()));
    assert!(losses.len() > 1 && last < first - 0.05, "{first} -> {last}");
}

#[test]
fn the_same_seed_gives_the_same_edit() {
    let sandbox = Sandbox::new();
    for (out, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        sandbox.edit(&["--out", out, "--seed", seed, "--no-evaluation"]).success();
    }
    let factors = |out: &str| {
        let file = sandbox.path(out).join("rome-0-the-eiffel-tower.edit.safetensors");
        easyedit::Edit::load(&file).unwrap().deltas
    };
    assert_eq!(factors("a"), factors("b"));
    assert_ne!(factors("a"), factors("c"));
}

#[test]
fn an_edit_is_refused_by_a_model_it_was_not_made_for() {
    let sandbox = Sandbox::new();
    easyedit::models::tiny::write_tiny_checkpoint("llama", 8, &sandbox.path("other")).unwrap();
    sandbox.edit(&["--out", "out"]).success();
    let before = sandbox.listing();
    sandbox.run(&["apply", "--model", "other", "--edit", EDIT_FILE, "--out", "applied"]).fails(1, &[TENSOR, "differs"]);
    sandbox.run(&["generate", "--model", "other", "--edit", EDIT_FILE, "--prompt", PROMPT]).fails(1, &[TENSOR]);
    sandbox.run(&["revert", "--model", "model", "--edit", EDIT_FILE, "--out", "back"]).fails(1, &[TENSOR, "not in this model"]);
    sandbox.run(&["revert", "--model", "other", "--edit", EDIT_FILE, "--base", "other", "--out", "back"]).fails(1, &[TENSOR]);
    assert_eq!(sandbox.listing(), before);
}

#[test]
fn several_requests_in_each_mode() {
    let sandbox = Sandbox::new();
    let request =
        |id: usize, subject: &str| json!({ "case_id": id, "prompt": format!("{subject} is in"), "subject": subject, "target_new": "Rome" });
    sandbox.write("two.json", &json!([request(3, "The Louvre"), request(5, "The Kremlin")]).to_string());
    for (mode, files) in [
        ("independent", &["0-rome-3-the-louvre", "1-rome-5-the-kremlin"][..]),
        ("sequential", &["0-rome-3-the-louvre", "1-rome-5-the-kremlin"][..]),
        ("batch", &["rome-batch-of-2"][..]),
    ] {
        let arguments = ["edit", "--model", "model", "--hparams", "tiny.yaml", "--requests", "two.json", "--mode", mode, "--out", mode];
        let run = sandbox.run(&arguments).success();
        assert!(run.stdout().contains("facts     2") && run.stdout().contains("reliability"), "{}", run.stdout());
        for file in files {
            assert!(sandbox.path(mode).join(format!("{file}.edit.safetensors")).is_file(), "{mode}: {file}");
        }
    }
    let stacked = ["--edit", "sequential/0-rome-3-the-louvre.edit.safetensors", "sequential/1-rome-5-the-kremlin.edit.safetensors"];
    sandbox.run(&[&["apply", "--model", "model", "--out", "stacked"], &stacked[..]].concat()).success();
    let reversed = [stacked[0], stacked[2], stacked[1]];
    sandbox.run(&[&["apply", "--model", "model", "--out", "reversed"], &reversed[..]].concat()).success();
    let weights = |folder: &str| std::fs::read(sandbox.path(folder).join("model.safetensors")).unwrap();
    assert_eq!(weights("stacked"), weights("reversed"), "edits are put into their order");
    let second_alone = ["apply", "--model", "model", "--out", "alone", stacked[0], stacked[2]];
    sandbox.run(&second_alone).fails(1, &[TENSOR]);
}

#[test]
fn one_request_of_a_file_that_cannot_be_edited_does_not_stop_the_others() {
    let sandbox = Sandbox::new();
    let good = json!({ "prompt": "The Louvre is in", "subject": "The Louvre", "target_new": "Rome" });
    let no_subject = json!({ "prompt": "The Kremlin is in", "target_new": "Rome" });
    sandbox.write("two.json", &json!([no_subject, good]).to_string());
    let arguments = ["edit", "--model", "model", "--hparams", "tiny.yaml", "--requests", "two.json", "--json", "--report", "report.jsonl"];
    let run = sandbox.run(&arguments);
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("1 of 2 requests"), "{}", run.stderr());
    assert_eq!(run.json()["summary"]["failed"], 1);
    assert_eq!(std::fs::read_to_string(sandbox.path("report.jsonl")).unwrap().lines().count(), 3);
}

#[test]
fn hyperparameters_are_derived_and_printed_where_no_file_fits() {
    let sandbox = Sandbox::new();
    let request = ["--prompt", PROMPT, "--subject", "The Eiffel Tower", "--target", "Rome", "--no-evaluation"];
    sandbox.write("text.txt", &"The tower is tall.\n\nThe river is long.\n\n".repeat(20));
    let run = sandbox.run(&[&["edit", "--model", "model", "--corpus", "text.txt"], &request[..]].concat()).success();
    assert!(run.stdout().contains("derived from") && run.stdout().contains("rewrite_module_tmp:"), "{}", run.stdout());
}

#[test]
fn statistics_are_kept_in_the_cache() {
    let sandbox = Sandbox::new();
    sandbox.write("text.txt", &"The tower is tall.\n\nThe river is long.\n\n".repeat(20));
    let arguments = ["stats", "--model", "model", "--layers", "2,1", "--corpus", "text.txt", "--hparams", "tiny.yaml", "--json"];
    let result = sandbox.run(&arguments).success().json();
    let layers = result["layers"].as_array().unwrap();
    assert_eq!(layers.iter().map(|l| l["layer"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for layer in layers {
        assert!(layer["tokens"].as_u64().unwrap() > 0);
        assert!(std::path::Path::new(layer["file"].as_str().unwrap()).is_file());
    }
    sandbox.run(&["stats", "--model", "model", "--layers", "9", "--corpus", "text.txt"]).fails(1, &["layer 9"]);
}

#[test]
fn generation_is_seeded() {
    let sandbox = Sandbox::new();
    let draw = |seed: &str| {
        let arguments = ["generate", "--model", "model", "--prompt", PROMPT, "--temperature", "2", "--top-k", "50", "--top-p", "0.9"];
        sandbox.run(&[&arguments[..], &["--seed", seed]].concat()).success().stdout()
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
    sandbox.run(&["generate", "--model", "model", "--prompt", "x", "-n", "100000"]).fails(1, &["positions"]);
}

#[test]
fn perplexity_is_that_of_the_model_with_its_edits() {
    let sandbox = Sandbox::new();
    sandbox.edit(&["--out", "edited", "--save", "both"]).success();
    sandbox.write("text.txt", "The mill stands by the river.\n\nNobody knows who built the old bridge.\n");
    let file = "edited/rome-0-the-eiffel-tower.edit.safetensors";
    let measure = |more: &[&str]| sandbox.run(&[&["--json", "perplexity", "--text", "text.txt"], more].concat()).success().json();
    let (plain, with_edit, saved) =
        (measure(&["--model", "model"]), measure(&["--model", "model", "--edit", file]), measure(&["--model", "edited"]));
    let of = |run: &serde_json::Value| run["perplexity"].as_f64().unwrap();
    assert!(of(&plain) > 1.0 && of(&plain) != of(&with_edit), "{plain} {with_edit}");
    assert!((of(&with_edit) - of(&saved)).abs() < 1e-3 * of(&saved), "{with_edit} {saved}");
    assert_eq!((plain["documents"].clone(), plain["tokens"].clone()), (2.into(), with_edit["tokens"].clone()));
    let text = sandbox.run(&["perplexity", "--text", "text.txt", "--model", "model"]).success().stdout();
    assert!(text.contains("perplexity") && text.contains("2 documents"), "{text}");
    sandbox.write("empty.txt", "\n");
    sandbox.run(&["perplexity", "--text", "empty.txt", "--model", "model"]).fails(1, &["empty.txt", "no text"]);
}
