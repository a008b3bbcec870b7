//! Benchmarks: runs them, keeps each run as a file, and compares runs with each other and with another program.

mod against;
mod compare;
mod run_file;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::process::command;
use crate::programs::{Program, built};
use run_file::Run;

/// Where runs are kept.
const RUNS: &str = "benches/runs";

/// What `cargo xtask bench` is asked for.
#[derive(Args)]
pub(crate) struct BenchArguments {
    /// Which sections: a name, or a part of `model/section`; all but the long ones by default
    filters: Vec<String>,
    /// Model to time on (may be repeated); tiny-world-llama and smollm2-135m by default
    #[arg(long)]
    model: Vec<String>,
    /// Timings of a section
    #[arg(long)]
    repeats: Option<usize>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Text for the statistics instead of the built-in sample
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Tokens the statistics are over
    #[arg(long)]
    tokens: Option<usize>,
    /// List the sections and end
    #[arg(long)]
    list: bool,
    /// Keep no file of the run
    #[arg(long)]
    no_save: bool,
    /// Compare two files of runs, and run nothing
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["filters", "list", "against_python"])]
    compare: Option<Vec<PathBuf>>,
    /// Run this shell command in turn with ours; it prints JSON lines with seconds per section (docs/benchmarks.md)
    #[arg(long, value_name = "CMD")]
    against_python: Option<String>,
    /// Which section of the other program is which of ours (may be repeated)
    #[arg(long, value_name = "THEIRS=OURS", requires = "against_python")]
    pair: Vec<String>,
    /// How often the two are run
    #[arg(long, default_value_t = 3, requires = "against_python")]
    rounds: usize,
}

/// Does what is asked for; whether everything that ran succeeded.
pub(crate) fn bench(root: &Path, arguments: &BenchArguments) -> Result<bool> {
    if let Some([a, b]) = arguments.compare.as_deref() {
        print!("{}", compare::table(&Run::read(a)?, &Run::read(b)?));
        return Ok(true);
    }
    let ours = Ours { root, program: built(root, &Program::Binary("easyedit-bench"), &[])?, arguments };
    if arguments.list {
        return Ok(command(root, &[&ours.program.to_string_lossy(), "--list"]).status()?.success());
    }
    if let Some(other) = &arguments.against_python {
        return against::run(&ours, other, &arguments.pair, arguments.rounds);
    }
    let (run, success) = ours.run(&arguments.filters)?;
    if run.sections.is_empty() && run.skipped.is_empty() && run.failed.is_empty() {
        bail!("no section is called {}; `cargo xtask bench --list` shows them", arguments.filters.join(" or "));
    }
    print!("{}", compare::overview(&run));
    if !arguments.no_save {
        println!("\n{}", ours.save(&run)?.display());
    }
    Ok(success)
}

/// Our own benchmarks.
struct Ours<'a> {
    root: &'a Path,
    program: PathBuf,
    arguments: &'a BenchArguments,
}

impl Ours<'_> {
    /// Runs the sections that `filters` choose; whether all that were run succeeded.
    fn run(&self, filters: &[String]) -> Result<(Run, bool)> {
        let mut run = Run { header: crate::machine::header(self.root), ..Run::default() };
        let mut line = command(self.root, &[&self.program.to_string_lossy()]);
        line.args(filters).args(["--seed", &self.arguments.seed.to_string()]);
        for model in &self.arguments.model {
            line.args(["--model", model]);
        }
        if let Some(repeats) = self.arguments.repeats {
            line.args(["--repeats", &repeats.to_string()]);
        }
        if let Some(tokens) = self.arguments.tokens {
            line.args(["--tokens", &tokens.to_string()]);
        }
        if let Some(corpus) = &self.arguments.corpus {
            let corpus = std::path::absolute(corpus).with_context(|| format!("cannot find {}", corpus.display()))?;
            line.arg("--corpus").arg(corpus);
        }
        let mut child = line.stdout(Stdio::piped()).spawn().context("cannot start the benchmarks")?;
        let out = child.stdout.take().context("the benchmarks have no output")?;
        for text in BufReader::new(out).lines() {
            let value: Value = serde_json::from_str(&text?).context("the benchmarks printed something else than JSON")?;
            if let Some(told) = run.add(value)? {
                eprintln!("{told}");
            }
        }
        let success = child.wait()?.success();
        Ok((run, success))
    }

    /// Keeps a run as a file, and gives its path.
    fn save(&self, run: &Run) -> Result<PathBuf> {
        let path = self.root.join(RUNS).join(run.file_name());
        run.write(&path)?;
        Ok(path)
    }
}
