//! `easyedit revert`: takes edits back out of a checkpoint.

use std::collections::BTreeMap;

use anyhow::Result;
use easyedit::OutputFolder;
use easyedit::models::{Restored, Way, check_output, revert, save_reverted_into};
use serde_json::json;

use super::Context;
use super::edit_files::{check_weights_only, load_edits};
use crate::args::RevertArguments;
use crate::output::visible_path;

pub(super) fn run(context: &Context, arguments: &RevertArguments) -> Result<()> {
    let edits = load_edits(&arguments.edit)?;
    check_weights_only(&edits)?;
    let edited = context.open(&arguments.model.model)?;
    let base = arguments.base.as_deref().map(|name| context.open(name)).transpose()?;
    check_output(&edited, &arguments.out)?;
    let folder = OutputFolder::claim(&arguments.out)?;
    let reverted = revert(&edited, base.as_ref(), &edits)?;
    let saved = save_reverted_into(&edited, &reverted, &edits, &folder, context.progress())?;
    let ways: BTreeMap<_, _> = reverted.restored.iter().map(|(name, restored)| (name, restored.way)).collect();
    context.output.print(&json!({ "checkpoint": visible_path(&saved.folder), "tensors": ways }), || {
        let mut text = format!("{} edit(s) taken out of {}\n", edits.len(), edited.name());
        for (name, restored) in &reverted.restored {
            text.push_str(&format!("  {name}: {}\n", words(*restored)));
        }
        text + &format!("checkpoint  {}\n", saved.folder.display())
    })
}

fn words(restored: Restored) -> String {
    let dtype = restored.dtype;
    match restored.way {
        Way::FromBase => "the base model's, bit for bit".into(),
        Way::Unchanged => format!("as before, bit for bit: the change was zero or below the rounding of {dtype}"),
        Way::SubtractedExactly => "subtracted, bit for bit as before".into(),
        Way::Subtracted => format!("subtracted, equal within the rounding of {dtype} (--base MODEL restores every bit)"),
    }
}
