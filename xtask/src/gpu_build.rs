//! Programs for a machine with an NVIDIA GPU, built where LLVM cannot be downloaded.
//!
//! burn 0.22.1 builds its CUDA backend with an LLVM that its build script downloads; 0.22.0-pre.2 has all but the same interface and compiles
//! kernels with NVRTC on the machine that runs them. So the workspace is copied beside the build, made to depend on that version, and built
//! there, with a lock file of its own.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process::{command, run as run_command};
use crate::programs::target;

/// The version whose CUDA backend needs no LLVM.
const BURN: &str = "=0.22.0-pre.2";
/// What is made to differ: file, text in it, what takes its place, and how often the text stands there.
const CHANGES: &[(&str, &str, &str, usize)] = &[
    ("Cargo.toml", "burn = { version = \"=0.22.1\"", "burn = { version = \"=0.22.0-pre.2\"", 1),
    // That version's CPU backend has its threads without being asked for them; being there to compare with, it goes without what makes it
    // faster.
    (
        "crates/core/Cargo.toml",
        "flex = [\"burn/flex\", \"burn/simd\", \"burn/rayon\", \"burn/x86-v4\", \"pulp/x86-v4\", \"extension\"]",
        "flex = [\"burn/flex\", \"burn/simd\"]",
        1,
    ),
    // Names that version has not.
    ("crates/core/src/matrix.rs", "data.try_into_vec::<f32>()", "data.into_vec::<f32>()", 1),
    ("crates/core/src/device.rs", "data.try_to_vec::<f32>()", "data.to_vec::<f32>()", 1),
    ("crates/kernels/src/fine_tune/loss.rs", ".is_autodiff()", ".device().is_autodiff()", 2),
    ("crates/models/src/elementwise.rs", ".is_autodiff()", ".device().is_autodiff()", 5),
    ("crates/methods/grace/src/lookup.rs", ".is_autodiff()", ".device().is_autodiff()", 1),
    ("crates/methods/grace/src/start.rs", ".is_autodiff()", ".device().is_autodiff()", 2),
];
/// What a check of the device reads on the other machine.
const DATA: &[&str] = &["data/golden", "data/tiny-world"];

/// What `cargo xtask gpu-build` is asked for.
#[derive(Args)]
pub(crate) struct GpuBuildArguments {
    /// Only check that the code compiles
    #[arg(long)]
    check: bool,
}

/// Builds `easyedit` and `device-check` with CUDA and puts them with their data into one folder; whether the build succeeded.
pub(crate) fn run(root: &Path, arguments: &GpuBuildArguments) -> Result<bool> {
    let folder = target(root).join("gpu");
    let copy = folder.join("workspace");
    let files = copy_workspace(root, &copy)?;
    let verb = if arguments.check { "check" } else { "build" };
    let line = ["cargo", verb, "--release", "--workspace", "--features", "easyedit-cli/cuda,easyedit-benches/cuda"];
    let mut build = command(&copy, &line);
    build.args(["--bin", "easyedit", "--bin", "device-check"]).env("CARGO_TARGET_DIR", folder.join("target"));
    if !run_command(&mut build)? {
        return Ok(false);
    }
    if arguments.check {
        return Ok(true);
    }
    let travels = folder.join("travels");
    for program in ["easyedit", "device-check"] {
        copy_changed(&folder.join("target/release").join(program), &travels.join(program))?;
    }
    for file in files.iter().filter(|file| DATA.iter().any(|folder| file.starts_with(folder))) {
        copy_changed(&root.join(file), &travels.join(file))?;
    }
    println!("{}", travels.display());
    println!("on the machine with the GPU, in that folder: ./device-check --device cuda --data data");
    Ok(true)
}

/// Copies every file that belongs to the repository, with [`CHANGES`] made; gives their names.
fn copy_workspace(root: &Path, copy: &Path) -> Result<Vec<String>> {
    let listed =
        command(root, &["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]).output().context("cannot start git")?;
    if !listed.status.success() {
        bail!("git cannot list the files: {}", String::from_utf8_lossy(&listed.stderr).trim());
    }
    let names = String::from_utf8(listed.stdout).context("the name of a file is no text")?;
    let names: Vec<String> = names.split('\0').filter(|name| !name.is_empty() && root.join(name).is_file()).map(str::to_owned).collect();
    for name in &names {
        let (from, to) = (root.join(name), copy.join(name));
        let changes: Vec<_> = CHANGES.iter().filter(|(file, ..)| file == name).collect();
        if name == "Cargo.lock" {
            // The copy's own, once it has one: it holds the other burn.
            if !to.exists() {
                copy_changed(&from, &to)?;
            }
        } else if changes.is_empty() {
            copy_changed(&from, &to)?;
        } else {
            let mut text = fs::read_to_string(&from).with_context(|| format!("cannot read {}", from.display()))?;
            for (_, old, new, times) in changes {
                text = replaced(&text, old, new, *times).with_context(|| format!("{name}, for burn {BURN}"))?;
            }
            write_changed(text.as_bytes(), &to)?;
        }
    }
    Ok(names)
}

/// `text` with `new` in the places of `old`, which occurs in it so many times.
fn replaced(text: &str, old: &str, new: &str, times: usize) -> Result<String> {
    match text.matches(old).count() {
        count if count == times => Ok(text.replace(old, new)),
        count => bail!("{old:?} occurs {count} times instead of {times}; bring the changes in xtask/src/gpu_build.rs up to date"),
    }
}

fn copy_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write_changed(&bytes, to)?;
    let permissions = fs::metadata(from)?.permissions();
    fs::set_permissions(to, permissions).with_context(|| format!("cannot write {}", to.display()))
}

/// Writes a file unless it holds that already: a new date would have it compiled again.
fn write_changed(bytes: &[u8], to: &Path) -> Result<()> {
    if fs::read(to).is_ok_and(|held| held == bytes) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changes_fit_the_manifests() {
        let root = crate::root().unwrap();
        for (file, old, new, times) in CHANGES {
            let text = fs::read_to_string(root.join(file)).unwrap();
            let changed = replaced(&text, old, new, *times).unwrap();
            assert!(changed.contains(new) && changed != text, "{file}");
        }
        assert!(CHANGES[0].2.contains(BURN));
        assert!(replaced("a a", "a", "b", 1).is_err() && replaced("b", "a", "b", 1).is_err());
        assert_eq!(replaced("a a", "a", "b", 2).unwrap(), "b b");
    }
}
