//! `easyedit perplexity`

use anyhow::Result;
use easyedit::data::read_corpus;
use easyedit::eval::perplexity;
use serde_json::json;

use super::edit_files::{check_not_applied, load_edits};
use super::{Context, describe};
use crate::args::PerplexityArguments;

pub(super) fn run(context: &Context, arguments: &PerplexityArguments) -> Result<()> {
    context.check_device()?;
    let documents = read_corpus(&arguments.text)?;
    let edits = load_edits(&arguments.edit)?;
    let checkpoint = context.open(&arguments.model.model)?;
    check_not_applied(&checkpoint, &edits)?;
    let model = easyedit::registry().apply_in(context.session(), &edits, context.load(&checkpoint)?)?;
    let found = perplexity(&*model, &documents, context.progress())?;
    let value = json!({
        "model": checkpoint.name(), "edits": arguments.edit, "text": arguments.text,
        "perplexity": found.perplexity, "nll": found.nll, "tokens": found.tokens, "documents": found.documents,
    });
    context.output.print(&value, || {
        let edits = match edits.len() {
            0 => String::new(),
            count => format!(" with {count} edit(s)"),
        };
        format!(
            "model       {}{edits}\nperplexity  {:.2} ({:.4} nats a token) over {} tokens of {} documents of {}\n",
            describe(&*model, &context.common.device),
            found.perplexity,
            found.nll,
            found.tokens,
            found.documents,
            arguments.text.display()
        )
    })
}
