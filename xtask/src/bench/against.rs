//! Another program's timings beside ours, in turn, so that what else the machine does falls on both.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Ours;
use super::compare::{seconds, share};
use super::run_file::{Run, Sample, Section, median};
use crate::process::command;

/// Sections of the Python reference's stopwatch, and which of ours measures the same.
const PAIRS: &[(&str, &str)] = &[
    // The first of the reference's facts is the one whose subject all but ends the prompt.
    ("rome/total", "smollm2-135m/rome-short-reference"),
    ("memit/1", "smollm2-135m/memit-1"),
    ("memit/10", "smollm2-135m/memit-10-reference"),
    ("memit/100", "smollm2-135m/memit-100"),
    ("cov5/layers4-8", "smollm2-135m/moments-5"),
    ("eval/1x100", "smollm2-135m/evaluate-100"),
];

/// A pair of sections over the rounds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Pair {
    theirs: Vec<Sample>,
    ours: Vec<Sample>,
}

/// Runs `other` and ours `rounds` times, the one first and then the other first, and prints the ratios; whether ours succeeded.
pub(super) fn run(ours: &Ours<'_>, other: &str, pairs: &[String], rounds: usize) -> Result<bool> {
    let pairs = pairs_of(pairs)?;
    let mut measured: BTreeMap<String, Pair> = BTreeMap::new();
    let (mut success, mut wanted) = (true, Vec::new());
    for round in 0..rounds.max(1) {
        eprintln!("round {} of {}", round + 1, rounds.max(1));
        let mut measure_ours = |wanted: &[String]| -> Result<Run> {
            let (run, sound) = ours.run(wanted)?;
            success &= sound;
            Ok(run)
        };
        // The first round shows which of our sections have a counterpart.
        let (theirs, run) = if round % 2 == 0 {
            let theirs = measure_other(ours, other)?;
            if wanted.is_empty() {
                wanted = counterparts(&theirs, &pairs);
                if wanted.is_empty() {
                    let names: Vec<&str> = theirs.keys().map(String::as_str).collect();
                    bail!("none of the command's sections ({}) is one of ours; name them with --pair THEIRS=OURS", names.join(", "));
                }
            }
            let run = measure_ours(&wanted)?;
            (theirs, run)
        } else {
            let run = measure_ours(&wanted)?;
            (measure_other(ours, other)?, run)
        };
        for (name, sample) in theirs {
            let Some(own) = counterpart(&name, &pairs).and_then(|own| run.section(&own)) else { continue };
            let Some(own) = one_sample(own) else { continue };
            // What is measured is shown at once: a round may take minutes, and the next may be broken off.
            let [of_others, of_ours] = [sample, own].map(|s| format!("{} (others {})", seconds(s.seconds), share(s.others)));
            eprintln!("{name}: theirs {of_others}, ours {of_ours}, ratio {:.2}", sample.seconds / own.seconds);
            let pair = measured.entry(name).or_default();
            pair.theirs.push(sample);
            pair.ours.push(own);
        }
    }
    print!("{}", table(&measured, &pairs));
    Ok(success)
}

/// The pairs that are known, with those that were given before them.
fn pairs_of(given: &[String]) -> Result<BTreeMap<String, String>> {
    let mut pairs: BTreeMap<String, String> = PAIRS.iter().map(|(theirs, ours)| ((*theirs).to_owned(), (*ours).to_owned())).collect();
    for pair in given {
        let (theirs, ours) = pair.rsplit_once('=').with_context(|| format!("--pair {pair:?} is no THEIRS=OURS"))?;
        pairs.insert(theirs.trim().to_owned(), ours.trim().to_owned());
    }
    Ok(pairs)
}

/// Ours for a section of theirs.
fn counterpart(theirs: &str, pairs: &BTreeMap<String, String>) -> Option<String> {
    pairs.get(theirs).cloned()
}

fn counterparts(theirs: &BTreeMap<String, Sample>, pairs: &BTreeMap<String, String>) -> Vec<String> {
    theirs.keys().filter_map(|name| counterpart(name, pairs)).collect()
}

/// A section of ours as one sample: medians.
fn one_sample(section: &Section) -> Option<Sample> {
    let summary = section.summary()?;
    let cpu: Vec<f64> = section.samples.iter().filter_map(|sample| sample.cpu_seconds).collect();
    Some(Sample { seconds: summary.median, cpu_seconds: median(&cpu), others: summary.others })
}

fn measure_other(ours: &Ours<'_>, other: &str) -> Result<BTreeMap<String, Sample>> {
    let shell: [&str; 2] = if cfg!(windows) { ["cmd", "/C"] } else { ["sh", "-c"] };
    let mut child = command(ours.root, &[shell[0], shell[1], other]).stdout(Stdio::piped()).spawn().context("cannot start the command")?;
    let out = child.stdout.take().context("the command has no output")?;
    let mut sections = BTreeMap::new();
    for line in BufReader::new(out).lines() {
        sections.extend(sections_of(&line?));
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the command failed ({status}): {other}");
    }
    if sections.is_empty() {
        bail!("the command printed no seconds of any section: {other}");
    }
    Ok(sections)
}

