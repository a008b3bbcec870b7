//! What a run is to be read with: the machine, the commit, the time.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::process::command;

/// Date, commit and machine.
pub(crate) fn header(root: &Path) -> Map<String, Value> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory, system) = (read("/proc/cpuinfo"), read("/proc/meminfo"), read("/etc/os-release"));
    let changed = output(root, &["git", "status", "--porcelain", "--untracked-files=no"]);
    let fields = json!({
        "date": utc(seconds),
        "commit": output(root, &["git", "rev-parse", "--short=12", "HEAD"]),
        "changed": changed.map(|text| !text.is_empty()),
        "machine": {
            "cpu": value_of(&cpus, "model name", ':'),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "memory_gb": value_of(&memory, "MemTotal", ':').as_deref().and_then(gigabytes),
            "os": value_of(&system, "PRETTY_NAME", '=').unwrap_or_else(|| std::env::consts::OS.to_owned()),
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "architecture": std::env::consts::ARCH,
        },
        "rustc": output(root, &["rustc", "--version"]),
    });
    fields.as_object().cloned().unwrap_or_default()
}

fn output(root: &Path, line: &[&str]) -> Option<String> {
    let output = command(root, line).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first value behind `key` in a table of `key separator value` lines.
fn value_of(table: &str, key: &str, separator: char) -> Option<String> {
    table.lines().find_map(|line| {
        let (name, value) = line.split_once(separator)?;
        (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// `16384000 kB` in 10^9 bytes, with one decimal.
fn gigabytes(text: &str) -> Option<f64> {
    let kibibytes: f64 = text.strip_suffix("kB")?.trim().parse().ok()?;
    Some((kibibytes * 1024.0 / 1e8).round() / 10.0)
}

/// Seconds since 1970 as `2026-11-24T13:00:00Z`.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the leap day is a year's last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_795_525_200, "2026-11-24T13:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }

    #[test]
    fn system_tables_are_read() {
        let table = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nmodel name\t: B\n";
        assert_eq!(value_of(table, "model name", ':').as_deref(), Some("A CPU @ 2 GHz"));
        assert_eq!(value_of("NAME=\"x\"\nPRETTY_NAME=\"An OS\"", "PRETTY_NAME", '=').as_deref(), Some("An OS"));
        assert_eq!(gigabytes("16384000 kB"), Some(16.8));
        assert_eq!(gigabytes("many"), None);
    }
}
