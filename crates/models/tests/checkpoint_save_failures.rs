//! Saving that fails: an error that names the thing, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checkpoint_support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use checkpoint_support::*;
use easyedit_core::{Edit, Matrix, OutputFolder, ParamName, Silent, Tokenizer};
use easyedit_models::*;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a checkpoint in `in`.
fn place(kind: WeightType) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(&dir.path().join("in"), tensors(kind), false);
    dir
}

#[track_caller]
fn fails(dir: &TempDir, changed: &BTreeMap<ParamName, Matrix>, edits: &[Edit], out: &Path, parts: &[&str]) {
    let checkpoint = Checkpoint::open(&dir.path().join("in")).unwrap();
    let before = tree(dir.path());
    let message = save_checkpoint(&checkpoint, changed, edits, out).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    let after = tree(dir.path());
    assert!(before == after, "left behind: {:?}", after.keys().filter(|k| !before.contains_key(*k)).collect::<Vec<_>>());
}

#[test]
fn the_model_itself_is_never_overwritten() {
    let dir = place(WeightType::F32);
    let input = dir.path().join("in");
    let own = "own folder";
    fails(&dir, &BTreeMap::new(), &[], &input, &[own]);
    fails(&dir, &BTreeMap::new(), &[], &input.join("../in/."), &[own]);
    #[cfg(unix)]
    {
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        fails(&dir, &BTreeMap::new(), &[], &link, &[own]);
        fails(&dir, &BTreeMap::new(), &[], &dir.path().join("link/../in"), &[own]);
    }
}

