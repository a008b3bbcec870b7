//! A run of the benchmarks, and its file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// Version of the files' form.
const FORMAT: u64 = 1;
/// A sample during which others used less of the machine than this is undisturbed.
pub(super) const QUIET: f64 = 0.1;

/// A run: what it ran on, and what was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    /// Date, commit, machine, and what the benchmarks tell of themselves.
    pub(super) header: Map<String, Value>,
    /// By `model/section`, in the order they were measured.
    pub(super) sections: Vec<Section>,
    /// What was not run, and why.
    pub(super) skipped: BTreeMap<String, String>,
    /// What failed, and why.
    pub(super) failed: BTreeMap<String, String>,
}

/// A section of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Section {
    /// `model/section`.
    pub(super) name: String,
    /// Its timings, in the order they were taken.
    pub(super) samples: Vec<Sample>,
    /// Largest memory, in 10^6 bytes.
    pub(super) peak_memory_mb: Option<f64>,
    /// Whether the first sample is the first run at all.
    pub(super) cold: bool,
    /// Numbers of tokens, passes, edits.
    pub(super) counts: Map<String, Value>,
}

/// One timing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: Option<f64>,
    /// Share of the machine that others used meanwhile.
    pub(super) others: Option<f64>,
}

/// Median and extremes of timings, undisturbed ones if there are any.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    /// Median share that others used during these.
    pub(super) others: Option<f64>,
    /// How many of the timings were undisturbed; the summary is of them, or of all if there are none.
    pub(super) quiet: usize,
}

