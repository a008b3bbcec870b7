//! Random edits that are applied and reverted are the work of an example of the facade; this builds and runs it.

use std::path::Path;

use anyhow::Result;

use crate::process::{self, command};
use crate::programs::{Program, built};

/// Builds the example and runs it with `arguments`; whether every edit came back byte for byte.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<bool> {
    let program = built(root, &Program::Example("revert-check"), &[])?;
    process::run(command(root, &[&program.to_string_lossy()]).args(arguments))
}
