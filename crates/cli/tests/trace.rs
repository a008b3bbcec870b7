//! `easyedit trace` on a tiny model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::Sandbox;
use serde_json::{Value, json};

const FACT: [&str; 4] = ["--prompt", "The Eiffel Tower is in the city of", "--subject", "Eiffel Tower"];
const QUICK: [&str; 2] = ["--samples", "2"];

fn trace(sandbox: &Sandbox, more: &[&str]) -> common::Run {
    sandbox.run(&[&["trace", "--model", "model"], &QUICK[..], more].concat())
}

#[test]
fn a_fact_is_traced_shown_drawn_and_written() {
    let sandbox = Sandbox::new();
    let outputs = ["--plot", "figures/a.svg", "--report", "a.json", "--suggest-layers"];
    let text = trace(&sandbox, &[&FACT[..], &outputs].concat()).success().stdout();
    for part in ["hidden state restored in one layer", "MLP output", "attention output", "r*", "ROME: ", "a.svg"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal");
    let svg = std::fs::read_to_string(sandbox.path("figures/a.svg")).unwrap();
    assert!(svg.contains("Restoring the MLP output"));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(sandbox.path("a.json")).unwrap()).unwrap();
    let fact = &report["facts"][0];
    let tokens = fact["tokens"].as_array().unwrap().len();
    let layers = report["n_layers"].as_u64().unwrap() as usize;
    for panel in fact["panels"].as_array().unwrap() {
        let rows = panel["probabilities"].as_array().unwrap();
        assert_eq!((rows.len(), rows[0].as_array().unwrap().len()), (tokens, layers));
        assert_eq!(rows[0][0], fact["corrupted"], "tokens before the subject change nothing");
    }
    assert_eq!(report["settings"]["samples"], 2);
    assert_eq!(report["settings"]["seed"], 0);
    let printed = trace(&sandbox, &[&FACT[..], &["--json"]].concat()).success().json();
    assert_eq!(printed["facts"], report["facts"], "the same seed gives the same numbers");
    let other = trace(&sandbox, &[&FACT[..], &["--json", "--seed", "1"]].concat()).success().json();
    assert_ne!(other["facts"], report["facts"]);
}

#[test]
fn facts_of_a_file_are_averaged_and_give_hyperparameters_that_edit() {
    let sandbox = Sandbox::new();
    let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-world").canonicalize().unwrap();
    let (model, corpus) = (world.join("models/tiny-world-llama"), world.join("corpus.txt"));
    let (model, corpus) = (model.to_str().unwrap(), corpus.to_str().unwrap());
    let facts: Vec<Value> = serde_json::from_slice(&std::fs::read(world.join("facts.json")).unwrap()).unwrap();
    let record = |(id, fact): (usize, &Value)| json!({"known_id": id, "prompt": fact["prompt"], "subject": fact["subject"], "attribute": fact["object"]});
    let mut records: Vec<Value> = facts.iter().take(5).enumerate().map(record).collect();
    let wrong = facts.iter().map(|fact| &fact["object"]).find(|object| **object != records[1]["attribute"]).unwrap().clone();
    records[1]["attribute"] = wrong;
    sandbox.write("facts.json", &Value::from(records).to_string());

    let common = ["trace", "--model", model, "--requests", "facts.json", "--samples", "2"];
    let outputs = ["--window", "1", "--write-hparams", "out.yaml", "--plot", "all.png", "--json"];
    let report = sandbox.run(&[&common[..], &outputs].concat()).success().json();
    assert_eq!((report["facts"].as_array().unwrap().len(), report["average"]["facts"].as_u64()), (4, Some(4)));
    assert_eq!(report["left_out"][0]["case_id"], 1);
    let layer = report["suggestion"]["layer"].as_u64().unwrap();
    let yaml = std::fs::read_to_string(sandbox.path("out.yaml")).unwrap();
    assert!(yaml.starts_with("# ") && yaml.contains(&format!("layers:\n- {layer}\n")) && yaml.contains("alg_name: ROME"), "{yaml}");
    assert_eq!(&std::fs::read(sandbox.path("all.png")).unwrap()[1..4], b"PNG");

    let text = sandbox.run(&[&common[..], &["--facts", "2", "--restore", "hidden"]].concat()).success().stdout();
    assert!(text.contains("facts     2 (1 more are left out") && text.contains("Last subject token"), "{text}");
    let request: Vec<&str> = ["prompt", "subject"].iter().map(|key| facts[0][key].as_str().unwrap()).collect();
    let request = ["--prompt", request[0], "--subject", request[1], "--target", "Rome", "--no-evaluation"];
    sandbox.run(&[&["edit", "--model", model, "--hparams", "out.yaml", "--corpus", corpus], &request[..]].concat()).success();
}

#[test]
fn what_is_wrong_is_told_before_any_work_and_nothing_is_written() {
    let sandbox = Sandbox::new();
    let before = sandbox.listing();
    let outputs = ["--plot", "a.svg", "--report", "a.json", "--write-hparams", "a.yaml"];
    for (more, code, parts) in [
        (&["--prompt", "The Louvre is in", "--subject", "Tower"][..], 1, &["Tower", "The Louvre is in"][..]),
        (&["--prompt", "The Louvre is in", "--subject", " "][..], 1, &["subject", "The Louvre is in"][..]),
        (&["--prompt", "The Louvre is in", "--subject", "Louvre", "--target", " "][..], 1, &["target"][..]),
        (&["--prompt", "The Louvre is in"][..], 2, &["--subject"][..]),
        (&[][..], 2, &["--prompt"][..]),
        (&[&FACT[..], &["--window", "99"]].concat(), 1, &["99", "layers"][..]),
        (&[&FACT[..], &["--window", "0"]].concat(), 2, &["--window"][..]),
        (&[&FACT[..], &["--noise", "0"]].concat(), 2, &["--noise"][..]),
        (&[&FACT[..], &["--samples", "0"]].concat(), 2, &["--samples"][..]),
        (&[&FACT[..], &["--restore", "mind"]].concat(), 2, &["mind", "mlp"][..]),
        (&[&FACT[..], &["--restore", "hidden"]].concat(), 2, &["--restore", "mlp"][..]),
        (&[&FACT[..], &["--method", "ROMA"]].concat(), 2, &["ROMA", "ROME"][..]),
        (&["--requests", "nowhere.json"][..], 1, &["nowhere.json"][..]),
    ] {
        sandbox.run(&[&["trace", "--model", "model"], more, &outputs[..]].concat()).fails(code, parts);
        assert_eq!(sandbox.listing(), before, "files were left behind by {more:?}");
    }
    trace(&sandbox, &[&FACT[..], &["--plot", "a.jpg"]].concat()).fails(1, &["a.jpg", ".svg or .png"]);
    sandbox.run(&[&["trace", "--model", "nowhere"], &FACT[..], &["--plot", "a.gif"]].concat()).fails(1, &["a.gif"]);
    easyedit::models::tiny::write_tiny_checkpoint("t5", 7, &sandbox.path("t5")).unwrap();
    sandbox.run(&[&["trace", "--model", "t5"], &FACT[..]].concat()).fails(1, &["encoder-decoder"]);
}
