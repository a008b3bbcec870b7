//! Work on a model that is asked to end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use easyedit_core::{GenerationConfig, OutputFolder, Progress, Session, device, generate_while};
use easyedit_models::tiny::write_tiny_checkpoint;
use easyedit_models::{Checkpoint, Error, save_checkpoint_into};

/// Asks the work to end when it has been asked `left` times whether it is to.
struct After {
    left: AtomicUsize,
    steps: AtomicUsize,
}

impl After {
    fn asked(times: usize) -> Self {
        Self { left: AtomicUsize::new(times), steps: AtomicUsize::new(0) }
    }
}

impl Progress for After {
    fn begin(&self, _: &str, _: Option<u64>) {}

    fn advance(&self, steps: u64) {
        self.steps.fetch_add(steps as usize, Ordering::Relaxed);
    }

    fn remark(&self, _: &str) {}

    fn end(&self) {}

    fn is_cancelled(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

fn checkpoint(folder: &std::path::Path) -> Checkpoint {
    write_tiny_checkpoint("llama", 7, folder).unwrap();
    Checkpoint::open(folder).unwrap()
}

#[test]
fn loading_ends_between_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    let cpu = device::select("cpu").unwrap();
    let progress = After::asked(4);
    let error = checkpoint.load_while(&cpu, &progress).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Core(easyedit_core::Error::Cancelled)), "{error}");
    assert_eq!(progress.steps.into_inner(), 5);
    let all = After::asked(usize::MAX);
    checkpoint.load_while(&cpu, &all).unwrap();
    assert!(all.steps.into_inner() > 5);
}

#[test]
fn writing_ends_between_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let model = checkpoint(dir.path()).load(&device::select("cpu").unwrap()).unwrap();
    let config = GenerationConfig { ignore_eos: true, ..GenerationConfig::greedy(6) };
    let write = |times| generate_while(&*model, &[vec![5u32, 6]], &config, &After::asked(times));
    assert!(matches!(write(5), Err(easyedit_core::Error::Cancelled)));
    assert_eq!(write(6).unwrap()[0].ids.len(), 6);
}

#[test]
fn a_save_that_is_cancelled_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&dir.path().join("in"));
    let out = dir.path().join("out");
    let session = Session::new();
    let save = || save_checkpoint_into(&checkpoint, &BTreeMap::new(), &[], &OutputFolder::claim(&out).unwrap(), session.progress());
    session.cancel();
    let error = save().map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Core(easyedit_core::Error::Cancelled)), "{error}");
    assert!(!out.exists());
}