impl Section {
    /// Median and extremes; `None` without timings.
    pub(super) fn summary(&self) -> Option<Summary> {
        let quiet: Vec<&Sample> = self.samples.iter().filter(|sample| sample.others.is_some_and(|others| others < QUIET)).collect();
        let used: Vec<&Sample> = if quiet.is_empty() { self.samples.iter().collect() } else { quiet.clone() };
        let seconds: Vec<f64> = used.iter().map(|sample| sample.seconds).collect();
        let others: Vec<f64> = used.iter().filter_map(|sample| sample.others).collect();
        Some(Summary {
            median: median(&seconds)?,
            least: seconds.iter().copied().fold(f64::INFINITY, f64::min),
            most: seconds.iter().copied().fold(0.0, f64::max),
            others: median(&others),
            quiet: quiet.len(),
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let sample = |value: &Value| {
            Some(Sample {
                seconds: value["seconds"].as_f64()?,
                cpu_seconds: value["cpu_seconds"].as_f64(),
                others: value["others"].as_f64(),
            })
        };
        Some(Self {
            name: value["section"].as_str()?.to_owned(),
            samples: value["samples"].as_array()?.iter().map(sample).collect::<Option<_>>()?,
            peak_memory_mb: value["peak_memory_mb"].as_f64(),
            cold: value["cold"].as_bool().unwrap_or_default(),
            counts: value["counts"].as_object().cloned().unwrap_or_default(),
        })
    }

    fn to_json(&self) -> Value {
        let sample = |s: &Sample| json!({ "seconds": s.seconds, "cpu_seconds": s.cpu_seconds, "others": s.others });
        let summary = self.summary();
        json!({
            "section": self.name,
            "median": summary.map(|s| s.median),
            "least": summary.map(|s| s.least),
            "most": summary.map(|s| s.most),
            "quiet_samples": summary.map(|s| s.quiet),
            "cold": self.cold,
            "peak_memory_mb": self.peak_memory_mb,
            "counts": self.counts,
            "samples": self.samples.iter().map(sample).collect::<Vec<_>>(),
        })
    }
}

impl Run {
    /// Takes a line of the benchmarks; gives what there is to tell of it.
    pub(super) fn add(&mut self, line: Value) -> Result<Option<String>> {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        match line["kind"].as_str() {
            Some("header") => {
                let told = line.as_object().cloned().unwrap_or_default();
                self.header.extend(told.into_iter().filter(|(key, _)| key != "kind"));
                Ok(None)
            }
            Some("section") => {
                let section = Section::from_json(&line).with_context(|| format!("the line of a section lacks something: {line}"))?;
                self.sections.push(section);
                Ok(None)
            }
            Some("skipped") => {
                let told = format!("skipped: {}: {}", text("section"), text("reason"));
                self.skipped.insert(text("section"), text("reason"));
                Ok(Some(told))
            }
            Some("failed") => {
                let told = format!("failed: {}: {}", text("section"), text("reason"));
                self.failed.insert(text("section"), text("reason"));
                Ok(Some(told))
            }
            _ => bail!("the benchmarks printed a line of an unknown kind: {line}"),
        }
    }

    /// The section called `name`.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// A text of the header.
    pub(super) fn told(&self, key: &str) -> &str {
        self.header.get(key).and_then(Value::as_str).unwrap_or("?")
    }

    /// Date and commit, as a file is called.
    pub(super) fn file_name(&self) -> String {
        let date: String = self.told("date").chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        let commit: String = self.told("commit").chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{date}-{commit}.json")
    }

    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        if value["format"].as_u64() != Some(FORMAT) {
            bail!("is no run of `cargo xtask bench` (`format` is not {FORMAT})");
        }
        let sections = value["sections"].as_array().context("has no list `sections`")?;
        let sections = sections.iter().map(Section::from_json).collect::<Option<_>>().context("has a section without name or samples")?;
        let reasons = |key: &str| -> BTreeMap<String, String> {
            let map = value[key].as_object().into_iter().flatten();
            map.map(|(name, reason)| (name.clone(), reason.as_str().unwrap_or_default().to_owned())).collect()
        };
        Ok(Self {
            header: value["run"].as_object().cloned().unwrap_or_default(),
            sections,
            skipped: reasons("skipped"),
            failed: reasons("failed"),
        })
    }

    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn to_json(&self) -> Value {
        let sections: Vec<Value> = self.sections.iter().map(Section::to_json).collect();
        json!({ "format": FORMAT, "run": self.header, "sections": sections, "skipped": self.skipped, "failed": self.failed })
    }

    /// Writes a file, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let folder = path.parent().context("a file needs a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let unfinished = path.with_extension("json.unfinished");
        std::fs::write(&unfinished, format!("{:#}\n", self.to_json())).with_context(|| format!("cannot write {}", unfinished.display()))?;
        std::fs::rename(&unfinished, path).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The middle value, or the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some((low + high) / 2.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn run(sections: &[(&str, &[(f64, f64)])]) -> Run {
        let sample = |(seconds, others): &(f64, f64)| Sample { seconds: *seconds, cpu_seconds: Some(1.0), others: Some(*others) };
        let section = |(name, samples): &(&str, &[(f64, f64)])| Section {
            name: (*name).to_owned(),
            samples: samples.iter().map(sample).collect(),
            peak_memory_mb: Some(100.0),
            ..Section::default()
        };
        let header = json!({ "date": "2026-11-24T13:00:00Z", "commit": "abc", "machine": { "cpu": "A", "cores": 2 } });
        Run { header: header.as_object().unwrap().clone(), sections: sections.iter().map(section).collect(), ..Run::default() }
    }

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let folder = std::env::temp_dir().join(format!("xtask-runs-{}", std::process::id()));
        let mut run = run(&[("m/a", &[(1.0, 0.0), (2.0, 0.5)])]);
        run.skipped.insert("m/*".into(), "no such model".into());
        assert_eq!(run.file_name(), "20261124T130000Z-abc.json");
        let path = folder.join(run.file_name());
        run.write(&path).unwrap();
        assert_eq!(Run::read(&path).unwrap(), run);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn files_that_are_none_say_so() {
        for text in ["", "[]", r#"{"format": 1}"#, r#"{"format": 1, "sections": [{"section": "a"}]}"#, r#"{"format": 9, "sections": []}"#] {
            assert!(Run::parse(text).is_err(), "{text}");
        }
        assert!(Run::read(Path::new("no/such.json")).unwrap_err().to_string().contains("no/such.json"));
    }

    #[test]
    fn lines_of_the_benchmarks_are_taken() {
        let mut run = Run::default();
        run.add(json!({"kind": "header", "seed": 3})).unwrap();
        let line = json!({"kind": "section", "section": "m/a", "samples": [{"seconds": 2.0, "cpu_seconds": null, "others": null}], "counts": {"edits": 1}});
        run.add(line).unwrap();
        assert!(run.add(json!({"kind": "skipped", "section": "m/*", "reason": "no model"})).unwrap().unwrap().contains("no model"));
        assert!(run.add(json!({"kind": "failed", "section": "m/b", "reason": "r"})).unwrap().is_some());
        assert!(run.add(json!({"kind": "section", "section": "m/a"})).is_err() && run.add(json!(1)).is_err());
        assert_eq!((run.header["seed"].as_u64(), run.section("m/a").unwrap().counts["edits"].as_u64()), (Some(3), Some(1)));
        assert_eq!((run.skipped.len(), run.failed.len()), (1, 1));
    }

    #[test]
    fn disturbed_samples_count_only_where_there_are_no_others() {
        let disturbed = run(&[("a", &[(3.0, 0.5), (1.0, 0.01), (2.0, 0.02)]), ("b", &[(4.0, 0.5), (2.0, 0.4)]), ("c", &[])]);
        let summary = disturbed.sections[0].summary().unwrap();
        assert_eq!((summary.median, summary.least, summary.most, summary.quiet), (1.5, 1.0, 2.0, 2));
        let summary = disturbed.sections[1].summary().unwrap();
        assert_eq!((summary.median, summary.quiet, summary.others), (3.0, 0, Some(0.45)));
        assert!(disturbed.sections[2].summary().is_none());
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!((median(&[]), median(&[3.0]), median(&[3.0, 1.0, 2.0]), median(&[1.0, 2.0])), (None, Some(3.0), Some(2.0), Some(1.5)));
    }
}
