//! The tiny world is made by an example of its crate; this builds and runs it.

use std::path::Path;

use anyhow::Result;

use crate::process::{self, command};
use crate::programs::{Program, built};

/// Builds the example and runs it with `arguments`; whether it succeeded.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<bool> {
    let program = built(root, &Program::Example("tiny-world"), &[])?;
    process::run(command(root, &[&program.to_string_lossy()]).args(arguments))
}
