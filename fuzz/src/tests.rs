//! The targets without instrumentation: over their seeds, and over a few hundred mutations of them.

use crate::{caught, keep_panics_quiet, mutation, target};

/// Mutations of each target.
const MUTATIONS: u64 = 300;

/// Seeds that are refused, but late: files with blocks of every type, of which no model is made; others without all tensors; features of a
/// format that have no place in it.
const REFUSED: [(&str, &str); 15] = [
    ("gguf", "f16"),
    ("gguf", "q4_0"),
    ("gguf", "q4_1"),
    ("gguf", "q5_0"),
    ("gguf", "q5_1"),
    ("gguf", "q8_0"),
    ("gguf", "q2_k"),
    ("gguf", "q3_k"),
    ("gguf", "q4_k"),
    ("gguf", "q5_k"),
    ("gguf", "q6_k"),
    ("hparams", "anchors"),
    ("pytorch", "two-tensors"),
    ("pytorch", "deflated"),
    ("pytorch", "legacy"),
];

#[track_caller]
fn holds(name: &str) {
    keep_panics_quiet();
    let faults = faults(name);
    // Ours is to be read.
    let _ = std::panic::take_hook();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn faults(name: &str) -> Vec<String> {
    let target = target(name).unwrap();
    let mut faults = Vec::new();
    let seeds = (target.seeds)();
    for (seed, bytes) in &seeds {
        let mut accepted = false;
        if let Some(panic) = caught(|| accepted = (target.run)(bytes)) {
            faults.push(format!("seed {seed}: {panic}"));
        } else if accepted == REFUSED.contains(&(name, seed.as_str())) {
            faults.push(format!("seed {seed} is {}", if accepted { "accepted" } else { "refused" }));
        }
    }
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, bytes)| bytes).collect();
    for number in 0..MUTATIONS {
        let run = || {
            (target.run)(&mutation(&seeds, number));
        };
        faults.extend(caught(run).map(|panic| format!("mutation {number}: {panic}")));
    }
    faults
}

macro_rules! holds {
    ($($target:ident),* $(,)?) => {
        $(#[test]
        fn $target() {
            holds(stringify!($target));
        })*

        #[test]
        fn every_target_is_tested() {
            let tested = [$(stringify!($target)),*];
            let names: Vec<&str> = crate::targets().iter().map(|target| target.name).collect();
            assert_eq!(names, tested);
        }
    };
}

holds!(adapters, caches, dumps, edits, gguf, hparams, npz, pytorch, requests, safetensors, sentencepiece, tokenizer);
