//! The tiny world is made by an example of its crate; this builds and runs it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::process::{self, command};

const EXAMPLE: &str = "tiny-world";

/// Builds the example and runs it with `arguments`; whether both succeeded.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<bool> {
    // Of the whole workspace, so that the dependencies are built with the features they already have.
    if !process::run(&mut command(root, &["cargo", "build", "--release", "--workspace", "--example", EXAMPLE]))? {
        return Ok(false);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let program = target.join("release").join("examples").join(EXAMPLE);
    let mut run = command(root, &[&program.to_string_lossy()]);
    process::run(run.args(arguments))
}
