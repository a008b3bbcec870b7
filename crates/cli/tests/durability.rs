//! What a run has made stays: through names that clash, signals, odd paths, and flags that name the wrong file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::{Run, Sandbox};
use easyedit::Edit;
use serde_json::{Value, json};

/// Writes `count` requests to `many.json`.
fn write_requests(sandbox: &Sandbox, count: usize, case_id: impl Fn(usize) -> usize) {
    let request =
        |index: usize| json!({"case_id": case_id(index), "prompt": "The Louvre is in", "subject": "The Louvre", "target_new": "Rome"});
    sandbox.write("many.json", &Value::Array((0..count).map(request).collect()).to_string());
}

const MANY: [&str; 8] = ["edit", "--model", "model", "--hparams", "tiny.yaml", "--requests", "many.json", "--no-evaluation"];

fn edit_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default();
    let mut files: Vec<PathBuf> = entries;
    files.retain(|path| path.to_string_lossy().ends_with(".edit.safetensors"));
    files.sort();
    files
}

#[test]
fn records_of_one_case_id_and_subject_are_files_of_their_own() {
    let sandbox = Sandbox::new();
    write_requests(&sandbox, 3, |_| 7);
    let result = sandbox.run(&[&MANY[..], &["--out", "out", "--json"]].concat()).success().json();
    let saved: BTreeSet<PathBuf> =
        result["saved"]["edits"].as_array().unwrap().iter().map(|path| sandbox.path(path.as_str().unwrap())).collect();
    assert_eq!(saved, edit_files(&sandbox.path("out")).into_iter().collect(), "what is listed as saved is what is on disk");
    assert_eq!(saved.len(), 3);
}

#[test]
fn a_second_run_replaces_edits_only_when_asked() {
    let sandbox = Sandbox::new();
    let edit = |seed: &str, more: &[&str]| {
        let run = sandbox.edit(&[&["--no-evaluation", "--json", "--out", "out", "--seed", seed], more].concat()).success();
        let path = sandbox.path(run.json()["saved"]["edits"][0].as_str().unwrap());
        assert_eq!(Edit::load(&path).unwrap().seed.to_string(), seed);
        path
    };
    let first = edit("1", &[]);
    let second = edit("2", &[]);
    assert_ne!(first, second);
    assert_eq!(edit("1", &[]), first, "the same edit is one file");
    assert_eq!(Edit::load(&first).unwrap().seed, 1);
    assert_eq!(edit_files(&sandbox.path("out")).len(), 2);
    assert_eq!(edit("3", &["--overwrite"]), first);
    assert_eq!(edit_files(&sandbox.path("out")).len(), 2);
}

#[cfg(unix)]
#[test]
fn a_signal_leaves_what_is_finished_and_names_it() {
    const COUNT: usize = 60;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let sandbox = Sandbox::new();
        write_requests(&sandbox, COUNT, |index| index);
        let arguments = [&MANY[..], &["--out", "out", "--report", "report.jsonl"]].concat();
        let mut command = sandbox.command();
        command.args(&arguments).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        while edit_files(&sandbox.path("out")).len() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        // SAFETY: the child was started here and not waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(child.id().cast_signed(), signal) }, 0);
        let run = Run(child.wait_with_output().unwrap());
        let kept = edit_files(&sandbox.path("out"));
        assert!((3..COUNT).contains(&kept.len()), "{} of {COUNT} were finished: {}", kept.len(), run.stderr());
        assert_eq!(run.code(), 130, "{}", run.stderr());
        for path in &kept {
            Edit::load(path).unwrap();
        }
        let named = |path: &Path| run.stderr().contains(&*path.file_name().unwrap().to_string_lossy());
        assert!(run.stderr().starts_with("interrupted\n") && named(&kept[0]) && run.stderr().contains("same command"), "{}", run.stderr());
        assert!(run.stderr().contains("report.jsonl.partial"), "{}", run.stderr());
        let left: Vec<_> = sandbox.listing().into_iter().filter(|path| path.to_string_lossy().contains(".easyedit-")).collect();
        assert!(left.is_empty(), "half-written files are removed: {left:?}");

        sandbox.run(&arguments).success();
        let all = edit_files(&sandbox.path("out"));
        assert_eq!(all.len(), COUNT, "the same command makes the rest, and nothing twice");
        assert!(kept.iter().all(|path| all.contains(path)));
        assert_eq!(std::fs::read_to_string(sandbox.path("report.jsonl")).unwrap().lines().count(), COUNT + 1);
    }
}

