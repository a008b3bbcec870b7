use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::{EditRequest, Error, EvaluationPrompt, Result};
use serde::Serialize;
use serde_json::Value;

use crate::dataset::{dataset_of, read_text};
use crate::records::each_record;
use crate::{Dataset, Fault, Format};

/// What a file of a dataset holds, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// What the file holds, by its first record.
    pub format: Format,
    /// Number of records, those that cannot be used among them.
    pub records: usize,
    /// What its facts have.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub facts: Option<FactCounts>,
    /// Records that cannot be read.
    pub faults: Vec<Fault>,
    /// The first records, as requests, or as they are where they are no facts.
    pub samples: Vec<Value>,
}

/// How many facts have what.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FactCounts {
    /// Facts with something to edit.
    pub facts: usize,
    /// Facts whose target is empty.
    pub without_target: usize,
    /// Records of more than one fact that belong together.
    pub records_of_several_facts: usize,
    /// Facts with a subject, which methods that locate facts need.
    pub with_subject: usize,
    /// Facts that say what is true before the edit.
    pub with_ground_truth: usize,
    /// Facts with a prompt in other words, for generalization.
    pub with_rephrased_prompt: usize,
    /// Prompts in other words.
    pub rephrased_prompts: usize,
    /// Facts whose target has aliases.
    pub with_aliases: usize,
    /// Prompts of locality by name.
    pub locality: BTreeMap<String, usize>,
    /// Prompts of portability by name.
    pub portability: BTreeMap<String, usize>,
}

impl FactCounts {
    fn of(dataset: &Dataset) -> Self {
        let mut counts = Self { without_target: dataset.without_target, ..Self::default() };
        let is_group = !matches!(dataset.format, Format::Relation | Format::Columns);
        counts.records_of_several_facts = dataset.records.iter().filter(|record| is_group && record.requests.len() > 1).count();
        let add = |counts: &mut BTreeMap<String, usize>, prompts: &BTreeMap<String, Vec<EvaluationPrompt>>| {
            prompts.iter().for_each(|(name, prompts)| *counts.entry(name.clone()).or_default() += prompts.len());
        };
        for request in dataset.requests() {
            let EditRequest { subject, ground_truth, rephrase_prompts, target_new_aliases, locality, portability, .. } = request;
            counts.facts += 1;
            counts.with_subject += usize::from(subject.as_ref().is_some_and(|subject| !subject.trim().is_empty()));
            counts.with_ground_truth += usize::from(ground_truth.is_some());
            counts.with_rephrased_prompt += usize::from(!rephrase_prompts.is_empty());
            counts.rephrased_prompts += rephrase_prompts.len();
            counts.with_aliases += usize::from(!target_new_aliases.is_empty());
            add(&mut counts.locality, locality);
            add(&mut counts.portability, portability);
        }
        counts
    }
}

/// Looks into a file: what it is, what its records have, and the first `samples` of them.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be read; [`Error::Format`] naming it if it holds no records of a known format.
pub fn inspect(path: &Path, samples: usize) -> Result<Inspection> {
    let text = read_text(path)?;
    let (mut records, mut first, mut format) = (0, Vec::new(), None);
    each_record(path, &text, &mut |_, record| {
        records += 1;
        if let Ok(record) = record {
            let of_record = match &record {
                Value::Object(record) => Format::of(record),
                Value::String(_) => Some(Format::Texts),
                _ => None,
            };
            format = format.or(of_record);
            if first.len() < samples {
                first.push(record);
            }
        }
    })
    .map_err(|message| Error::format(path, message))?;
    match format {
        Some(format) if format.no_facts().is_some() => Ok(Inspection { format, records, facts: None, faults: Vec::new(), samples: first }),
        _ => {
            let dataset = dataset_of(path, &text)?;
            let samples = dataset.requests().take(samples).map(serde_json::to_value).collect::<std::result::Result<_, _>>();
            Ok(Inspection {
                format: dataset.format,
                records,
                facts: Some(FactCounts::of(&dataset)),
                samples: samples.map_err(Error::other)?,
                faults: dataset.faults,
            })
        }
    }
}
