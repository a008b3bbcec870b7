//! A batch gives the same edit, bit for bit, with any number of threads and whatever the cache holds.
#![cfg(all(feature = "memit", feature = "emmet", feature = "pmet", feature = "alphaedit"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use easyedit::{CheckedRequest, Edit, EditRequest, Session, TextCorpora, hparams, tensor_values};
use easyedit_tiny_world as tiny_world;

/// Two of the first eight facts do not reach their loss threshold on the LLaMA: they go on for all steps, bouncing off the limit of their
/// size, where the smallest difference in a step grows to one of several percent.
const FACTS: usize = 8;
/// They differ in norms, positions, groups of heads, activations, and in how their weights lie.
const MODELS: [&str; 2] = ["llama", "gpt2"];

/// The edit of these facts at once, by a fresh method on so many threads.
fn edit(method: &str, model: &str, requests: &[EditRequest], threads: usize, cache: &Path) -> Edit {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let model = tiny_world::model(model).unwrap();
        let registry = easyedit::registry();
        let entry = registry.get(method).unwrap();
        let found = hparams::find(entry, &model.spec().name, model.spec()).unwrap();
        let mut method = entry.build(&found.document).unwrap();
        let corpora = TextCorpora { corpus: Some(tiny_world::folder().join("corpus.txt")) };
        let cache = cache.to_owned();
        let context = Session::new().with_corpora(corpora.clone()).with_cache(&cache);
        method.edit(&*model, &CheckedRequest::all(requests.iter().cloned()).unwrap(), &context).unwrap()
    })
}

fn values(cache: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(cache.join("values")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn check(method: &str) {
    let requests = &tiny_world::requests()[..FACTS];
    for model in MODELS {
        let cold = |threads| {
            let cache = tempfile::tempdir().unwrap();
            (edit(method, model, requests, threads, cache.path()), cache)
        };
        let (wanted, cache) = cold(1);
        let cpu = easyedit::device::select("cpu").unwrap();
        let changes = wanted.deltas.values().flat_map(|change| tensor_values(&change.delta.to_tensor(&cpu)).unwrap());
        assert!(changes.fold(0f32, |most, v| most.max(v.abs())) > 1e-3, "{method} {model}: nothing was changed");
        for threads in [2, 4] {
            assert!(cold(threads).0 == wanted, "{method} {model}: {threads} threads give another edit than one");
        }
        assert_eq!(values(cache.path()).len(), FACTS);
        assert!(edit(method, model, requests, 2, cache.path()) == wanted, "{method} {model}: a warm cache gives another edit");
        for (kept, threads) in [(0, 1), (1, 2)] {
            let files = values(cache.path());
            files.iter().skip(kept).step_by(2).for_each(|file| std::fs::remove_file(file).unwrap());
            assert!(
                edit(method, model, requests, threads, cache.path()) == wanted,
                "{method} {model}: a half-filled cache gives another edit"
            );
            assert_eq!(values(cache.path()), files);
        }
    }
}

#[test]
fn memit_does_not_depend_on_threads_or_caches() {
    check("MEMIT");
}

#[test]
fn emmet_does_not_depend_on_threads_or_caches() {
    check("EMMET");
}

#[test]
fn pmet_does_not_depend_on_threads_or_caches() {
    check("PMET");
}

#[test]
fn alphaedit_does_not_depend_on_threads_or_caches() {
    check("AlphaEdit");
}

#[test]
fn damaged_and_exchanged_values_are_found_again() {
    let (requests, cache) = (&tiny_world::requests()[..4], tempfile::tempdir().unwrap());
    let wanted = edit("MEMIT", "llama", requests, 2, cache.path());
    let files = values(cache.path());
    // The value of another request, of the same shape.
    std::fs::copy(&files[1], &files[0]).unwrap();
    assert!(edit("MEMIT", "llama", requests, 2, cache.path()) == wanted, "the value of another request was taken");
    for folder in ["values", "stats", "templates"] {
        for entry in std::fs::read_dir(cache.path().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let place = bytes.len() - 3;
            bytes[place] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        assert!(edit("MEMIT", "llama", requests, 2, cache.path()) == wanted, "a flipped bit in {folder} went unnoticed");
    }
}

/// Nobody can write there, not even root.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_folder_that_cannot_be_written_to_is_done_without() {
    let requests = &tiny_world::requests()[..2];
    let cache = tempfile::tempdir().unwrap();
    let wanted = edit("MEMIT", "llama", requests, 2, cache.path());
    assert!(edit("MEMIT", "llama", requests, 2, Path::new("/sys/easyedit-cache")) == wanted);
}
