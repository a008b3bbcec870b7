//! A method made in a copy of the files that know methods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

/// A folder with the template and the files that are changed, and with ROME's folder.
fn copy() -> tempfile::TempDir {
    let root = crate::root().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    list(&root.join(TEMPLATE), Path::new(TEMPLATE), &mut files).unwrap();
    for (path, _) in registration::FILES {
        files.push((PathBuf::from(path), read(&root.join(path)).unwrap()));
    }
    files.push(("crates/methods/rome/Cargo.toml".into(), String::new()));
    files.push(("hparams/AlphaEdit/a.yaml".into(), String::new()));
    for (path, text) in files {
        let path = copy.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    copy
}

fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = Vec::new();
    list(root, Path::new(""), &mut files).unwrap();
    files.into_iter().collect()
}

fn make(root: &Path, name: &str, paper: Option<&str>) -> Result<()> {
    let names = Names::new(name, paper)?;
    Plan::new(root, &names)?.write(root)
}

#[test]
fn a_method_is_made_and_registered_once() {
    let copy = copy();
    let root = copy.path();
    let before = tree(root);
    make(root, "my-method2", Some("Doe, \"On PAPER and NewMethod\", 2024")).unwrap();
    let after = tree(root);
    let text = |path: &str| after[Path::new(path)].as_str();

    let new: Vec<String> =
        after.keys().filter(|path| !before.contains_key(*path)).map(|path| path.to_string_lossy().replace('\\', "/")).collect();
    let folder = "crates/methods/my-method2";
    let mut want: Vec<String> =
        ["Cargo.toml", "README.md", "src/hparams.rs", "src/insertion.rs", "src/lib.rs", "src/method.rs", "tests/my_method2_tiny_world.rs"]
            .map(|file| format!("{folder}/{file}"))
            .into();
    want.push("hparams/MY-METHOD2/tiny-world.yaml".into());
    assert_eq!(new, want);

    for path in new.iter().filter(|path| !path.ends_with("README.md") && !path.ends_with("lib.rs")) {
        let text = text(path).to_lowercase();
        assert!(!text.contains("newmethod") && !text.contains("paper"), "{path}");
    }
    assert!(text(&format!("{folder}/README.md")).contains("(Doe, \"On PAPER and NewMethod\", 2024)"));
    let manifest = text(&format!("{folder}/Cargo.toml"));
    assert!(manifest.contains("name = \"easyedit-my-method2\"") && !manifest.contains("publish"), "{manifest}");
    assert!(text(&format!("{folder}/src/method.rs")).contains("impl Method for MyMethod2 {"));
    let test = text(&format!("{folder}/tests/my_method2_tiny_world.rs"));
    assert!(
        test.contains("use easyedit_my_method2::MyMethod2;") && test.contains("\"../../../../hparams/MY-METHOD2/tiny-world.yaml\""),
        "{test}"
    );
    assert!(text("hparams/MY-METHOD2/tiny-world.yaml").contains("alg_name: \"MY-METHOD2\""));

    for (path, lines) in [
        ("Cargo.toml", &["easyedit-my-method2 = { path = \"crates/methods/my-method2\", version = \"0.1.0\" }"][..]),
        (
            "crates/easyedit/Cargo.toml",
            &["my-method2 = [\"dep:easyedit-my-method2\"]", "easyedit-my-method2 = { workspace = true, optional = true }"],
        ),
        (
            "crates/easyedit/src/lib.rs",
            &["    #[cfg(feature = \"my-method2\")]", "    registry.register::<easyedit_my_method2::MyMethod2>();"],
        ),
        ("docs/architecture.md", &["easyedit-my-method2 -> easyedit-kernels, easyedit-core"]),
    ] {
        for line in lines {
            assert_eq!(text(path).lines().filter(|other| other == line).count(), 1, "{path}: {line}");
        }
        // Nothing else has changed.
        let kept: Vec<&str> = text(path).lines().filter(|line| !line.contains("my-method2") && !line.contains("my_method2")).collect();
        assert!(kept.len() + 2 >= before[Path::new(path)].lines().count(), "{path}");
    }
    assert!(
        text("crates/easyedit/Cargo.toml").lines().any(|line| line.starts_with("default = [") && line.contains("\"rome\", \"my-method2\""))
    );
    assert!(text("docs/architecture.md").contains("easyedit -> easyedit-rome, easyedit-my-method2,"));

    let again = make(root, "my-method2", None).unwrap_err().to_string();
    assert!(again.contains("taken"), "{again}");
    assert_eq!(tree(root), after);
    make(root, "another", None).unwrap();
}

#[test]
fn names_that_cannot_be_are_refused_and_nothing_is_written() {
    let copy = copy();
    let before = tree(copy.path());
    for (name, part) in [
        ("", "letters"),
        ("My", "letters"),
        ("2x", "letters"),
        ("-x", "letters"),
        ("a--b", "letters"),
        ("a_b", "letters"),
        ("../x", "letters"),
        ("é", "letters"),
        (&"x".repeat(41), "41 characters"),
        ("rome", "crates/methods/rome"),
        ("easyedit", "crates/easyedit"),
        ("core", "Cargo.toml"),
        ("trace", "Cargo.toml"),
        ("hub", "crates/easyedit/Cargo.toml"),
        ("alphaedit", "AlphaEdit"),
        ("edit", "a name Edit"),
        ("self", "a name Self"),
        ("value-config", "a name ValueConfig"),
    ] {
        let message = make(copy.path(), name, None).map(|()| name).unwrap_err().to_string();
        assert!(message.contains(part), "{name}: {message}");
    }
    assert!(make(copy.path(), "good", Some("two\nlines")).is_err());
    assert_eq!(tree(copy.path()), before);
}

#[test]
fn what_was_written_is_taken_back_when_something_fails() {
    // A file where the folder of hyperparameters would be.
    let first = copy();
    fs::remove_dir_all(first.path().join("hparams")).unwrap();
    fs::write(first.path().join("hparams"), "in the way").unwrap();
    // A page that has lost its arrows.
    let second = copy();
    fs::write(second.path().join("docs/architecture.md"), "# Architecture\n").unwrap();
    for (copy, part) in [(first, "hparams"), (second, "docs/architecture.md")] {
        let before = tree(copy.path());
        let message = format!("{:#}", make(copy.path(), "good", None).unwrap_err());
        assert!(message.contains(part), "{message}");
        assert_eq!(tree(copy.path()), before);
        assert!(!copy.path().join("crates/methods/good").exists());
    }
}
