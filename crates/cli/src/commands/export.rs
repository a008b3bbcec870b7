//! `easyedit export`

use anyhow::Result;
use easyedit::models::Checkpoint;
use easyedit::peft::{ExportOptions, export};

use super::{Context, load_edits};
use crate::args::{ExportArguments, ExportFormat};
use crate::output::{Align, Table};

pub(super) fn run(context: &Context, arguments: &ExportArguments) -> Result<()> {
    // There is one format; a second one will have to be chosen here.
    let ExportFormat::Peft = arguments.format;
    context.check_device()?;
    let edits = load_edits(&arguments.edit)?;
    let checkpoint = context.open(&arguments.model.model)?;
    let model = context.load(&checkpoint)?;
    let base_model = arguments.base_model.clone().unwrap_or_else(|| base_model(&checkpoint));
    let options = ExportOptions { base_model: Some(base_model), rank: arguments.rank.map(|rank| rank as usize) };
    let adapter = export(&*model, &edits, &options, &arguments.out)?;
    let value = serde_json::to_value(&adapter)?;
    context.output.print(&value, || {
        let mut table = Table::new(&[("tensor", Align::Left), ("rank", Align::Right), ("left out", Align::Right)]);
        for weight in &adapter.weights {
            let lost =
                if weight.relative_error == 0.0 { "nothing".to_owned() } else { format!("{:.2e} of the change", weight.relative_error) };
            table.row([weight.parameter.to_string(), weight.rank.to_string(), lost]);
        }
        format!(
            "{} edit(s) of {} as a peft adapter\n\n{}\nadapter  {}\n",
            edits.len(),
            checkpoint.name(),
            table.render(),
            adapter.folder.display()
        )
    })
}

/// What others find the model by: its Hub id, or else where it lies.
fn base_model(checkpoint: &Checkpoint) -> String {
    if checkpoint.name().contains('/') { checkpoint.name().to_owned() } else { checkpoint.path().display().to_string() }
}
