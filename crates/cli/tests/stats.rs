//! `easyedit stats`: killed and resumed, in shards, on any number of threads, always the same bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Sandbox;

/// Few tokens at once, so that there are many chunks to be interrupted between.
const STATS: [&str; 9] = ["stats", "--model", "model", "--layers", "0,1", "--corpus", "text.txt", "--chunk-tokens", "64"];

/// A sandbox with a text of `documents` documents.
fn sandbox(documents: usize) -> Sandbox {
    let sandbox = Sandbox::new();
    let documents: Vec<String> = (0..documents).map(|i| format!("Document {i} says: {}", "some words ".repeat(i % 7))).collect();
    sandbox.write("text.txt", &documents.join("\n\n"));
    sandbox
}

/// The program with a cache folder of its own.
fn program(sandbox: &Sandbox, cache: &str, threads: usize, more: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("easyedit"));
    command
        .current_dir(sandbox.path("."))
        .env_clear()
        .env("HOME", sandbox.path("."))
        .env("EASYEDIT_CACHE", sandbox.path(cache))
        .env("RAYON_NUM_THREADS", threads.to_string())
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[track_caller]
fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The finished statistics in a cache folder, by name.
fn finished(sandbox: &Sandbox, cache: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(sandbox.path(cache).join("stats")) else {
        return BTreeMap::new();
    };
    let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("model."));
    files.map(|path| (PathBuf::from(path.file_name().unwrap()), std::fs::read(&path).unwrap())).collect()
}

/// The file of sums in a cache folder.
fn sums(cache: &Path) -> Option<Vec<u8>> {
    let entries = std::fs::read_dir(cache.join("stats")).ok()?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let path = names.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("unfinished")))?;
    std::fs::read(path).ok()
}