#[cfg(unix)]
#[test]
fn paths_that_are_not_utf8_are_written_and_shown() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let sandbox = Sandbox::new();
    let odd = |name: &[u8]| OsStr::from_bytes(name).to_owned();
    let request = ["--prompt", "The Eiffel Tower is in", "--subject", "The Eiffel Tower", "--target", "Rome"];
    let run = |arguments: &[&OsStr]| Run(sandbox.command().args(arguments).output().unwrap());
    let text = |words: &[&'static str]| words.iter().map(|word| OsStr::new(*word).to_owned()).collect::<Vec<_>>();
    for json in [true, false] {
        let out = odd(if json { b"out\xff" } else { b"text\xff" });
        let mut arguments = text(&["edit", "--model", "model", "--hparams", "tiny.yaml", "--save", "both"]);
        arguments.extend(text(&request));
        arguments.extend([odd(b"--out"), out.clone(), odd(b"--report"), odd(b"report\xfe.jsonl")]);
        arguments.extend(text(if json { &["--json"] } else { &[] }));
        let ended = run(&arguments.iter().map(|word| word.as_os_str()).collect::<Vec<_>>()).success();
        assert!(ended.stdout().contains('\u{fffd}'), "{}", ended.stdout());
        let folder = sandbox.path("").join(&out);
        assert_eq!(edit_files(&folder).len(), 1);
        assert!(folder.join("config.json").is_file() && sandbox.path("").join(odd(b"report\xfe.jsonl")).is_file());

        let mut applied = text(&["apply", "--model", "model", "--json", "--edit"]);
        applied.extend([edit_files(&folder).remove(0).into_os_string(), odd(b"--out"), odd(if json { b"a\xff" } else { b"b\xff" })]);
        let applied_to = applied.last().unwrap().clone();
        run(&applied.iter().map(|word| word.as_os_str()).collect::<Vec<_>>()).success();

        let edit = edit_files(&folder).remove(0).into_os_string();
        let name = |rest: &[u8]| odd(&[if json { b"json-" } else { b"text-" }, rest].concat());
        let mut exported = text(&["export", "--format", "peft", "--model", "model", "--json"]);
        exported.extend([edit.clone(), odd(b"--out"), name(b"adapter\xff")]);
        run(&exported.iter().map(|word| word.as_os_str()).collect::<Vec<_>>()).success();
        // A model is named in text, so its folder needs a name that is UTF-8.
        let back = name(b"applied");
        std::fs::rename(sandbox.path("").join(applied_to), sandbox.path("").join(&back)).unwrap();
        let mut reverted = text(&["revert", "--base", "model", "--json", "--edit"]);
        reverted.extend([edit, odd(b"--model"), back, odd(b"--out"), name(b"back\xff")]);
        run(&reverted.iter().map(|word| word.as_os_str()).collect::<Vec<_>>()).success();
    }
}

#[test]
fn results_replace_no_input() {
    let sandbox = Sandbox::new();
    write_requests(&sandbox, 1, |index| index);
    let weights = std::fs::read(sandbox.path("model/model.safetensors")).unwrap();
    let before = sandbox.listing();
    for report in ["model/model.safetensors", "many.json", "tiny.yaml", "./model/../many.json"] {
        sandbox.run(&[&MANY[..], &["--report", report]].concat()).fails(2, &["--report", "would replace"]);
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(sandbox.path("model/config.json"), sandbox.path("link")).unwrap();
        sandbox.run(&[&MANY[..], &["--report", "link"]].concat()).fails(2, &["--report", "would replace"]);
        std::fs::remove_file(sandbox.path("link")).unwrap();
        sandbox.run(&[&MANY[..], &["--report", "/dev/null"]].concat()).fails(1, &["/dev/null", "device"]);
    }
    sandbox.run(&[&MANY[..], &["--report", "model"]].concat()).fails(1, &["is a folder"]);
    let trace = ["trace", "--model", "model", "--prompt", "The Louvre is in", "--subject", "The Louvre", "--target", "Paris"];
    for flag in ["--report", "--write-hparams"] {
        sandbox.run(&[&trace[..], &[flag, "model/config.json"]].concat()).fails(2, &[flag, "would replace"]);
    }
    sandbox.run(&[&trace[..], &["--report", "x", "--write-hparams", "x"]].concat()).fails(2, &["both name"]);
    assert_eq!(sandbox.listing(), before);
    assert_eq!(std::fs::read(sandbox.path("model/model.safetensors")).unwrap(), weights);
}