#[test]
fn folders_that_cannot_take_a_checkpoint_are_refused() {
    let dir = place(WeightType::F32);
    let out = dir.path().join("out");
    fs::write(dir.path().join("file"), "x").unwrap();
    fails(&dir, &BTreeMap::new(), &[], &dir.path().join("file"), &["is a file"]);
    fails(&dir, &BTreeMap::new(), &[], &dir.path().join("file/sub"), &["file/sub"]);
    for name in ["config.json", "model-00001-of-00002.safetensors", "easyedit.json", "x.gguf"] {
        fs::create_dir(&out).unwrap();
        fs::write(out.join(name), "x").unwrap();
        fails(&dir, &BTreeMap::new(), &[], &out, &[name, "--out"]);
        fs::remove_dir_all(&out).unwrap();
    }
    for name in ["README.md", "tokenizer.json"] {
        fs::create_dir(&out).unwrap();
        fs::write(out.join(name), "not ours").unwrap();
        fails(&dir, &BTreeMap::new(), &[], &out, &[name, "overwritten"]);
        fs::remove_dir_all(&out).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_not_writable_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let dir = place(WeightType::F32);
    let out = dir.path().join("locked");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(out.join("probe"), "").is_ok() {
        println!("skipped: this user may write anywhere");
        return;
    }
    fails(&dir, &BTreeMap::new(), &[], &out, &["locked", "write"]);
    fails(&dir, &BTreeMap::new(), &[], &out.join("sub"), &["locked/sub"]);
}

#[test]
fn two_runs_do_not_write_to_one_folder() {
    let dir = place(WeightType::F32);
    let out = dir.path().join("out");
    let claim = OutputFolder::claim(&out).unwrap();
    fails(&dir, &BTreeMap::new(), &[], &out, &["another run"]);
    let checkpoint = Checkpoint::open(&dir.path().join("in")).unwrap();
    save_checkpoint_into(&checkpoint, &BTreeMap::new(), &[], &claim, &Silent).unwrap();
    drop(claim);
    assert!(Checkpoint::open(&out).is_ok());
}

#[test]
fn changes_that_do_not_fit_are_refused_before_anything_is_written() {
    let dir = place(WeightType::F16);
    let out = dir.path().join("out");
    let mut bad = values(15, 0.0);
    fails(&dir, &changed("model.nowhere.weight", 3, 5, bad.clone()), &[], &out, &["model.nowhere.weight", "not in the checkpoint"]);
    fails(&dir, &changed(A, 5, 3, bad.clone()), &[], &out, &[A, "[5, 3]", "[3, 5]"]);
    fails(&dir, &changed(NORM, 5, 1, values(5, 0.0)), &[], &out, &[NORM, "[5, 1]"]);
    fails(&dir, &changed("position_ids", 1, 2, values(2, 0.0)), &[], &out, &["position_ids", "I64"]);
    bad[3] = 70000.0;
    fails(&dir, &changed(A, 3, 5, bad.clone()), &[], &out, &[A, "70000", "F16"]);
    bad[3] = f32::NAN;
    fails(&dir, &changed(A, 3, 5, bad), &[], &out, &[A, "NaN"]);
    fails(&dir, &changed(A, 3, 5, values(15, 0.0)), &[edit(B, 3, 5)], &out, &[B, "ROME"]);
}

/// What a kill leaves: the list of files, some of them in place, the others in the hidden folder.
#[test]
fn a_save_that_was_killed_between_two_moves_is_repeated_by_the_same_call() {
    let dir = place(WeightType::F16);
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    let checkpoint = Checkpoint::open(&dir.path().join("in")).unwrap();
    let saved = save_checkpoint(&checkpoint, &changed(A, 3, 5, values(15, 1.0)), &[edit(A, 3, 5)], &whole).unwrap();
    let (last, first): (Vec<&String>, Vec<&String>) = saved.files.iter().partition(|name| *name == "config.json");
    let order: Vec<&String> = first.into_iter().chain(last).collect();
    for moved in 0..=order.len() {
        let staging = out.join(".easyedit-staging-killed");
        fs::create_dir_all(&staging).unwrap();
        fs::write(out.join("mine.edit.safetensors"), "mine").unwrap();
        fs::write(out.join(easyedit_core::INCOMPLETE_FILE), serde_json::json!({ "files": order }).to_string()).unwrap();
        for (number, name) in order.iter().enumerate() {
            let place = if number < moved { &out } else { &staging };
            fs::copy(whole.join(name), place.join(name)).unwrap();
        }
        check_output(&checkpoint, &out).unwrap();
        save_checkpoint(&checkpoint, &changed(A, 3, 5, values(15, 1.0)), &[edit(A, 3, 5)], &out).unwrap();
        let mut want = tree(&whole);
        want.insert(whole.join("mine.edit.safetensors"), b"mine".into());
        let inside = |tree: BTreeMap<std::path::PathBuf, Vec<u8>>, folder: &Path| -> BTreeMap<_, _> {
            tree.into_iter().map(|(path, bytes)| (path.strip_prefix(folder).unwrap().to_owned(), bytes)).collect()
        };
        assert!(inside(tree(&out), &out) == inside(want, &whole), "after {moved} moves: {:?}", tree(&out).keys());
        // Complete, it is refused as before.
        assert!(check_output(&checkpoint, &out).unwrap_err().to_string().contains("already"));
        fs::remove_dir_all(&out).unwrap();
    }
}

/// A checkpoint of another format whose last tensor cannot be read.
struct Failing(HuggingFaceFolder);

impl TensorSource for Failing {
    fn names(&self) -> Vec<String> {
        self.0.tensors().names()
    }

    fn contains(&self, name: &str) -> bool {
        self.0.tensors().contains(name)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        if name == NORM {
            return Err(Error::tensor(name, self.path(), "is damaged"));
        }
        self.0.tensors().read(name, shape)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl CheckpointFiles for Failing {
    fn config(&self) -> &Value {
        self.0.config()
    }

    fn tensors(&self) -> &dyn TensorSource {
        self
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(name)
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        self.0.tokenizer()
    }

    fn companions(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        self.0.companions()
    }
}

#[test]
fn a_source_that_fails_half_way_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    let mut weights = tensors(WeightType::F32);
    weights.pop();
    write_checkpoint(&input, weights, false);
    let before = tree(dir.path());
    let files = Failing(HuggingFaceFolder::open(&input).unwrap());
    let checkpoint = Checkpoint::from_files(&input.join("x.gguf"), Box::new(files));
    let message = save_checkpoint(&checkpoint, &BTreeMap::new(), &[], &dir.path().join("out")).unwrap_err().to_string();
    assert!(message.contains(NORM) && message.contains("damaged"), "{message}");
    assert!(before == tree(dir.path()));
}
