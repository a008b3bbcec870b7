//! Running other programs: echoed, timed, and with their closing lines kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A command line that is run in the repository's root.
pub(crate) fn command(root: &Path, line: &[&str]) -> Command {
    let (program, arguments) = line.split_first().unwrap_or((&"true", &[]));
    // `cargo` must be the one that runs us: it knows the toolchain that was chosen.
    let program = if *program == "cargo" { std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()) } else { (*program).to_owned() };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root);
    // What cargo tells us of ourselves. Build scripts look at it: with it, half of the workspace is built again after every build that
    // was not started from here.
    for (name, _) in std::env::vars_os() {
        if is_about_us(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether a variable describes the package that cargo is running.
fn is_about_us(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}

/// Whether `line` runs and succeeds; its output is dropped.
pub(crate) fn succeeds(root: &Path, line: &[&str]) -> bool {
    let mut command = command(root, line);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether `line` succeeds within `limit`; it is ended when it does not.
pub(crate) fn succeeds_within(root: &Path, line: &[&str], limit: Duration) -> bool {
    let mut command = command(root, line);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let start = Instant::now();
    while start.elapsed() < limit {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Runs a command, passing its output on, and says whether it succeeded.
pub(crate) fn run(command: &mut Command) -> Result<bool> {
    announce(command);
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    Ok(status.success())
}

/// As [`run`], and keeps the lines that `is_kept`; what passed tests print is hidden, but for lines that are kept.
pub(crate) fn run_keeping(command: &mut Command, is_kept: fn(&str) -> bool) -> Result<(bool, Vec<String>)> {
    announce(command);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let kept = Mutex::new(Vec::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        if let Some(out) = out {
            scope.spawn(|| pass_on(out, std::io::stdout(), is_kept, &kept));
        }
        if let Some(err) = err {
            scope.spawn(|| pass_on(err, std::io::stderr(), is_kept, &kept));
        }
    });
    let status = child.wait()?;
    Ok((status.success(), kept.into_inner().unwrap_or_default()))
}

fn pass_on(from: impl Read, mut to: impl Write, is_kept: fn(&str) -> bool, kept: &Mutex<Vec<String>>) {
    let mut line = Vec::new();
    let mut from = BufReader::new(from);
    let mut in_passed = false;
    while matches!(from.read_until(b'\n', &mut line), Ok(read) if read > 0) {
        let text = String::from_utf8_lossy(&line);
        if let Some(status) = status_of(&text) {
            in_passed = status == "PASS";
        } else if text.starts_with('─') {
            in_passed = false;
        }
        let keep = is_kept(text.trim());
        if keep || !in_passed || status_of(&text).is_some() {
            let _ = to.write_all(&line);
        }
        if keep && let Ok(mut kept) = kept.lock() {
            kept.push(text.trim_end().to_owned());
        }
        line.clear();
    }
}

/// `PASS` of nextest's `        PASS [   0.006s] (5/8) crate::test name`.
fn status_of(line: &str) -> Option<&str> {
    let (status, rest) = line.trim_start().split_once(" [")?;
    let is_status = line.starts_with("    ") && rest.trim_start().starts_with(|c: char| c.is_ascii_digit() || c == '>');
    (is_status && status.chars().all(char::is_alphabetic)).then_some(status)
}

fn announce(command: &Command) {
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    eprintln!("$ {} {}", program.to_string_lossy(), arguments.join(" "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended() {
        let start = Instant::now();
        assert!(!succeeds_within(Path::new("."), &["sleep", "30"], Duration::from_millis(200)));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn programs_are_not_told_which_package_runs_them() {
        let told = command(Path::new("."), &["env"]).output().unwrap();
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some() && !told.is_empty());
        assert!(!told.lines().any(is_about_us), "{told}");
    }

    #[test]
    fn a_program_that_is_not_there_has_not_succeeded() {
        assert!(!succeeds(Path::new("."), &["no-such-program-here"]));
    }

    #[test]
    fn passed_tests_say_only_why_they_were_skipped() {
        let lines = "        PASS [   0.006s] (1/2) a::b\n  stdout ───\n    noise\n    skipped: no file\n        FAIL [   0.1s] (2/2) a::c\n    why\n";
        let (mut shown, kept) = (Vec::new(), Mutex::new(Vec::new()));
        pass_on(lines.as_bytes(), &mut shown, |line| line.starts_with("skipped:"), &kept);
        let shown = String::from_utf8(shown).unwrap();
        assert!(!shown.contains("noise") && shown.contains("why") && shown.contains("PASS"), "{shown}");
        assert_eq!(kept.into_inner().unwrap(), ["    skipped: no file"]);
    }

    #[test]
    fn chosen_lines_are_kept() {
        let mut shell = command(Path::new("."), &["sh", "-c", "echo one; echo '  two' >&2; exit 3"]);
        let (success, kept) = run_keeping(&mut shell, |line| line.starts_with("two")).unwrap();
        assert!(!success);
        assert_eq!(kept, ["  two"]);
    }
}
