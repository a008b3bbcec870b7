//! Runs as tables.

use serde_json::Value;

use super::run_file::{Run, Section, Summary};

/// One run: every section with median, spread, memory and what others used meanwhile.
pub(super) fn overview(run: &Run) -> String {
    let mut text = describe("", run);
    text += &format!("\n{:<40} {:>10} {:>21} {:>8} {:>7}  {}\n", "section", "median", "least .. most", "MB", "others", "counts");
    for section in &run.sections {
        let Some(summary) = section.summary() else { continue };
        let memory = section.peak_memory_mb.map_or_else(|| "?".to_owned(), |mb| format!("{mb:.0}"));
        let counts: Vec<String> = section.counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        text += &format!(
            "{:<40} {:>10} {:>21} {:>8} {:>7}  {}{}\n",
            section.name,
            seconds(summary.median),
            spread(&summary),
            memory,
            share(summary.others),
            counts.join(", "),
            if section.cold { " (cold)" } else { "" },
        );
    }
    for (word, reasons) in [("skipped", &run.skipped), ("failed", &run.failed)] {
        for (name, reason) in reasons {
            text += &format!("{word}: {name}: {reason}\n");
        }
    }
    text
}

/// Two runs: the ratio of their medians, and between which it lies if each side's extremes met.
pub(super) fn table(a: &Run, b: &Run) -> String {
    let mut text = describe("A  ", a) + &describe("B  ", b);
    if a.header.get("machine") != b.header.get("machine") {
        text += "the machines differ: ratios tell of both code and machine\n";
    }
    text += &format!("\n{:<40} {:>10} {:>10} {:>7} {:>15} {:>13}\n", "section", "A", "B", "B/A", "from .. to", "others A, B");
    let mut only_in_a = Vec::new();
    for section in &a.sections {
        match (section.summary(), b.section(&section.name).and_then(Section::summary)) {
            (Some(first), Some(second)) => text += &row(&section.name, &first, &second),
            _ => only_in_a.push(section.name.as_str()),
        }
    }
    let only_in_b: Vec<&str> = b.sections.iter().map(|section| section.name.as_str()).filter(|name| a.section(name).is_none()).collect();
    for (word, names) in [("A", only_in_a), ("B", only_in_b)] {
        if !names.is_empty() {
            text += &format!("only in {word}: {}\n", names.join(", "));
        }
    }
    text
}

fn row(name: &str, a: &Summary, b: &Summary) -> String {
    let ratio = |b: f64, a: f64| b / a.max(f64::MIN_POSITIVE);
    let range = format!("{:.2} .. {:.2}", ratio(b.least, a.most), ratio(b.most, a.least));
    let others = format!("{}, {}", share(a.others), share(b.others));
    format!("{name:<40} {:>10} {:>10} {:>7.2} {range:>15} {others:>13}\n", seconds(a.median), seconds(b.median), ratio(b.median, a.median))
}

fn describe(prefix: &str, run: &Run) -> String {
    let machine = |key: &str| match run.header.get("machine").and_then(|machine| machine.get(key)) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "?".to_owned(),
    };
    let changed = if run.header.get("changed").and_then(Value::as_bool) == Some(true) { " with changes" } else { "" };
    format!(
        "{prefix}{}, commit {}{changed}, {} ({} cores), {}\n",
        run.told("date"),
        run.told("commit"),
        machine("cpu"),
        machine("cores"),
        machine("os")
    )
}

/// Seconds with three significant digits, in a unit that suits them.
pub(super) fn seconds(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "us"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let decimals = match value {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

fn spread(summary: &Summary) -> String {
    format!("{} .. {}", seconds(summary.least), seconds(summary.most))
}

pub(super) fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "?".to_owned(), |share| format!("{:.0} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::super::run_file::tests::run;
    use super::*;

    #[test]
    fn ratios_are_of_medians_with_their_extremes() {
        let a = run(&[("m/a", &[(2.0, 0.0), (4.0, 0.0), (3.0, 0.0)]), ("m/old", &[(1.0, 0.0)])]);
        let b = run(&[("m/a", &[(1.0, 0.0), (1.5, 0.0), (2.0, 0.05)]), ("m/new", &[(1.0, 0.0)])]);
        let text = table(&a, &b);
        let row = text.lines().find(|line| line.starts_with("m/a")).unwrap();
        for part in ["3.00 s", "1.50 s", " 0.50 ", "0.25 .. 1.00", "0 %, 0 %"] {
            assert!(row.contains(part), "{part:?} is not in {row}");
        }
        assert!(text.contains("only in A: m/old\nonly in B: m/new\n"), "{text}");
        assert!(!text.contains("machines differ"));
    }

    #[test]
    fn another_machine_is_told_of() {
        let (a, mut b) = (run(&[]), run(&[]));
        b.header.insert("machine".into(), serde_json::json!({"cpu": "B"}));
        assert!(table(&a, &b).contains("machines differ"));
    }

    #[test]
    fn an_overview_shows_sections_and_what_was_skipped() {
        let mut told = run(&[("m/a", &[(0.002, 0.01)])]);
        told.skipped.insert("n/*".into(), "no such model".into());
        told.sections[0].counts.insert("edits".into(), 3.into());
        let text = overview(&told);
        for part in ["abc", "2.00 ms", "2.00 ms .. 2.00 ms", "1 %", "3 edits", "skipped: n/*: no such model"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn seconds_have_three_digits() {
        let texts = [0.000_012_3, 0.001_5, 0.25, 2.0, 12.34, 1234.0].map(seconds);
        assert_eq!(texts, ["12.3 us", "1.50 ms", "250 ms", "2.00 s", "12.3 s", "1234 s"]);
    }
}
