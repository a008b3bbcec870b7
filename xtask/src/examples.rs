//! The crates as others get them: packaged, unpacked elsewhere, and depended on by projects outside the workspace.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{command, run};
use crate::programs::target;

/// Members that are not for others.
const NOT_PUBLISHED: &[&str] = &["xtask", "easyedit-benches", "easyedit-fuzz", "easyedit-newmethod"];

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
        prints: &["Olga Ember plays the -> harp: [0.0] -> [1.0]"],
    },
];

/// Packages every library crate, builds the examples against the packages and runs them.
///
/// Packages and examples are put into one workspace of their own and built together, so that what they depend on is built with the features
/// it already has.
pub(crate) fn run_examples(root: &Path) -> Result<bool> {
    let folder = target(root).join("examples");
    let workspace = folder.join("workspace");
    if workspace.is_dir() {
        std::fs::remove_dir_all(&workspace).with_context(|| format!("cannot empty {}", workspace.display()))?;
    }
    let packages = packaged(root, &workspace.join("packages"))?;
    for example in EXAMPLES {
        copy_example(&root.join("examples").join(example.name), &workspace.join("examples").join(example.name))?;
    }
    let manifest = std::fs::read_to_string(root.join("Cargo.toml"))?;
    std::fs::write(workspace.join("Cargo.toml"), manifest_of(&manifest, &packages)?)?;
    // The versions of the dependencies that everything else was tested with.
    std::fs::copy(root.join("Cargo.lock"), workspace.join("Cargo.lock")).context("cannot copy Cargo.lock")?;
    let (manifest, target) = (workspace.join("Cargo.toml"), target(root));
    let (manifest, target_text) = (manifest.to_string_lossy(), target.to_string_lossy());
    let mut line = vec!["cargo", "build", "--release", "--workspace", "--manifest-path", &manifest, "--target-dir", &target_text];
    for example in EXAMPLES {
        line.extend(["--bin", example.name]);
    }
    if !run(&mut command(root, &line))? {
        return Ok(false);
    }
    for example in EXAMPLES {
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

/// Copies the manifest and the sources of an example, which is no workspace of its own then.
fn copy_example(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to.join("src"))?;
    let manifest = std::fs::read_to_string(from.join("Cargo.toml")).with_context(|| format!("cannot read {}", from.display()))?;
    std::fs::write(to.join("Cargo.toml"), manifest.replace("[workspace]\n", ""))?;
    for entry in std::fs::read_dir(from.join("src"))? {
        let file = entry?;
        std::fs::copy(file.path(), to.join("src").join(file.file_name()))?;
    }
    Ok(())
}

/// The manifest of a workspace of packages and examples: profiles as in `manifest`, the packages in the place of published crates.
fn manifest_of(manifest: &str, packages: &[String]) -> Result<String> {
    let profiles = manifest.find("[profile.").map(|at| &manifest[at..]).context("Cargo.toml has no profile")?;
    let mut text = format!("[workspace]\nresolver = \"3\"\nmembers = [\"packages/*\", \"examples/*\"]\n\n{profiles}\n[patch.crates-io]\n");
    for folder in packages {
        let (name, _version) = folder.rsplit_once('-').with_context(|| format!("{folder} has no version"))?;
        text.push_str(&format!("{name} = {{ path = \"packages/{folder}\" }}\n"));
    }
    Ok(text)
}

/// An argument that names a file of the repository, as a path that holds anywhere.
fn argument_at(root: &Path, argument: &str) -> String {
    let path = root.join(argument);
    if argument.contains('/') && path.exists() { path.to_string_lossy().into_owned() } else { argument.to_owned() }
}

/// Packages the crates and unpacks them in `into`: the names of their folders.
fn packaged(root: &Path, into: &Path) -> Result<Vec<String>> {
    let target = target(root);
    let target_text = target.to_string_lossy().into_owned();
    let archives = target.join("package");
    if archives.is_dir() {
        std::fs::remove_dir_all(&archives).with_context(|| format!("cannot empty {}", archives.display()))?;
    }
    let mut line = vec!["cargo", "package", "--workspace", "--no-verify", "--allow-dirty", "--quiet", "--target-dir", &target_text];
    for name in NOT_PUBLISHED {
        line.extend(["--exclude", name]);
    }
    if !run(&mut command(root, &line))? {
        bail!("not every crate can be packaged");
    }
    std::fs::create_dir_all(into)?;
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(&archives)? {
        let file = entry?.path();
        let Some(name) = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".crate")) else { continue };
        if !run(&mut command(root, &["tar", "-xzf", &file.to_string_lossy(), "-C", &into.to_string_lossy()]))? {
            bail!("{} cannot be unpacked", file.display());
        }
        folders.push(name.to_owned());
    }
    folders.sort();
    match folders.is_empty() {
        true => bail!("no crate was packaged"),
        false => Ok(folders),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_stand_in_for_published_crates() {
        let text = manifest_of("[workspace]\n[profile.release]\nopt-level = 3\n", &["easyedit-core-0.1.0".to_owned()]).unwrap();
        assert!(text.contains("[profile.release]\nopt-level = 3\n"), "{text}");
        assert!(text.ends_with("easyedit-core = { path = \"packages/easyedit-core-0.1.0\" }\n"), "{text}");
        assert!(manifest_of("[workspace]", &[]).is_err());
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
