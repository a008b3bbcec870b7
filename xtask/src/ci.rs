//! The gate: one list of steps, all of them run, a table at the end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::{command, run, run_keeping, succeeds, succeeds_within};
use crate::{examples, fuzz, tidy};

/// How long the advisory database may take to answer before it counts as out of reach.
const NETWORK_PATIENCE: Duration = Duration::from_secs(20);
const ADVISORY_DATABASE: &str = "https://github.com/RustSec/advisory-db";

/// How a step ended.
enum Outcome {
    Passed,
    Failed,
    /// Could not be run for a reason that is not a fault of the code.
    NotRun(&'static str),
}

impl From<bool> for Outcome {
    fn from(success: bool) -> Self {
        if success { Self::Passed } else { Self::Failed }
    }
}

struct Gate {
    rows: Vec<(&'static str, Outcome, Duration)>,
}

impl Gate {
    fn step(&mut self, name: &'static str, run: impl FnOnce() -> Result<Outcome>) {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let outcome = run().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Outcome::Failed
        });
        let seconds = start.elapsed();
        let word = match &outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::NotRun(_) => "NOT RUN",
        };
        eprintln!("== {name}: {word} in {:.1} s", seconds.as_secs_f64());
        self.rows.push((name, outcome, seconds));
    }

    /// Prints the table; whether nothing failed.
    fn finish(&self) -> bool {
        let total: Duration = self.rows.iter().map(|row| row.2).sum();
        println!("\n{:<12} {:<9} {:>9}", "step", "result", "seconds");
        for (name, outcome, seconds) in &self.rows {
            let (word, why) = match outcome {
                Outcome::Passed => ("passed", ""),
                Outcome::Failed => ("FAILED", ""),
                Outcome::NotRun(why) => ("NOT RUN", *why),
            };
            println!("{:<12} {:<9} {:>9.1}  {}", name, word, seconds.as_secs_f64(), why);
        }
        println!("{:<12} {:<9} {:>9.1}", "total", "", total.as_secs_f64());
        !self.rows.iter().any(|row| matches!(row.1, Outcome::Failed))
    }
}

/// Runs every step of the gate, whatever fails, and says whether all passed.
pub(crate) fn ci(root: &Path) -> Result<bool> {
    let mut gate = Gate { rows: Vec::new() };
    let cargo = |line: &[&str]| -> Result<Outcome> { run(&mut command(root, &[&["cargo"], line].concat())).map(Outcome::from) };

    gate.step("fmt", || cargo(&["fmt", "--all", "--check"]));
    gate.step("tidy", || {
        let faults = tidy::faults(root)?;
        faults.iter().for_each(|fault| eprintln!("tidy: {fault}"));
        Ok(faults.is_empty().into())
    });
    gate.step("typos", || match succeeds(root, &["typos", "--version"]) {
        true => run(&mut command(root, &["typos"])).map(Outcome::from),
        false => missing("typos", "pip install typos"),
    });
    let has_deny = succeeds(root, &["cargo", "deny", "--version"]);
    gate.step("deny", || match has_deny {
        true => cargo(&["deny", "--all-features", "check", "bans", "licenses", "sources"]),
        false => missing("cargo-deny", "cargo install --locked cargo-deny"),
    });
    gate.step("advisories", || {
        if !has_deny {
            return missing("cargo-deny", "cargo install --locked cargo-deny");
        }
        if !succeeds_within(root, &["git", "ls-remote", "--exit-code", ADVISORY_DATABASE, "HEAD"], NETWORK_PATIENCE) {
            eprintln!("WARNING: {ADVISORY_DATABASE} is out of reach: known vulnerabilities of the dependencies were NOT looked up");
            return Ok(Outcome::NotRun("the advisory database is out of reach"));
        }
        cargo(&["deny", "--all-features", "check", "advisories"])
    });
    gate.step("clippy", || cargo(&["clippy", "--release", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]));
    gate.step("doc", || {
        let mut doc = command(root, &["cargo", "doc", "--release", "--no-deps", "--workspace", "--locked"]);
        run(doc.env("RUSTDOCFLAGS", "-D warnings")).map(Outcome::from)
    });
    let mut closing = Vec::new();
    gate.step("test", || {
        let (success, lines) = run_tests(root, &[])?;
        closing = lines;
        Ok(success.into())
    });

    gate.step("fuzz", || fuzz::gate(root).map(Outcome::from));
    gate.step("examples", || examples::run_examples(root).map(Outcome::from));

    let success = gate.finish();
    println!("\ntests:");
    closing.iter().for_each(|line| println!("  {}", line.trim()));
    println!("\n{}", if success { "the gate is passed" } else { "the gate is NOT passed" });
    Ok(success)
}

/// Runs the tests, then the doctests; whether all passed.
pub(crate) fn test(root: &Path, arguments: &[String]) -> Result<bool> {
    let (success, closing) = run_tests(root, arguments)?;
    println!("\ntests:");
    closing.iter().for_each(|line| println!("  {}", line.trim()));
    Ok(success)
}

fn run_tests(root: &Path, arguments: &[String]) -> Result<(bool, Vec<String>)> {
    let nextest = succeeds(root, &["cargo", "nextest", "--version"]);
    let line: &[&str] = match nextest {
        // What passed tests print is asked for because some of them say that they were skipped.
        true => &["cargo", "nextest", "run", "--release", "--workspace", "--locked", "--success-output", "immediate"],
        false => &["cargo", "test", "--release", "--workspace", "--locked", "--lib", "--bins", "--tests"],
    };
    let (tests_passed, mut closing) = run_keeping(command(root, line).args(arguments), if nextest { is_summary } else { is_result })?;
    if !arguments.is_empty() {
        return Ok((tests_passed, closing));
    }
    let mut doctests = command(root, &["cargo", "test", "--release", "--workspace", "--locked", "--doc"]);
    let (doctests_passed, lines) = run_keeping(&mut doctests, is_result)?;
    closing.extend(lines.into_iter().map(|line| format!("{line} (doctests)")));
    Ok((tests_passed && doctests_passed, closing))
}

/// The lines in which nextest says how it went, and those in which a test says that it was skipped.
fn is_summary(line: &str) -> bool {
    line.starts_with("Summary [") || line.starts_with("skipped:")
}

/// The same of `cargo test`, which shows no more of tests that passed than their names.
fn is_result(line: &str) -> bool {
    line.starts_with("test result:") && !line.contains(" 0 passed; 0 failed")
}

fn missing(tool: &str, way: &str) -> Result<Outcome> {
    anyhow::bail!("{tool} is not installed: `.ci/run` installs it, or `{way}`")
}
