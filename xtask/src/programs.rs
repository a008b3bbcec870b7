//! Programs of the workspace that a chore builds and runs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::process::{self, command};

/// What is built.
pub(crate) enum Program<'a> {
    /// An example, by its name.
    Example(&'a str),
    /// A program, by its name.
    Binary(&'a str),
}

/// Builds a program with `features` and gives its path.
pub(crate) fn built(root: &Path, program: &Program<'_>, features: &[&str]) -> Result<PathBuf> {
    let (flag, name) = match program {
        Program::Example(name) => ("--example", *name),
        Program::Binary(name) => ("--bin", *name),
    };
    // Of the whole workspace, so that the dependencies are built with the features they already have.
    let mut line = vec!["cargo", "build", "--release", "--workspace", flag, name];
    let features = features.join(",");
    if !features.is_empty() {
        line.extend(["--features", &features]);
    }
    if !process::run(&mut command(root, &line))? {
        bail!("{name} could not be built");
    }
    let folder = target(root).join("release");
    let folder = if matches!(program, Program::Example(_)) { folder.join("examples") } else { folder };
    Ok(folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}

/// The folder cargo builds into.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}
