//! The crates as others get them: packaged, unpacked elsewhere, and depended on by projects outside the workspace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{command, run};
use crate::programs::target;

/// Members that are not for others.
const NOT_PUBLISHED: &[&str] = &["xtask", "easyedit-benches", "easyedit-newmethod"];

/// A project outside the workspace, how it is run, and what it has to print.
struct Example {
    name: &'static str,
    arguments: &'static [&'static str],
    prints: &'static [&'static str],
}

const EXAMPLES: &[Example] = &[
    Example {
        name: "rome-alone",
        arguments: &["data/tiny-world/models/tiny-world-llama", "Olga Ember plays the", "Olga Ember", "harp"],
        prints: &["after:  Olga Ember plays the harp"],
    },
    Example {
        name: "own-method",
        arguments: &["data/tiny-world/models/tiny-world-llama", "data/tiny-world/requests.json"],
        prints: &["\"rewrite_acc\": 1.0"],
    },
];

/// Packages every library crate, builds the examples against the packages and runs them.
pub(crate) fn run_examples(root: &Path) -> Result<bool> {
    let packages = packaged(root)?;
    let folder = target(root).join("examples");
    std::fs::create_dir_all(&folder)?;
    let config = folder.join("packages.toml");
    std::fs::write(&config, patches(&packages))?;
    for example in EXAMPLES {
        let source = root.join("examples").join(example.name);
        // The versions of the dependencies that everything else was tested with.
        std::fs::copy(root.join("Cargo.lock"), source.join("Cargo.lock")).context("cannot copy Cargo.lock")?;
        let manifest = source.join("Cargo.toml");
        let mut line = vec!["cargo", "build", "--release", "--config"];
        let (config, manifest, target) = (config.to_string_lossy(), manifest.to_string_lossy(), target(root));
        let target_text = target.to_string_lossy();
        line.extend([&*config, "--manifest-path", &*manifest, "--target-dir", &*target_text]);
        if !run(&mut command(root, &line))? {
            return Ok(false);
        }
        let program = target.join("release").join(format!("{}{}", example.name, std::env::consts::EXE_SUFFIX));
        let arguments: Vec<String> = example.arguments.iter().map(|argument| argument_at(root, argument)).collect();
        let output = command(root, &[&program.to_string_lossy()]).args(&arguments).current_dir(&folder).output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        print!("{printed}");
        if !output.status.success() {
            bail!("{} failed: {}", example.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        if let Some(missing) = example.prints.iter().find(|text| !printed.contains(**text)) {
            bail!("{} did not print {missing:?}", example.name);
        }
    }
    Ok(true)
}

/// An argument that names a file of the repository, as a path that holds anywhere.
fn argument_at(root: &Path, argument: &str) -> String {
    let path = root.join(argument);
    if argument.contains('/') && path.exists() { path.to_string_lossy().into_owned() } else { argument.to_owned() }
}

/// Packages the crates and unpacks them: the folder of each, by name.
fn packaged(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let target = target(root);
    let target_text = target.to_string_lossy().into_owned();
    let folder = target.join("package");
    if folder.is_dir() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let mut line = vec!["cargo", "package", "--workspace", "--no-verify", "--allow-dirty", "--quiet", "--target-dir", &target_text];
    for name in NOT_PUBLISHED {
        line.extend(["--exclude", name]);
    }
    if !run(&mut command(root, &line))? {
        bail!("not every crate can be packaged");
    }
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(&folder)? {
        let file = entry?.path();
        let Some(name) = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".crate")) else { continue };
        let archive = file.to_string_lossy().into_owned();
        if !run(&mut command(root, &["tar", "-xzf", &archive, "-C", &folder.to_string_lossy()]))? {
            bail!("{archive} cannot be unpacked");
        }
        let unpacked = folder.join(name);
        let (name, _version) = name.rsplit_once('-').with_context(|| format!("{name} has no version"))?;
        found.insert(name.to_owned(), unpacked);
    }
    match found.is_empty() {
        true => bail!("no crate was packaged"),
        false => Ok(found),
    }
}

/// A cargo configuration that takes the crates from the folders they were unpacked to.
fn patches(packages: &BTreeMap<String, PathBuf>) -> String {
    let line = |(name, folder): (&String, &PathBuf)| format!("{name} = {{ path = {:?} }}\n", folder.to_string_lossy());
    packages.iter().map(line).fold("[patch.crates-io]\n".to_owned(), |text, line| text + &line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_stand_in_for_published_crates() {
        let packages = BTreeMap::from([("easyedit-core".to_owned(), PathBuf::from("/p/easyedit-core-0.1.0"))]);
        assert_eq!(patches(&packages), "[patch.crates-io]\neasyedit-core = { path = \"/p/easyedit-core-0.1.0\" }\n");
    }

    #[test]
    fn every_example_is_there_and_small() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for example in EXAMPLES {
            let main = std::fs::read_to_string(root.join("examples").join(example.name).join("src/main.rs")).unwrap();
            assert!(example.name != "rome-alone" || main.lines().count() < 30, "{}", main.lines().count());
            assert!(example.arguments.iter().any(|argument| argument_at(root, argument) != *argument), "{}", example.name);
        }
    }
}