/// The next chunk, as the sums' header tells it.
fn next_chunk(sums: &[u8]) -> usize {
    let header = String::from_utf8_lossy(&sums[..sums.len().min(1 << 14)]).into_owned();
    // However deep the quotation marks are quoted.
    let (_, number) = header.split_once("next").unwrap();
    let number = number.trim_start_matches(['\\', '"', ':']);
    number[..number.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
}

/// Waits until the sums have been kept `times` times; whether they were before the program ended.
fn wait_for_checkpoints(child: &mut Child, cache: &Path, times: usize) -> bool {
    let begun = Instant::now();
    let mut last = sums(cache);
    let mut seen = 0;
    while seen < times {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint was made");
        std::thread::sleep(Duration::from_millis(1));
        let now = sums(cache);
        if now.is_some() && now != last {
            (seen, last) = (seen + 1, now);
        }
    }
    true
}

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_bytes() {
    let sandbox = sandbox(800);
    succeeds(program(&sandbox, "whole", 2, &STATS));
    let want = finished(&sandbox, "whole");
    assert_eq!(want.len(), 2);
    let eager = [&STATS[..], &["--checkpoint-every", "0"]].concat();
    let cache = sandbox.path("killed");
    // Pseudo-random numbers of checkpoints and milliseconds, the same in every run of the test.
    let mut random = 12_345u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let (mut killed_midway, mut completed, mut reached) = (0, 0, 0);
    for _ in 0..20 {
        let mut child = program(&sandbox, "killed", 2, &eager).spawn().unwrap();
        let midway = wait_for_checkpoints(&mut child, &cache, 1 + draw(4) as usize);
        std::thread::sleep(Duration::from_millis(draw(8)));
        // SIGKILL: the program cannot do anything about it.
        child.kill().unwrap();
        child.wait().unwrap();
        let done = finished(&sandbox, "killed");
        if done.len() == want.len() {
            assert!(done == want, "the bytes differ after {killed_midway} interruptions");
            (completed, reached) = (completed + 1, 0);
            std::fs::remove_dir_all(&cache).unwrap();
        } else if midway {
            let next = next_chunk(&sums(&cache).expect("the sums are kept"));
            assert!(next > reached, "the run did not go on at chunk {reached}: it is at {next}");
            (killed_midway, reached) = (killed_midway + 1, next);
        }
    }
    succeeds(program(&sandbox, "killed", 1, &eager));
    assert!(finished(&sandbox, "killed") == want, "the bytes differ after the last interruption");
    assert!(sums(&cache).is_none(), "the sums are not needed any more");
    assert!(killed_midway >= 10, "only {killed_midway} of 20 runs were killed midway ({completed} completed)");
}

#[test]
fn shards_on_any_number_of_threads_merge_to_the_same_bytes() {
    let sandbox = sandbox(60);
    succeeds(program(&sandbox, "whole", 1, &STATS));
    let want = finished(&sandbox, "whole");
    for (of, threads) in [(1, 3), (2, 2), (8, 1)] {
        let mut files = Vec::new();
        for index in 1..=of {
            let (shard, file) = (format!("{index}/{of}"), format!("shard-{index}-of-{of}"));
            succeeds(program(&sandbox, "shards", threads, &[&STATS[..], &["--shard", &shard, "--out", &file]].concat()));
            files.insert(0, file);
        }
        let merge: Vec<&str> = ["stats", "merge"].into_iter().chain(files.iter().map(String::as_str)).collect();
        succeeds(program(&sandbox, &format!("merged-{of}"), threads, &merge));
        assert!(finished(&sandbox, &format!("merged-{of}")) == want, "{of} shards");
    }
    // A finished shard is left as it is.
    let written = std::fs::metadata(sandbox.path("shard-1-of-2")).unwrap().modified().unwrap();
    succeeds(program(&sandbox, "shards", 2, &[&STATS[..], &["--shard", "1/2", "--out", "shard-1-of-2"]].concat()));
    assert_eq!(std::fs::metadata(sandbox.path("shard-1-of-2")).unwrap().modified().unwrap(), written);
    let out = sandbox.path("shard-2-of-2");
    sandbox.run(&["stats", "merge", "shard-1-of-2"]).fails(1, &["missing: 2/2"]);
    sandbox.run(&["stats", "merge", "shard-1-of-2", "shard-1-of-2"]).fails(1, &["once more"]);
    sandbox.run(&["stats", "merge", "shard-1-of-8", "shard-1-of-2"]).fails(1, &["shard-1-of-2", "number of shards"]);
    sandbox.run(&["stats", "merge", "text.txt"]).fails(1, &["text.txt", "no file of sums"]);
    sandbox.run(&[&STATS[..], &["--shard", "1/2", "--out", "text.txt"]].concat()).fails(2, &["text.txt", "would replace"]);
    sandbox.write("notes.txt", "something else");
    sandbox.run(&[&STATS[..], &["--shard", "1/2", "--out", "notes.txt"]].concat()).fails(1, &["notes.txt", "no file of sums"]);
    std::fs::write(&out, &std::fs::read(&out).unwrap()[..900]).unwrap();
    sandbox.run(&["stats", "merge", "shard-1-of-2", "shard-2-of-2"]).fails(1, &["shard-2-of-2"]);
}

#[test]
fn a_shard_that_was_killed_is_not_merged_and_goes_on() {
    let sandbox = sandbox(400);
    let shard = [&STATS[..], &["--shard", "1/1", "--out", "killed.sums", "--checkpoint-every", "0"]].concat();
    let mut child = program(&sandbox, "cache", 2, &shard).spawn().unwrap();
    let begun = Instant::now();
    while !sandbox.path("killed.sums").exists() {
        assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60), "no checkpoint was made");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    sandbox.run(&["stats", "merge", "killed.sums"]).fails(1, &["killed.sums", "not finished", "run it again"]);
    succeeds(program(&sandbox, "cache", 2, &shard));
    succeeds(program(&sandbox, "merged", 2, &["stats", "merge", "killed.sums"]));
    succeeds(program(&sandbox, "whole", 2, &STATS));
    assert!(finished(&sandbox, "merged") == finished(&sandbox, "whole"));
}

