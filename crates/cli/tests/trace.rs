//! `easyedit trace` on a tiny model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::Sandbox;

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
    for part in ["hidden state restored in one layer", "MLP output", "attention output", "Tower*", "suggest", "a.svg"] {
        assert!(text.contains(part) || part == "suggest" && text.contains("ROME:"), "{part} is not in {text}");
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
    // What the untrained model predicts stands for what it knows.
    let facts: Vec<serde_json::Value> = ["The Eiffel Tower is in", "The capital of France is", "The capital of Norway is"]
        .iter()
        .zip(["Eiffel Tower", "France", "Norway"])
        .enumerate()
        .map(|(id, (prompt, subject))| {
            let printed = trace(&sandbox, &["--prompt", prompt, "--subject", subject, "--restore", "hidden", "--json"]).success().json();
            let answer = printed["facts"][0]["answer"].as_str().unwrap().trim().to_owned();
            serde_json::json!({"known_id": id, "prompt": prompt, "subject": subject, "attribute": answer})
        })
        .collect();
    let unknown = serde_json::json!({"known_id": 9, "prompt": "The Louvre is in", "subject": "Louvre", "attribute": "zzz"});
    let all: Vec<_> = facts.into_iter().chain([unknown]).collect();
    sandbox.write("facts.json", &serde_json::Value::from(all).to_string());
    let arguments = ["--requests", "facts.json", "--restore", "mlp", "--window", "1", "--write-hparams", "out.yaml", "--plot", "all.png"];
    let run = trace(&sandbox, &[&arguments[..], &["--json"]].concat()).success();
    let report = run.json();
    let (traced, left_out) = (report["facts"].as_array().unwrap().len(), report["left_out"].as_array().unwrap().len());
    assert!(traced >= 1 && left_out >= 1 && traced + left_out == 4, "{traced} and {left_out}");
    assert_eq!(report["average"]["facts"], traced);
    let layer = report["suggestion"]["layer"].as_u64().unwrap();
    let yaml = std::fs::read_to_string(sandbox.path("out.yaml")).unwrap();
    assert!(yaml.contains(&format!("layers:\n- {layer}\n")) && yaml.contains("alg_name: ROME"), "{yaml}");
    assert_eq!(&std::fs::read(sandbox.path("all.png")).unwrap()[1..4], b"PNG");

    let request = ["--prompt", "The Eiffel Tower is in", "--subject", "The Eiffel Tower", "--target", "Rome", "--no-evaluation"];
    sandbox.run(&[&["edit", "--model", "model", "--hparams", "out.yaml"], &request[..]].concat()).success();
}

#[test]
fn what_is_wrong_is_told_before_any_work_and_nothing_is_written() {
    let sandbox = Sandbox::new();
    let before = sandbox.listing();
    let outputs = ["--plot", "a.svg", "--report", "a.json", "--write-hparams", "a.yaml"];
    let depth = "layers";
    for (more, code, parts) in [
        (&["--prompt", "The Louvre is in", "--subject", "Tower"][..], 1, &["Tower", "The Louvre is in"][..]),
        (&["--prompt", "The Louvre is in", "--subject", " "][..], 1, &["subject", "The Louvre is in"][..]),
        (&["--prompt", "The Louvre is in", "--subject", "Louvre", "--target", " "][..], 1, &["target"][..]),
        (&["--prompt", "The Louvre is in"][..], 2, &["--subject"][..]),
        (&[][..], 2, &["--prompt"][..]),
        (&[&FACT[..], &["--window", "99"]].concat(), 1, &["99", depth][..]),
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
