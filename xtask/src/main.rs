//! Project chores, run as `cargo xtask <chore>`.
//!
//! `ci` is the gate every change passes; `test` is its last step on its own; `tiny-world` makes the small models; `new-method` begins an editing
//! method (`docs/adding-a-method.md`); `tidy` checks what the compiler cannot: that the
//! crates depend on each other exactly as drawn in `docs/architecture.md`, and that no file grows out of hand. `bench` times and compares
//! (`docs/benchmarks.md`), `results` writes the table of all methods (`docs/results.md`). `fuzz` runs the readers over hostile input
//! (`fuzz/README.md`), `kill-check` kills commands at random moments, `revert-check` takes random edits back out of checkpoints
//! (`docs/reliability.md`). `device-check` and `gpu-build` are for devices other than the CPU (`docs/devices.md`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod bench;
mod ci;
mod device_check;
mod examples;
mod fuzz;
mod gpu_build;
mod kill_check;
mod machine;
mod new_method;
mod process;
mod programs;
mod results;
mod revert_check;
mod tidy;
mod tiny_world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project chores of easyedit", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run the whole gate: fmt, clippy, typos, deny, tidy, docs, tests
    Ci,
    /// Run the tests (with nextest where it is installed), then the doctests
    Test {
        /// Passed on to the test runner, e.g. a name filter
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make the crate of a new editing method, which compiles, is registered, and edits a fact
    NewMethod(new_method::NewMethodArguments),
    /// Make the text, the datasets and the models of `data/tiny-world`
    TinyWorld {
        /// Passed on, e.g. `--retrain gpt2` or `--help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Time models, edits and statistics; compare runs with each other and with another program
    Bench(bench::BenchArguments),
    /// Edit the same facts with every method and write the table of `docs/results.md`
    Results(results::ResultsArguments),
    /// Apply random edits of all methods to checkpoints and revert them: the bytes have to be those from before
    RevertCheck {
        /// Passed on: `--count 1000 --seed 0`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Hold a device against the CPU and golden values
    DeviceCheck(device_check::DeviceCheckArguments),
    /// Build the programs for an NVIDIA GPU where LLVM cannot be downloaded
    GpuBuild(gpu_build::GpuBuildArguments),
    /// Kill commands at random moments: what they finished stays, and the same command completes
    KillCheck(kill_check::KillCheckArguments),
    /// Package the crates, and build and run the examples outside the workspace with the packages
    Examples,
    /// Run the fuzz targets of `fuzz/`: under libFuzzer, or over blind mutations
    Fuzz(fuzz::FuzzArguments),
    /// Check dependency arrows, names that must not cross them, and file lengths
    Tidy,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let root = root()?;
    match Arguments::parse().chore {
        Chore::Ci => ci::ci(&root),
        Chore::Test { arguments } => ci::test(&root, &arguments),
        Chore::NewMethod(arguments) => new_method::run(&root, &arguments),
        Chore::TinyWorld { arguments } => tiny_world::run(&root, &arguments),
        Chore::Bench(arguments) => bench::bench(&root, &arguments),
        Chore::Results(arguments) => results::run(&root, &arguments).map(|()| true),
        Chore::RevertCheck { arguments } => revert_check::run(&root, &arguments),
        Chore::DeviceCheck(arguments) => device_check::run(&root, &arguments),
        Chore::GpuBuild(arguments) => gpu_build::run(&root, &arguments),
        Chore::KillCheck(arguments) => kill_check::run(&root, &arguments),
        Chore::Fuzz(arguments) => fuzz::fuzz(&root, &arguments),
        Chore::Examples => examples::run_examples(&root),
        Chore::Tidy => {
            let faults = tidy::faults(&root)?;
            for fault in &faults {
                eprintln!("tidy: {fault}");
            }
            Ok(faults.is_empty())
        }
    }
}

/// The repository's root folder.
fn root() -> Result<PathBuf> {
    // What cargo says while it runs the program comes first: with one target folder for several clones, the program may have been built
    // from another one.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map(Path::to_owned).context("xtask has no parent folder")
}
