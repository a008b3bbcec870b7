//! `easyedit index`: the demonstrations of in-context editing, embedded ahead of time, and which of them are near to a fact.

use std::time::Instant;

use anyhow::{Context as _, Result};
use easyedit::TextCorpora;
use easyedit::ike::{Demonstration, DemonstrationIndex, IkeHparams, Kind, Retrieval, Selected};
use serde_json::{Value, json};

use super::{Context, check_file, utf8_path};
use crate::args::IndexArguments;
use crate::output::{Align, Table, seconds, visible_path};

pub(super) fn run(context: &Context, arguments: &IndexArguments) -> Result<()> {
    check_file("--demonstrations", &arguments.demonstrations)?;
    let device = easyedit::device::select(&context.common.device)?;
    let records = utf8_path("--demonstrations", &arguments.demonstrations)?;
    let mut hparams = IkeHparams { train_data: Some(records.to_owned()), ..IkeHparams::default() };
    if let Some(name) = &arguments.sentence_model {
        hparams.sentence_model_name.clone_from(name);
    }
    if arguments.lexical {
        hparams.retrieval = Retrieval::Lexical;
    }
    let session = context.session().clone().with_corpora(TextCorpora::default());
    let started = Instant::now();
    let index = DemonstrationIndex::open(&hparams, &device, &session)?.context("the file of records has no name")?;
    let took = started.elapsed().as_secs_f64();
    let nearest = match &arguments.nearest {
        Some(text) => index.nearest(text, arguments.k)?,
        None => Vec::new(),
    };
    let shown: Vec<(&Demonstration, Selected)> =
        nearest.into_iter().filter_map(|one| Some((index.demonstrations().get(one.index)?, one))).collect();
    let counts = || Kind::ALL.map(|kind| (kind.name(), index.count(kind)));
    let value = json!({
        "records": index.records(),
        "strings": index.demonstrations().len(),
        "kinds": counts().into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect::<serde_json::Map<String, Value>>(),
        "encoder": index.encoder(),
        "width": index.width(),
        "file": index.file().map(visible_path),
        "is_new": index.is_new(),
        "seconds": took,
        "nearest": shown.iter().map(|(one, chosen)| json!({
            "text": one.text, "kind": one.kind, "record": one.record, "similarity": chosen.similarity,
        })).collect::<Vec<_>>(),
    });
    context.output.print(&value, || {
        let kinds: Vec<String> = counts().iter().map(|(name, count)| format!("{count} {name}")).collect();
        let mut text = format!("records   {}: {}\n", index.records(), kinds.join(", "));
        match (index.encoder(), index.width()) {
            (Some(encoder), Some(width)) => text.push_str(&format!("encoder   {encoder}, {width} dimensions\n")),
            _ => text.push_str("compared  by words\n"),
        }
        if let Some(file) = index.file() {
            let how = if index.is_new() { format!("embedded in {}", seconds(took)) } else { "found".to_owned() };
            text.push_str(&format!("index     {}, {how}\n", file.display()));
        }
        text + &table(&shown)
    })
}

fn table(shown: &[(&Demonstration, Selected)]) -> String {
    if shown.is_empty() {
        return String::new();
    }
    let mut table =
        Table::new(&[("cosine", Align::Right), ("kind", Align::Left), ("record", Align::Right), ("demonstration", Align::Left)]);
    for (one, chosen) in shown {
        let text = one.text.trim_end().replace('\n', " / ");
        table.row([format!("{:.3}", chosen.similarity), one.kind.name().to_owned(), one.record.to_string(), text]);
    }
    format!("\n{}", table.render())
}
