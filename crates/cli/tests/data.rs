//! Looking into files of facts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::Sandbox;

const FACTS: &str = r#"[
  {"prompt": "The Louvre is in", "subject": "The Louvre", "target_new": "Oslo", "rephrase_prompt": ["Find the Louvre in", "Go to the Louvre in"],
   "locality_prompt": "Big Ben is in", "locality_ground_truth": ["London", "Londinium"]},
  {"prompt": "The Prado is in", "target_new": ""},
  {"prompt": "Ada speaks", "target_new": ["Welsh", "Cymraeg"]},
  {"target_new": "x"}
]"#;

#[test]
fn what_a_file_holds_and_lacks_is_said() {
    let sandbox = Sandbox::new();
    sandbox.write("facts.json", FACTS);
    let text = sandbox.run(&["data", "inspect", "facts.json", "--samples", "0"]).success().stdout();
    insta::assert_snapshot!(text, @r#"
    format    requests (EasyEdit, flat CounterFact, KnowEdit)
    records   4
    facts     2; 1 more have an empty target and are left out
      subject         1; of the others: methods that locate facts (ROME, MEMIT, KN and their kin) cannot edit them
      ground truth    none: what the model knew before is not compared
      other wordings  1; of the others: generalization is not measured
      locality        neighborhood 1
      portability     none: it is not measured
    left out  1 records that cannot be read
      record 3: the key prompt is missing
    "#);
    let found = sandbox.run(&["data", "inspect", "facts.json", "--json"]).success().json();
    assert_eq!(found["samples"][0]["rephrase_prompt"], serde_json::json!(["Find the Louvre in", "Go to the Louvre in"]));
    assert_eq!(found["samples"][0]["locality"]["neighborhood"][0]["aliases"], serde_json::json!(["Londinium"]));
    assert_eq!((&found["format"], &found["facts"], &found["with_aliases"]), (&"requests".into(), &2.into(), &1.into()));
    sandbox.run(&["data", "inspect", "facts.json", "--strict"]).fails(1, &["facts.json", "record 3", "prompt"]);
}

#[test]
fn files_that_are_no_facts_are_recognised() {
    let sandbox = Sandbox::new();
    sandbox.write("piqa.jsonl", "{\"goal\": \"Keep bread\", \"sol1\": \"Wrap it.\", \"sol2\": \"Soak it.\"}\n");
    let text = sandbox.run(&["data", "inspect", "piqa.jsonl", "--samples", "0"]).success().stdout();
    assert!(text.contains("PIQA") && text.contains("records   1"), "{text}");
    sandbox.run(&["edit", "--model", "model", "--requests", "piqa.jsonl"]).fails(1, &["piqa.jsonl", "PIQA"]);
    for (name, text) in [("empty.json", ""), ("numbers.json", "[1, 2]")] {
        sandbox.write(name, text);
        sandbox.run(&["data", "inspect", name]).fails(1, &[name]);
    }
}
