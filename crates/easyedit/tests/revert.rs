//! Edits of real methods, taken back out of the checkpoints they were saved to.
#![cfg(all(feature = "rome", feature = "memit", feature = "ft", feature = "lora", feature = "kn"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod there_and_back;

use easyedit::models::WeightType;
use easyedit_tiny_world as tiny_world;
use there_and_back::{Outcome, Workshop};

#[test]
fn what_methods_change_is_taken_back_byte_for_byte() {
    let workshop = Workshop::new().unwrap();
    let requests = tiny_world::requests();
    for (model, kind, methods) in [
        ("llama", WeightType::F16, &["ROME", "FT", "LoRA", "KN", "MEMIT"][..]),
        ("gpt2", WeightType::Bf16, &["ROME", "FT", "KN"]),
        ("t5", WeightType::F32, &["FT", "LoRA"]),
    ] {
        for method in methods {
            match workshop.there_and_back(model, kind, method, &requests[..2]).unwrap() {
                Outcome::Same(ways) => assert!(!ways.is_empty(), "{method} {model}: nothing was edited"),
                Outcome::NotEdited(why) | Outcome::Different(why) => panic!("{method} {model} {}: {why}", kind.name()),
            }
        }
    }
}

/// One of the layers that it edits does not change as it is stored.
#[test]
fn an_edit_that_changes_nothing_in_one_of_its_layers_is_taken_back() {
    let requests: Vec<_> = tiny_world::requests().into_iter().filter(|request| request.subject.as_deref() == Some("Thea Vance")).collect();
    let request = requests.iter().find(|request| request.target_new == "Fennish").unwrap();
    let workshop = Workshop::new().unwrap();
    let outcome = workshop.there_and_back("llama", WeightType::F16, "ROME", std::slice::from_ref(request)).unwrap();
    assert!(matches!(outcome, Outcome::Same(_)), "the program refuses its own checkpoint");
}
