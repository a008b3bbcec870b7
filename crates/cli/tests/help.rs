//! What the program says of itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::Sandbox;

#[test]
fn the_help_is_short_and_has_examples() {
    let sandbox = Sandbox::new();
    let help = sandbox.run(&["--help"]).success().stdout();
    insta::with_settings!({filters => vec![(r" +\n", "\n")]}, {
        insta::assert_snapshot!(help, @"");
    });
}

#[test]
fn every_command_explains_itself() {
    let sandbox = Sandbox::new();
    for command in ["demo", "edit", "generate", "apply", "revert", "inspect", "methods", "models", "stats"] {
        let help = sandbox.run(&[command, "--help"]).success().stdout();
        assert!(help.contains("Usage: easyedit"), "{command}: {help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 120, "{command}: a long line: {line}");
        }
    }
    let help = sandbox.run(&["edit", "-h"]).success().stdout();
    insta::assert_snapshot!(help, @"");
}

#[test]
fn lists_name_what_there_is() {
    let sandbox = Sandbox::new();
    let methods = sandbox.run(&["methods"]).success().stdout();
    assert!(methods.contains("ROME"), "{methods}");
    let models = sandbox.run(&["models", "--json"]).success().json();
    let types: Vec<&str> = models["families"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|f| f["model_types"].as_array().unwrap())
        .filter_map(|t| t.as_str())
        .collect();
    assert!(types.contains(&"llama") && types.contains(&"gpt2"), "{types:?}");
    assert!(models["short_names"].as_array().unwrap().iter().any(|one| one["name"] == "smollm2-135m"));
}

#[test]
fn a_wrong_command_line_exits_with_2_and_a_hint() {
    let sandbox = Sandbox::new();
    sandbox.run(&["edti"]).fails(2, &["edti", "edit"]);
    sandbox.run(&["edit", "--model", "model", "--promt", "x"]).fails(2, &["--promt", "--prompt"]);
    sandbox.run(&["generate", "--model", "model", "--prompt", "x", "--temperature", "0"]).fails(2, &["--temperature", "above 0"]);
    sandbox.run(&["generate", "--model", "model", "--prompt", "x", "--top-p", "2"]).fails(2, &["--top-p", "at most 1"]);
    sandbox.run(&["inspect"]).fails(2, &["FILE"]);
    assert_eq!(sandbox.run(&[]).code(), 2);
    let version = sandbox.run(&["--version"]).success().stdout();
    assert!(version.starts_with("easyedit "), "{version}");
}
