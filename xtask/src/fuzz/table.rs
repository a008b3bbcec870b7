//! What fuzzing came to, one row a target.

use std::fmt::Write;
use std::path::PathBuf;

/// A target's run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) target: String,
    pub(super) executions: u64,
    /// Edges of the workspace's code that were reached; none of blind runs.
    pub(super) coverage: Option<u64>,
    pub(super) seconds: f64,
    pub(super) findings: Vec<Finding>,
}

/// An input that the program does not survive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// What happened.
    pub(super) what: String,
    /// The input; none if it could not be kept.
    pub(super) file: Option<PathBuf>,
}

impl Row {
    pub(super) fn new(target: &str) -> Self {
        Self { target: target.to_owned(), ..Self::default() }
    }

    /// Adds a finding unless one that says the same is there already; numbers do not count.
    pub(super) fn add(&mut self, finding: Finding) -> bool {
        let known = self.findings.iter().any(|other| nameless(&other.what) == nameless(&finding.what));
        if !known {
            self.findings.push(finding);
        }
        !known
    }
}

/// A message without its numbers, but with the lines of sources.
fn nameless(what: &str) -> String {
    let mut words: Vec<String> = what.split_whitespace().map(str::to_owned).collect();
    for word in &mut words {
        if !word.contains(".rs:") {
            word.retain(|c| !c.is_ascii_digit());
        }
    }
    words.join(" ")
}

/// The rows, and below them the findings.
pub(super) fn render(rows: &[Row]) -> String {
    let mut text = format!("{:<14} {:>10} {:>8} {:>9} {:>8} {:>9}\n", "target", "runs", "runs/s", "coverage", "seconds", "findings");
    for row in rows {
        let rate = row.executions as f64 / row.seconds.max(0.001);
        let coverage = row.coverage.map_or("-".to_owned(), |edges| edges.to_string());
        let _ = writeln!(
            text,
            "{:<14} {:>10} {:>8.0} {:>9} {:>8.1} {:>9}",
            row.target,
            row.executions,
            rate,
            coverage,
            row.seconds,
            row.findings.len()
        );
    }
    for (row, finding) in rows.iter().flat_map(|row| row.findings.iter().map(move |finding| (row, finding))) {
        let file = finding.file.as_ref().map_or("not kept".to_owned(), |path| path.display().to_string());
        let _ = writeln!(text, "\n{}: {}\n  {file}", row.target, finding.what);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_that_differ_in_numbers_alone_are_one() {
        let finding = |what: &str| Finding { what: what.into(), file: None };
        let mut row = Row::new("a");
        assert!(row.add(finding("panicked at src/x.rs:10:5: index 7 of 3")));
        assert!(!row.add(finding("panicked at src/x.rs:10:5: index 9 of 2")));
        assert!(row.add(finding("panicked at src/x.rs:11:5: index 7 of 3")));
        assert!(render(&[row]).contains("x.rs:11:5"));
    }
}
