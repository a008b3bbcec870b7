//! `easyedit import`

use anyhow::Result;
use easyedit::peft::import;
use serde_json::json;

use super::Context;
use crate::args::ImportAdapterArguments;
use crate::failure::UsageError;
use crate::output::{Align, Table, visible_path};

pub(super) fn run(context: &Context, arguments: &ImportAdapterArguments) -> Result<()> {
    context.check_device()?;
    if arguments.out.exists() {
        return Err(UsageError(format!("{} is there already; choose another --out", arguments.out.display())).into());
    }
    let checkpoint = context.open(&arguments.model.model)?;
    let model = context.load(&checkpoint)?;
    let edit = import(&arguments.adapter, &*model)?;
    edit.save(&arguments.out)?;
    let value = json!({"edit": visible_path(&arguments.out), "model": edit.model, "diagnostics": edit.diagnostics});
    context.output.print(&value, || {
        let mut table = Table::new(&[("tensor", Align::Left), ("rank", Align::Right)]);
        for (name, change) in &edit.deltas {
            table.row([name.to_string(), change.delta.rank().unwrap_or_default().to_string()]);
        }
        format!("{} as an edit of {}\n\n{}\nedit  {}\n", arguments.adapter.display(), edit.model, table.render(), arguments.out.display())
    })
}
