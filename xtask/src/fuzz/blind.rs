//! A target over blind mutations of its seeds, in a process that is started again behind each finding.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::table::{Finding, Row};
use super::{Scratch, artifacts};

/// Findings of a target after which it is given up.
const MOST_ENDS: usize = 200;
/// What an input is said to be that takes too long.
const SLOW: &str = "time: ";

/// Runs the first `count` mutations of `target` with the program `plain`.
pub(super) fn run(root: &Path, plain: &Path, target: &str, count: u64) -> Result<Row> {
    eprintln!("fuzz: {count} mutations of {target}");
    let folder = artifacts(root).join(target);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let scratch = Scratch::new(target)?;
    let program = |arguments: &[&str]| {
        let mut command = Command::new(plain);
        command.args(arguments).env("TMPDIR", &scratch.0).env("RAYON_NUM_THREADS", "1").env("RUST_BACKTRACE", "0");
        let output = command.output().with_context(|| format!("cannot start {}", plain.display()));
        scratch.clear();
        output
    };
    let mut row = Row::new(target);
    let begun = Instant::now();
    let (mut from, mut ends) = (0, 0);
    while from < count {
        let output = program(&["mutations", target, &from.to_string(), &count.to_string()])?;
        if output.status.success() {
            row.executions += count - from;
            break;
        }
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let reached = String::from_utf8_lossy(&output.stdout).lines().next_back().and_then(|line| line.parse::<u64>().ok());
        let Some(reached) = reached else { bail!("the mutations of {target} cannot be run: {log}") };
        row.executions += reached + 1 - from;
        from = reached + 1;
        let input = program(&["mutation", target, &reached.to_string()])?.stdout;
        let file = folder.join(format!("mutation-{reached}"));
        fs::write(&file, input).with_context(|| format!("cannot write {}", file.display()))?;
        // A busy machine is no fault of the input.
        let is_slow = log.contains(SLOW);
        if is_slow && program(&["run", target, &file.to_string_lossy()])?.status.success() {
            let _ = fs::remove_file(file);
            continue;
        }
        let what = log.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join(" ");
        let finding = Finding { what: what.trim_start_matches("Error: ").to_owned(), file: Some(file.clone()) };
        eprintln!("fuzz: {target}: mutation {reached}: {}", finding.what);
        if !row.add(finding) {
            let _ = fs::remove_file(file);
        }
        ends += 1;
        if ends == MOST_ENDS {
            bail!("{target} does not survive {MOST_ENDS} of {from} mutations");
        }
    }
    row.seconds = begun.elapsed().as_secs_f64();
    Ok(row)
}
