//! `easyedit export`

use std::path::Path;

use anyhow::{Result, bail};
use easyedit::models::{Checkpoint, short_names};
use easyedit::peft::{ExportOptions, export};

use super::Context;
use super::edit_files::{check_not_applied, load_edits};
use crate::args::{ExportArguments, ExportFormat};
use crate::output::{Align, Table};

pub(super) fn run(context: &Context, arguments: &ExportArguments) -> Result<()> {
    // There is one format; a second one will have to be chosen here.
    let ExportFormat::Peft = arguments.format;
    context.check_device()?;
    let edits = load_edits(&arguments.edit)?;
    let checkpoint = context.open(&arguments.model.model)?;
    check_not_applied(&checkpoint, &edits)?;
    // Whoever exports into a folder of another adapter is told so below; the model's own folder is found through links, too.
    check_not_own_folder(&checkpoint, &arguments.out)?;
    let model = context.load(&checkpoint)?;
    let base_model = arguments.base_model_name.clone().unwrap_or_else(|| base_model(&checkpoint));
    let is_hub_id = base_model.contains('/') || arguments.base_model_name.is_some();
    let options = ExportOptions { base_model: Some(base_model.clone()), rank: arguments.rank.map(|rank| rank as usize) };
    let adapter = export(&*model, &edits, &options, &arguments.out)?;
    let value = serde_json::to_value(&adapter)?;
    context.output.print(&value, || {
        let mut table = Table::new(&[("tensor", Align::Left), ("rank", Align::Right), ("left out", Align::Right)]);
        for weight in &adapter.weights {
            let lost =
                if weight.relative_error == 0.0 { "nothing".to_owned() } else { format!("{:.2e} of the change", weight.relative_error) };
            table.row([weight.parameter.to_string(), weight.rank.to_string(), lost]);
        }
        let hint = if is_hub_id { "" } else { ": give the Hub id with --base-model-name, so that peft finds the model by itself" };
        format!(
            "{} edit(s) of {} as a peft adapter\n\n{}\nadapter  {}\nbase     {base_model}{hint}\n",
            edits.len(),
            checkpoint.name(),
            table.render(),
            adapter.folder.display()
        )
    })
}

/// What others find the model by: its Hub id where that is known, else its name. Where it lies on this disk is nobody else's concern.
fn base_model(checkpoint: &Checkpoint) -> String {
    let name = checkpoint.name();
    short_names().iter().find(|short| short.name == name).map_or(name, |short| short.hub).to_owned()
}

fn check_not_own_folder(checkpoint: &Checkpoint, out: &Path) -> Result<()> {
    let model = checkpoint.path();
    let folders = [Some(model), model.parent().filter(|_| model.is_file())];
    let is_own = |folder: &Path| matches!((folder.canonicalize(), out.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if folders.into_iter().flatten().any(is_own) {
        bail!("{} is the model's own folder, which is never written to; choose another --out", out.display());
    }
    Ok(())
}
