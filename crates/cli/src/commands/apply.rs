//! `easyedit apply`

use anyhow::Result;
use easyedit::models::{check_output, save_checkpoint_into};
use easyedit::{OutputFolder, apply_all, changed_weights};
use serde_json::json;

use super::Context;
use super::edit_files::{check_not_applied, check_weights_only, load_edits};
use crate::args::ApplyArguments;
use crate::output::visible_path;

pub(super) fn run(context: &Context, arguments: &ApplyArguments) -> Result<()> {
    context.check_device()?;
    let edits = load_edits(&arguments.edit)?;
    check_weights_only(&edits)?;
    let checkpoint = context.open(&arguments.model.model)?;
    check_not_applied(&checkpoint, &edits)?;
    check_output(&checkpoint, &arguments.out)?;
    let folder = OutputFolder::claim(&arguments.out)?;
    let mut model = context.load(&checkpoint)?;
    // The program ends with the edited model: nothing is reverted.
    let _applied = apply_all(&edits, &mut *model)?;
    let changed = changed_weights(&*model, &edits)?;
    let saved = save_checkpoint_into(&checkpoint, &changed, &edits, &folder, context.progress())?;
    let value = json!({ "checkpoint": visible_path(&saved.folder), "files": saved.files, "tensors": saved.tensors });
    context.output.print(&value, || {
        let mut text = format!("{} edit(s) applied to {}\n", edits.len(), checkpoint.name());
        for tensor in &saved.tensors {
            text.push_str(&format!("  {} ({}, rounding {:.1e} of the change)\n", tensor.name, tensor.dtype, tensor.rounding));
        }
        text + &format!("checkpoint  {}\n", saved.folder.display())
    })
}
