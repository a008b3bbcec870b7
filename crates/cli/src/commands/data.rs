//! `easyedit data inspect`

use std::collections::BTreeMap;

use anyhow::Result;
use easyedit::Error;
use easyedit::data::{FactCounts, Fault, Inspection, inspect};

use super::{Context, check_file};
use crate::args::{DataArguments, DataCommand, InspectDataArguments};

/// Faults that are shown; the others are counted.
const SHOWN_FAULTS: usize = 10;

pub(super) fn run(context: &Context, arguments: &DataArguments) -> Result<()> {
    match &arguments.command {
        DataCommand::Inspect(arguments) => look_into(context, arguments),
    }
}

fn look_into(context: &Context, arguments: &InspectDataArguments) -> Result<()> {
    check_file("FILE", &arguments.file)?;
    let inspection = inspect(&arguments.file, arguments.samples)?;
    if let (true, Some(Fault { record, reason })) = (arguments.strict, inspection.faults.first()) {
        return Err(Error::format(&arguments.file, format!("record {record}: {reason}")).into());
    }
    context.output.print(&inspection, || text_of(&inspection))
}

fn text_of(inspection: &Inspection) -> String {
    let Inspection { format, records, facts, faults, samples } = inspection;
    let mut text = format!("format    {}\nrecords   {records}\n", format.name());
    match (facts, format.no_facts()) {
        (Some(facts), _) => text.push_str(&text_of_facts(facts)),
        (None, Some(reason)) => text.push_str(&format!("use       {reason}\n")),
        (None, None) => {}
    }
    if !faults.is_empty() {
        text.push_str(&format!("left out  {} records that cannot be read\n", faults.len()));
        faults.iter().take(SHOWN_FAULTS).for_each(|fault| text.push_str(&format!("  record {}: {}\n", fault.record, fault.reason)));
    }
    for sample in samples {
        text.push_str(&format!("\n{sample:#}\n"));
    }
    text
}

fn text_of_facts(counts: &FactCounts) -> String {
    let facts = counts.facts;
    let mut text = format!("facts     {facts}");
    if counts.records_of_several_facts > 0 {
        text.push_str(&format!(", in {} records several that belong together", counts.records_of_several_facts));
    }
    if counts.without_target > 0 {
        text.push_str(&format!("; {} more have an empty target and are left out", counts.without_target));
    }
    text.push('\n');
    let mut part = |name: &str, count: usize, lack: &str| {
        text.push_str(&match count {
            0 => format!("{name:<17} none: {lack}\n"),
            count if count == facts => format!("{name:<17} all\n"),
            count => format!("{name:<17} {count}; of the others: {lack}\n"),
        });
    };
    part("  subject", counts.with_subject, "methods that locate facts (ROME, MEMIT, KN and their kin) cannot edit them");
    part("  ground truth", counts.with_ground_truth, "what the model knew before is not compared");
    part("  other wordings", counts.with_rephrased_prompt, "generalization is not measured");
    let named = |prompts: &BTreeMap<String, usize>| {
        let named: Vec<String> = prompts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        if named.is_empty() { "none: it is not measured".to_owned() } else { named.join(", ") }
    };
    text.push_str(&format!("  locality        {}\n  portability     {}\n", named(&counts.locality), named(&counts.portability)));
    text
}
