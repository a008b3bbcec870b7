//! What the compiler cannot check: dependency arrows, names that must not cross them, and files that grow out of hand.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::command;

/// Longest a source file may be, in lines.
const MAX_LINES: usize = 450;
/// The page that draws the arrows.
const ARCHITECTURE: &str = "docs/architecture.md";
/// The fence of the block in it that lists them, one `from -> to, to` a line.
const ARROWS_FENCE: &str = "```arrows";
/// Crates that any crate's tests may use beyond the drawn arrows.
const TEST_SUPPORT: &[&str] = &["easyedit-core", "easyedit-models", "easyedit-kernels", "easyedit-data", "easyedit-tiny-world"];
/// Beginnings of words that name a model family.
const FAMILIES: &[&str] = &[
    "gpt2", "gptj", "gptneo", "llama", "mistral", "mixtral", "qwen", "baichuan", "internlm", "chatglm", "smollm", "vicuna", "gemma",
    "bloom", "minigpt",
];
/// Words that name an editing method.
const METHODS: &[&str] = &["rome", "memit", "mend", "serac", "emmet", "pmet", "alphaedit", "grace", "lora", "ike"];
/// Macros that mark unfinished work or were left behind while debugging.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

/// Everything that is not tidy, one sentence each.
pub(crate) fn faults(root: &Path) -> Result<Vec<String>> {
    let page = root.join(ARCHITECTURE);
    let page = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let mut faults = arrow_faults(&metadata(root)?, &arrows(&page)?);
    for folder in ["benches", "crates", "fuzz", "xtask"] {
        for file in rust_files(&root.join(folder))? {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
            faults.extend(file_faults(&name, &text));
        }
    }
    Ok(faults)
}

fn metadata(root: &Path) -> Result<Value> {
    let output = command(root, &["cargo", "metadata", "--no-deps", "--format-version", "1"]).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

type Arrow = (String, String);

/// The arrows drawn on the architecture page.
fn arrows(page: &str) -> Result<BTreeSet<Arrow>> {
    let mut lines = page.lines().skip_while(|line| line.trim() != ARROWS_FENCE).skip(1).peekable();
    if lines.peek().is_none() {
        bail!("{ARCHITECTURE} has no block that begins with {ARROWS_FENCE}");
    }
    let mut arrows = BTreeSet::new();
    for line in lines.take_while(|line| line.trim() != "```").filter(|line| !line.trim().is_empty()) {
        let (from, to) = line.split_once("->").with_context(|| format!("{ARCHITECTURE}: {line:?} is no `from -> to`"))?;
        arrows.extend(to.split(',').map(|to| (from.trim().to_owned(), to.trim().to_owned())));
    }
    Ok(arrows)
}

/// Where the workspace's dependencies and the drawing differ.
fn arrow_faults(metadata: &Value, drawn: &BTreeSet<Arrow>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut real = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let from = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten().filter(|d| d["path"].is_string()) {
            let to = dependency["name"].as_str().unwrap_or_default();
            if dependency["kind"].as_str() == Some("dev") {
                if !TEST_SUPPORT.contains(&to) {
                    faults.push(format!("the tests of {from} use {to}; tests may use {}", TEST_SUPPORT.join(", ")));
                }
            } else {
                real.insert((from.to_owned(), to.to_owned()));
            }
        }
    }
    for (from, to) in real.difference(drawn) {
        faults.push(format!("{from} depends on {to}, an arrow {ARCHITECTURE} does not draw"));
    }
    for (from, to) in drawn.difference(&real) {
        faults.push(format!("{ARCHITECTURE} draws {from} -> {to}, but {from} does not depend on {to}"));
    }
    faults
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                files.extend(rust_files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What is wrong with one source file. `name` is its path from the root, with forward slashes.
fn file_faults(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!("{name} has {lines} lines; more than {MAX_LINES} are two subjects, split it"));
    }
    for (number, line) in text.lines().enumerate() {
        let code = without_comment(line);
        for word in UNFINISHED {
            if code.contains(&format!("{word}!(")) {
                faults.push(format!("{name}:{}: {word}! is not finished work", number + 1));
            }
        }
    }
    if !name.contains("/src/") {
        return faults;
    }
    let in_crate = |crates: &[&str]| crates.iter().any(|folder| name.starts_with(&format!("crates/{folder}/")));
    let mut forbid = |what: &str, names: fn(&str) -> bool| {
        for (number, line) in text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]") {
            if let Some(word) = words(without_comment(line)).find(|word| names(word)) {
                faults.push(format!("{name}:{}: {word:?} names {what}, which this crate knows nothing of", number + 1));
            }
        }
    };
    if in_crate(&["core", "kernels", "methods", "data", "eval", "trainer"]) {
        forbid("a model family", |word| FAMILIES.iter().any(|family| word.starts_with(family)));
    }
    if in_crate(&["core", "kernels", "models", "trainer"]) {
        forbid("an editing method", |word| METHODS.contains(&word));
    }
    faults
}

