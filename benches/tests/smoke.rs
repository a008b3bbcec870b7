//! Every section runs once on a tiny model, so that none of them rots.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit_benches::{SECTIONS, Workload, WorkloadOptions, measure};

#[test]
fn every_section_is_timed_on_a_tiny_model() {
    let workload = Workload::load("tiny-world-llama", WorkloadOptions { tokens: 300, ..WorkloadOptions::default() }).unwrap();
    for section in SECTIONS {
        // A hundred tiny edits take seconds, and ten show as much.
        if section.long {
            continue;
        }
        let measured = measure(&mut section.prepare(&workload).unwrap(), 1).unwrap();
        assert_eq!(measured.samples.len(), 1, "{}", section.name);
        let count = |name: &str| measured.counts[name].as_u64().unwrap();
        match section.name {
            "forward" => assert_eq!(count("tokens"), 12 * 17),
            // Six more passes in each of the two layers its file edits.
            "value-step" => assert_eq!(count("passes"), 12),
            "moments-1" => assert_eq!((count("layers"), count("tokens")), (1, 300)),
            "moments-5" => assert!(count("layers") > 1 && count("tokens") == 300),
            "evaluate-100" => assert_eq!(count("records"), 100),
            "memit-10" => assert!(count("edits") == 10 && count("passes") > 10),
            _ => assert!(count("edits") == 1 && count("passes") > 1, "{}", section.name),
        }
    }
}

#[test]
fn a_workload_with_too_few_facts_says_so() {
    let workload = Workload::load("tiny-world-gpt2", WorkloadOptions::default()).unwrap();
    let memit = SECTIONS.iter().find(|section| section.name == "memit-1000").unwrap();
    let message = memit.prepare(&workload).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("420 facts") && message.contains("1000"), "{message}");
}

#[test]
fn a_model_that_is_not_there_is_an_error() {
    assert!(Workload::load("tiny-world-none", WorkloadOptions::default()).is_err());
    let options = WorkloadOptions { device: "gpu".into(), ..WorkloadOptions::default() };
    assert!(Workload::load("tiny-world-llama", options).is_err());
}
