//! `easyedit edit --method FT-Api`: the edit of a model that only an API knows. No checkpoint is opened.

use std::path::{Path, PathBuf};

use anyhow::Result;
use easyedit::eval::{ReportWriter, Summary};
use easyedit::ft_api::{Exchange, FtApi, FtApiHparams, FtApiRun};
use easyedit::hparams::{FoundHparams, HparamsSource, find_by_name};
use easyedit::{Hparams, HparamsDocument};
use serde_json::json;

use super::Context;
use super::continuations::{Watched, pair};
use super::requests::requests;
use super::run::MOST_SHOWN;
use crate::args::{EditArguments, EditMode};
use crate::failure::UsageError;
use crate::interrupt;
use crate::output::{Continuation, continuation_table, record_table, score_table, seconds};

/// Whether `--method` asks for this, in any case and punctuation.
pub(super) fn is_meant(method: &str) -> bool {
    let plain = |name: &str| name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    plain(method) == plain(FtApi::NAME)
}

pub(super) fn run(context: &Context, arguments: &EditArguments) -> Result<()> {
    check(context, arguments)?;
    let requests = requests(arguments)?;
    let (hparams, source) = hparams(arguments)?;
    let api = FtApi::new(hparams, context.common.seed)?;
    let report = arguments.report.as_deref().map(ReportWriter::create).transpose()?;
    interrupt::goes_on_elsewhere("a job that was begun goes on at the API; run the same command again to follow it\n");
    let run = api.run(&requests, !arguments.no_evaluation, context.progress())?;
    if let Some(mut report) = report {
        run.records.iter().try_for_each(|record| report.record(record))?;
        report.finish(&run.summary)?;
    }
    let continuations = continuations(&run);
    let value = json!({
        "summary": run.summary,
        "hparams_source": source.to_string(),
        "fine_tuned": run.fine_tuned,
        "records": run.records,
        "continuations": continuations,
    });
    context.output.print(&value, || text(&api, &run, &source, &continuations, arguments.report.as_deref()))
}

/// Refuses flags that mean nothing without a local model.
fn check(context: &Context, arguments: &EditArguments) -> Result<()> {
    let refused =
        |flag: &str, why: &str| -> Result<()> { Err(UsageError(format!("{flag} means nothing to {}: {why}", FtApi::NAME)).into()) };
    if arguments.output.save.is_some() {
        return refused("--save", "the model stays at the API, so there is neither a checkpoint nor an edit file; --report keeps its name");
    }
    if arguments.output.out.is_some() {
        return refused("--out", "the model stays at the API; results_dir of the hyperparameters says where the training file goes");
    }
    if arguments.corpus.is_some() {
        return refused("--corpus", "it uses no statistics");
    }
    if arguments.mode == EditMode::Sequential {
        return refused("--mode sequential", "it trains on all requests at once; use --mode batch");
    }
    if context.common.device != "cpu" {
        return refused("--device", "nothing is computed here");
    }
    Ok(())
}

fn hparams(arguments: &EditArguments) -> Result<(FtApiHparams, HparamsSource)> {
    let model = arguments.model.model.trim();
    if model.is_empty() {
        return Err(UsageError("--model is empty; give the API's name of the model, e.g. gpt-3.5-turbo".into()).into());
    }
    let found = match &arguments.hparams {
        Some(path) => Some(FoundHparams { document: HparamsDocument::load(path)?, source: HparamsSource::File(path.clone()) }),
        None => find_by_name(FtApiHparams::METHOD, model)?,
    };
    let Some(FoundHparams { mut document, source }) = found else {
        let hparams = FtApiHparams::for_model(model);
        hparams.check().map_err(easyedit::Error::hparams)?;
        return Ok((hparams, HparamsSource::Defaults));
    };
    // A file may say the full name, with its date, of a model that is asked for by its short one.
    let is_longer = |name: &str| name.to_lowercase().starts_with(&model.to_lowercase());
    if !document.text("model_name").is_some_and(is_longer) {
        document.set("model_name", model);
    }
    Ok((document.read()?, source))
}

fn continuations(run: &FtApiRun) -> Vec<Continuation> {
    if run.records.len() > MOST_SHOWN {
        return Vec::new();
    }
    let mut watched: Vec<Watched> = run.records.iter().flat_map(|record| Watched::of(&record.requested_rewrite)).collect();
    watched.sort_by_key(|one| one.role);
    let asked = watched.iter().filter_map(|one| Some((one, run.exchanges.get(&one.prompt)?)));
    asked.map(|(one, Exchange { before, after })| pair(one, before.clone(), after.clone())).collect()
}

fn text(api: &FtApi, run: &FtApiRun, source: &HparamsSource, continuations: &[Continuation], report: Option<&Path>) -> String {
    let Summary { run: info, seconds: spent, .. } = &run.summary;
    let tuned = &run.fine_tuned;
    let mut text = format!("model     {} → {}, at {}\n", info.model, tuned.model, api.base_url());
    text.push_str(&format!("method    {}, hyperparameters {source}\n", info.method));
    match run.records.as_slice() {
        [one] => {
            let request = &one.requested_rewrite;
            text.push_str(&format!("fact      {} → {}\n", request.filled_prompt(), request.target_new));
        }
        many => text.push_str(&format!("facts     {}, trained on together\n", many.len())),
    }
    let tokens = tuned.trained_tokens.map(|tokens| format!(", {tokens} tokens trained")).unwrap_or_default();
    let earlier = if tuned.reused { ", of an earlier run" } else { "" };
    text.push_str(&format!("job       {}{tokens}{earlier}\n", tuned.job));
    if !continuations.is_empty() {
        text.push_str(&format!("\n{}", continuation_table(continuations)));
    }
    if let Some(table) = record_table(&run.records) {
        text.push_str(&format!("\n{table}"));
    }
    if !run.exchanges.is_empty() {
        text.push_str(&format!("\n{}", score_table(&run.summary)));
        text.push_str("  teacher-forced scores need logits, which the API does not give\n");
    }
    text.push_str(&format!("\nedited in {}", seconds(spent.edit)));
    if spent.evaluate > 0.0 {
        text.push_str(&format!(" · evaluated in {}", seconds(spent.evaluate)));
    }
    let files: [(&str, Option<PathBuf>); 2] = [("training", tuned.folder.clone()), ("report", report.map(Path::to_owned))];
    for (what, path) in files.into_iter().filter_map(|(what, path)| Some((what, path?))) {
        text.push_str(&format!("\n{what:<12}{}", path.display()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_method_is_meant_in_any_spelling() {
        for name in ["FT-Api", "ft-api", "FTAPI", "ft_api"] {
            assert!(is_meant(name), "{name}");
        }
        assert!(!is_meant("FT") && !is_meant("ROME"));
    }
}