/// The part of a line before `//`; a `//` inside a string hides the rest of it, which only makes the checks milder.
fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// The words of a line of code in lower case: `GptNeoX`, `gpt_neo_x` and `"gpt-neo-x"` begin with `gptneox`, and with `gpt` too.
fn words(code: &str) -> impl Iterator<Item = String> {
    let text = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    code.split(move |c| !text(c))
        .flat_map(|name| {
            let joined = name.replace(['_', '-'], "").to_lowercase();
            let parts = name.split(['_', '-']).map(str::to_lowercase).collect::<Vec<_>>();
            parts.into_iter().chain([joined])
        })
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let faults = faults(&crate::root().unwrap()).unwrap();
        assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    }

    #[test]
    fn arrows_are_read_from_the_page() {
        let drawn = arrows("text\n```arrows\na -> b, c\n\nb -> c\n```\nd -> e").unwrap();
        let pairs: Vec<_> = drawn.iter().map(|(from, to)| format!("{from}{to}")).collect();
        assert_eq!(pairs, ["ab", "ac", "bc"]);
        assert!(arrows("no block").is_err());
        assert!(arrows("```arrows\na, b\n```").is_err());
    }

    #[test]
    fn arrows_that_differ_from_the_drawing_are_faults() {
        let metadata = serde_json::json!({"packages": [
            {"name": "a", "dependencies": [
                {"name": "b", "path": "/b", "kind": null},
                {"name": "serde", "kind": null},
                {"name": "easyedit-models", "path": "/m", "kind": "dev"},
                {"name": "easyedit", "path": "/e", "kind": "dev"},
            ]},
        ]});
        let drawn = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let faults = arrow_faults(&metadata, &drawn(&[("a", "b")]));
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("tests of a use easyedit"), "{faults:?}");
        let faults = arrow_faults(&metadata, &drawn(&[("a", "c")])).join("\n");
        assert!(faults.contains("a depends on b") && faults.contains("draws a -> c"), "{faults}");
    }

    #[test]
    fn names_that_cross_an_arrow_are_faults() {
        for (name, code, count) in [
            ("crates/kernels/src/a.rs", "fn llama_mlp() {}", 1),
            ("crates/kernels/src/a.rs", "struct GptNeoBlock;", 1),
            ("crates/methods/rome/src/a.rs", "let t = \"model_type: qwen2\";", 1),
            ("crates/methods/rome/src/a.rs", "// as LLaMA has it\n#[cfg(test)]\nmod tests { fn llama() {} }", 0),
            ("crates/methods/rome/tests/a.rs", "fn llama() {}", 0),
            ("crates/models/src/llama.rs", "fn llama() {}", 0),
            ("crates/models/src/llama.rs", "fn for_memit() {}", 1),
            ("crates/kernels/src/a.rs", "fn chrome() {}", 0),
        ] {
            assert_eq!(file_faults(name, code).len(), count, "{name}: {code}: {:?}", file_faults(name, code));
        }
    }

    #[test]
    fn long_and_unfinished_files_are_faults() {
        assert_eq!(file_faults("crates/a/src/a.rs", &"\n".repeat(MAX_LINES + 1)).len(), 1);
        let unfinished = format!("fn a() {{ {}!() }}", UNFINISHED[0]);
        assert_eq!(file_faults("crates/a/src/a.rs", &unfinished).len(), 1);
        assert!(file_faults("crates/a/src/a.rs", "fn a() {} // to do").is_empty());
    }
}
