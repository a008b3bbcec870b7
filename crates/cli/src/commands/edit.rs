//! `easyedit edit`

use anyhow::Result;
use easyedit::{HparamsDocument, Mode, hparams};
use serde_json::json;

use super::requests::requests;
use super::run::{Finished, Run};
use super::{Context, check_corpus, check_file, ft_api};
use crate::args::{EditArguments, EditMode};
use crate::interrupt;
use crate::output::{continuation_table, record_table, score_table};

pub(super) fn run(context: &Context, arguments: &EditArguments) -> Result<()> {
    if ft_api::is_meant(&arguments.method) {
        return ft_api::run(context, arguments);
    }
    let entry = *easyedit::registry().get(&arguments.method)?;
    let hparams = match &arguments.hparams {
        Some(path) => {
            let document = HparamsDocument::load(path)?;
            // What can be checked before the model is there is.
            if hparams::is_complete(&document) {
                entry.build(&document)?;
            }
            Some((document, path.clone()))
        }
        None => None,
    };
    if let Some(corpus) = &arguments.corpus {
        check_corpus("--corpus", corpus)?;
    }
    if let Some(demonstrations) = &arguments.demonstrations {
        check_file("--demonstrations", demonstrations)?;
    }
    let run = Run {
        model: &arguments.model.model,
        entry,
        hparams,
        requests: requests(arguments)?,
        requests_file: arguments.requests.as_deref(),
        mode: mode(arguments.mode),
        corpus: arguments.corpus.clone(),
        demonstrations: arguments.demonstrations.as_deref(),
        evaluate: !arguments.no_evaluation,
        output: &arguments.output,
        report: arguments.report.as_ref(),
        watched: Vec::new(),
    };
    let finished = run.execute(context)?;
    let value = json!({
        "summary": finished.run.summary,
        "hparams_source": finished.hparams.source.to_string(),
        "records": finished.run.records,
        "continuations": finished.continuations,
        "saved": finished.saved,
    });
    context.output.print(&value, || text(&finished))?;
    interrupt::all_told();
    finished.check()
}

fn mode(mode: EditMode) -> Mode {
    match mode {
        EditMode::Independent => Mode::Independent,
        EditMode::Sequential => Mode::Sequential,
        EditMode::Batch => Mode::Batch,
    }
}

fn text(finished: &Finished) -> String {
    let run = &finished.run;
    let mut text = finished.heading();
    match run.records.as_slice() {
        [one] => {
            let request = &one.requested_rewrite;
            text.push_str(&format!("fact      {} → {}\n", request.filled_prompt(), request.target_new));
        }
        many => text.push_str(&format!("facts     {}, mode {}\n", many.len(), run.summary.run.mode)),
    }
    if !finished.continuations.is_empty() {
        text.push_str(&format!("\n{}", continuation_table(&finished.continuations)));
    }
    if let Some(table) = record_table(&run.records) {
        text.push_str(&format!("\n{table}"));
    }
    if !run.summary.mean_metrics.post.is_empty() {
        text.push_str(&format!("\n{}", score_table(&run.summary)));
    }
    text.push_str(&format!("\n{}", finished.closing()));
    text
}
