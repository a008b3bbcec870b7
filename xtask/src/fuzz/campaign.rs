//! A target under libFuzzer, which ends at its first finding: it is started again until the time is up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::table::{Finding, Row};
use super::{Scratch, artifacts, corpus};

/// Longest input, in bytes.
const MAX_LENGTH: usize = 1 << 16;
/// Time that an input may take, in seconds.
const LIMIT: u32 = 2;
/// Inputs that the target does not survive after which it is given up.
const MOST_ENDS: u32 = 40;
/// What libFuzzer's exit status is when an input takes too long.
const TIMED_OUT: i32 = 70;
/// What it is when somebody ended it.
const INTERRUPTED: i32 = 72;

pub(super) struct Campaign<'a> {
    fuzzer: &'a Path,
    target: &'a str,
    corpus: PathBuf,
    artifacts: PathBuf,
    scratch: Scratch,
}

impl<'a> Campaign<'a> {
    pub(super) fn new(root: &Path, fuzzer: &'a Path, target: &'a str) -> Result<Self> {
        let artifacts = artifacts(root).join(target);
        fs::create_dir_all(&artifacts).with_context(|| format!("cannot create {}", artifacts.display()))?;
        Ok(Self { fuzzer, target, corpus: corpus(root).join(target), artifacts, scratch: Scratch::new(target)? })
    }

    /// Runs for so many seconds, with libFuzzer's `seed` unless another is to be drawn.
    pub(super) fn run(&self, seconds: u64, seed: Option<u32>) -> Result<Row> {
        eprintln!("fuzz: {} for {seconds} s", self.target);
        let mut row = Row::new(self.target);
        let begun = Instant::now();
        for end in 0..MOST_ENDS {
            let left = seconds.saturating_sub(begun.elapsed().as_secs());
            if left == 0 {
                break;
            }
            let output = self
                .command()
                .arg(&self.corpus)
                // Behind a finding it goes on another way.
                .arg(format!("-seed={}", seed.map_or(0, |seed| seed.wrapping_add(end))))
                .args([format!("-max_total_time={left}"), format!("-max_len={MAX_LENGTH}"), "-print_final_stats=1".to_owned()])
                .arg(format!("-artifact_prefix={}/", self.artifacts.display()))
                .output()
                .with_context(|| format!("cannot start {}", self.fuzzer.display()))?;
            self.scratch.clear();
            let log = String::from_utf8_lossy(&output.stderr);
            row.executions += number_behind(&log, "stat::number_of_executed_units:").unwrap_or(0);
            row.coverage = row.coverage.max(coverage(&log));
            if output.status.success() {
                break;
            }
            if output.status.code() == Some(INTERRUPTED) {
                bail!("{} was interrupted", self.target);
            }
            let file = written(&log);
            // A busy machine is no fault of the input.
            let is_slow = output.status.code() == Some(TIMED_OUT);
            if is_slow && file.as_deref().is_some_and(|file| self.survives(file)) {
                let _ = file.map(fs::remove_file);
                continue;
            }
            let what = if is_slow { format!("takes more than {LIMIT} s") } else { reason(&log) };
            let finding = Finding { what, file };
            eprintln!("fuzz: {}: {}", self.target, finding.what);
            let duplicate = finding.file.clone();
            if !row.add(finding) {
                let _ = duplicate.map(fs::remove_file);
            }
        }
        row.seconds = begun.elapsed().as_secs_f64();
        Ok(row)
    }

    /// Whether the target survives an input now.
    fn survives(&self, file: &Path) -> bool {
        let status = self.command().arg(file).stdout(Stdio::null()).stderr(Stdio::null()).status();
        self.scratch.clear();
        status.is_ok_and(|status| status.success())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.fuzzer);
        command.env("EASYEDIT_FUZZ_TARGET", self.target).env("TMPDIR", &self.scratch.0);
        // One core: two targets run side by side, and what they find is found again.
        command.env("RAYON_NUM_THREADS", "1");
        command.args([format!("-timeout={LIMIT}"), "-rss_limit_mb=2048".to_owned(), "-malloc_limit_mb=500".to_owned()]);
        command
    }
}

/// The number behind the last `label`.
fn number_behind(log: &str, label: &str) -> Option<u64> {
    log.rsplit_once(label)?.1.split_whitespace().next()?.parse().ok()
}

/// The edges that were reached by all runs before the process ended.
fn coverage(log: &str) -> Option<u64> {
    number_behind(log, " cov: ")
}

/// The file that libFuzzer says it wrote.
fn written(log: &str) -> Option<PathBuf> {
    let (_, rest) = log.rsplit_once("Test unit written to ")?;
    rest.lines().next().map(PathBuf::from)
}

/// Why the process ended: what we say of panics and memory, or what libFuzzer says.
fn reason(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let of_panic = |(index, line): (usize, &&str)| {
        line.contains("panicked at ").then(|| format!("{line} {}", lines.get(index + 1).copied().unwrap_or_default()))
    };
    let own = lines
        .iter()
        .enumerate()
        .find_map(of_panic)
        .or_else(|| lines.iter().find(|line| line.starts_with("memory: ")).map(|line| (*line).to_owned()));
    let overflow = || lines.iter().find(|line| line.contains("has overflowed its stack")).map(|line| (*line).to_owned());
    let summary = || lines.iter().rev().find_map(|line| line.strip_prefix("SUMMARY: libFuzzer: ")).map(str::to_owned);
    own.or_else(overflow).or_else(summary).unwrap_or_else(|| "ended without a word".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "#2\tINITED cov: 4 ft: 4 exec/s: 0\n#9\tNEW    cov: 17 ft: 5\npanicked at src/a.rs:3:4:\nindex out of bounds\n\
        ==1== ERROR: libFuzzer: deadly signal\nSUMMARY: libFuzzer: deadly signal\nartifact_prefix='x/'; Test unit written to x/crash-01\n\
        stat::number_of_executed_units: 912\nstat::peak_rss_mb: 20\n";

    #[test]
    fn a_log_tells_runs_coverage_reason_and_file() {
        assert_eq!(number_behind(LOG, "stat::number_of_executed_units:"), Some(912));
        assert_eq!(coverage(LOG), Some(17));
        assert_eq!(reason(LOG), "panicked at src/a.rs:3:4: index out of bounds");
        assert_eq!(written(LOG), Some("x/crash-01".into()));
        assert_eq!(reason("SUMMARY: libFuzzer: out-of-memory (used: 3Mb)"), "out-of-memory (used: 3Mb)");
        assert_eq!(reason("memory: an allocation of 9 bytes\nSUMMARY: libFuzzer: deadly signal"), "memory: an allocation of 9 bytes");
    }
}