/// The sections of a line: `{"section": name, "median": seconds}`, with `samples` of `[seconds, others, cpu]` if there are any; or
/// `{name: seconds, ...}`. Other lines hold none.
fn sections_of(line: &str) -> BTreeMap<String, Sample> {
    let Ok(Value::Object(line)) = serde_json::from_str::<Value>(line) else { return BTreeMap::new() };
    let Some(name) = line.get("section").and_then(Value::as_str) else {
        let plain = |value: &Value| Some(Sample { seconds: value.as_f64()?, ..Sample::default() });
        return line.iter().filter_map(|(name, value)| Some((name.clone(), plain(value)?))).collect();
    };
    let Some(seconds) = ["median", "seconds"].iter().find_map(|key| line.get(*key)?.as_f64()) else { return BTreeMap::new() };
    let samples = line.get("samples").and_then(Value::as_array).cloned().unwrap_or_default();
    let column = |index: usize| median(&samples.iter().filter_map(|sample| sample.get(index)?.as_f64()).collect::<Vec<_>>());
    [(name.to_owned(), Sample { seconds, cpu_seconds: column(2), others: column(1) })].into()
}

fn table(measured: &BTreeMap<String, Pair>, pairs: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "{:<18} {:<34} {:>6} {:>10} {:>10} {:>7} {:>15} {:>9} {:>14}\n",
        "theirs", "ours", "rounds", "theirs", "ours", "ratio", "from .. to", "by CPU", "others"
    );
    for (name, pair) in measured {
        let ratios: Vec<f64> = pair.theirs.iter().zip(&pair.ours).map(|(theirs, ours)| theirs.seconds / ours.seconds).collect();
        let by_cpu: Vec<f64> =
            pair.theirs.iter().zip(&pair.ours).filter_map(|(theirs, ours)| Some(theirs.cpu_seconds? / ours.cpu_seconds?)).collect();
        let middle = |values: Vec<f64>| median(&values);
        let seconds_of = |side: &[Sample]| middle(side.iter().map(|s| s.seconds).collect()).map_or_else(|| "?".to_owned(), seconds);
        let others = |side: &[Sample]| share(middle(side.iter().filter_map(|s| s.others).collect()));
        let (least, most) = ratios.iter().fold((f64::INFINITY, 0f64), |(least, most), r| (least.min(*r), most.max(*r)));
        text += &format!(
            "{:<18} {:<34} {:>6} {:>10} {:>10} {:>7.2} {:>15} {:>9} {:>14}\n",
            name,
            counterpart(name, pairs).unwrap_or_default(),
            ratios.len(),
            seconds_of(&pair.theirs),
            seconds_of(&pair.ours),
            middle(ratios.clone()).unwrap_or_default(),
            format!("{least:.2} .. {most:.2}"),
            middle(by_cpu).map_or_else(|| "?".to_owned(), |ratio| format!("{ratio:.2}")),
            format!("{}, {}", others(&pair.theirs), others(&pair.ours)),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_in_both_forms() {
        let line = r#"{"section": "rome/total", "median": 7.9, "samples": [[7.9, 0.01, 15.2], [8.0, 0.03, 15.4]], "threads": 2}"#;
        let sample = sections_of(line)["rome/total"];
        assert_eq!((sample.seconds, sample.others), (7.9, Some(0.02)));
        assert!((sample.cpu_seconds.unwrap() - 15.3).abs() < 1e-9);
        let plain = sections_of(r#"{"rome": 7.9, "cov5": 33, "note": "text"}"#);
        assert_eq!(plain.len(), 2);
        assert_eq!((plain["cov5"].seconds, plain["cov5"].others), (33.0, None));
        for other in ["", "loading ...", "[1]", r#"{"section": "a", "error": "no"}"#] {
            assert!(sections_of(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn pairs_are_known_or_given() {
        let pairs = pairs_of(&["their=name = m/ours".to_owned(), "rome/total=m/other".to_owned()]).unwrap();
        assert_eq!((pairs["their=name"].as_str(), pairs["rome/total"].as_str()), ("m/ours", "m/other"));
        assert_eq!(pairs["memit/1"], "smollm2-135m/memit-1");
        assert!(pairs_of(&["nothing".to_owned()]).is_err());
        let theirs = [("memit/1".to_owned(), Sample::default()), ("unknown".to_owned(), Sample::default())].into();
        assert_eq!(counterparts(&theirs, &pairs), ["smollm2-135m/memit-1"]);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let sample = |seconds: f64| Sample { seconds, cpu_seconds: Some(2.0 * seconds), others: Some(0.05) };
        let pair = Pair { theirs: [4.0, 9.0, 8.0].map(sample).into(), ours: [2.0, 3.0, 2.0].map(sample).into() };
        let text = table(&[("rome/total".to_owned(), pair)].into(), &pairs_of(&[]).unwrap());
        let row = text.lines().nth(1).unwrap();
        for part in ["rome-short-reference", "8.00 s", "2.00 s", " 3.00 ", "2.00 .. 4.00", "5 %, 5 %"] {
            assert!(row.contains(part), "{part:?} is not in {row}");
        }
    }
}