#[test]
fn texts_come_from_files_folders_and_the_model() {
    let sandbox = sandbox(5);
    std::fs::create_dir(sandbox.path("texts")).unwrap();
    sandbox.write("texts/a.txt", "One text.\n\nTwo texts.");
    sandbox.write("texts/b.jsonl", "{\"text\": \"Three texts.\"}\n{\"text\": \"Four.\"}");
    let tokens = |more: &[&str]| {
        let run = sandbox.run(&[&["stats", "--model", "model", "--layers", "1", "--json"], more].concat()).success();
        run.json()["layers"][0]["tokens"].as_u64().unwrap()
    };
    // One token for every byte.
    assert_eq!(tokens(&["--corpus", "texts"]), 36);
    assert_eq!(tokens(&["--corpus", "texts", "--tokens", "20"]), 20);
    assert_eq!(tokens(&["--corpus", "texts", "--samples", "4"]), 36);
    assert!((5..=12).contains(&tokens(&["--corpus", "texts", "--samples", "1"])));
    assert_eq!(tokens(&["--corpus", "self", "--tokens", "150"]), 150);
    assert_eq!(tokens(&[]), 640, "ten tokens per dimension of the keys, of the text that is built in");
    assert_eq!(
        tokens(&["--method", "ROME", "--corpus", "text.txt"]),
        std::fs::read_to_string(sandbox.path("text.txt")).unwrap().replace("\n\n", "").replace(" Document", "Document").trim_end().len()
            as u64
    );
    sandbox.run(&["stats", "--model", "model", "--layers", "1", "--corpus", "nowhere"]).fails(1, &["nowhere", "--corpus"]);
    sandbox.run(&["stats", "--model", "model", "--layers", "1", "--shard", "3/2", "--out", "x"]).fails(2, &["3/2"]);
    sandbox.run(&["stats", "--model", "model", "--layers", "1", "--shard", "1/2"]).fails(2, &["--out"]);
    sandbox.run(&["stats", "--model", "model"]).fails(2, &["--layers"]);
    sandbox.run(&["stats"]).fails(2, &["--model"]);
}

#[test]
fn edits_use_text_of_the_model_and_statistics_of_easyedit() {
    let sandbox = sandbox(5);
    let own = common::HPARAMS.replace("wikitext-sample", "self").replace("mom2_adjustment: false", "mom2_adjustment: true");
    sandbox.write("tiny.yaml", &own);
    sandbox.edit(&["--no-evaluation"]).success();
    // Of another program, whose corpus is not here.
    let export = ["stats", "--model", "model", "--layers", "1", "--samples", "10", "--export-npz", "exported", "--json"];
    let npz = sandbox.run(&export).success().json()["layers"][0]["npz"].as_str().unwrap().to_owned();
    assert!(npz.ends_with("exported/model/wikitext-sample_stats/model.layers.1.mlp.down_proj_float32_mom2_10.npz"), "{npz}");
    let folder = sandbox.path("stats/tiny/wikipedia_stats");
    std::fs::create_dir_all(&folder).unwrap();
    let there = folder.join("model.layers.1.mlp.down_proj_float32_mom2_10.npz");
    std::fs::rename(sandbox.path(&npz), &there).unwrap();
    let hparams = own.replace("\"self\"", "\"wikipedia\"");
    sandbox.write("tiny.yaml", &hparams);
    sandbox.edit(&["--no-evaluation"]).fails(1, &["wikipedia", "stats import"]);
    sandbox.write("tiny.yaml", &format!("{hparams}stats_dir: \"./stats\"\n"));
    let run = sandbox.edit(&["--no-evaluation", "-v"]).success();
    assert!(run.stderr().contains("are EasyEdit's") && run.stderr().contains("wikipedia_stats"), "{}", run.stderr());
    // Imported, they are found without the folder.
    let run = sandbox.run(&["stats", "import", "--model", "model", there.to_str().unwrap()]).success();
    assert!(run.stdout().contains("mom2_dataset: wikipedia, mom2_n_samples: 10"), "{}", run.stdout());
    sandbox.write("tiny.yaml", &hparams);
    sandbox.edit(&["--no-evaluation"]).success();
    let renamed = sandbox.path("renamed.npz");
    std::fs::rename(there, &renamed).unwrap();
    let import = ["stats", "import", "--model", "model", "renamed.npz"];
    sandbox.run(&import).fails(1, &["renamed.npz", "--layer"]);
    sandbox.run(&[&import[..], &["--layer", "1"]].concat()).fails(1, &["renamed.npz", "--corpus"]);
    sandbox.run(&[&import[..], &["--layer", "1", "--corpus", "wikitext"]].concat()).success();
    sandbox.run(&["stats", "import", "--model", "model", "--layer", "1", "--corpus", "x", "text.txt"]).fails(1, &["text.txt", "archive"]);
}
