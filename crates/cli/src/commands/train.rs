//! `easyedit train`: a method learns to edit a model; `easyedit train plot`: how it went.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use easyedit::trainer::{LOG_FILE, MODEL_FILE, plot_curves, read_log};
use easyedit::{CheckedRequest, EditTrainer, HparamsDocument, TextCorpora, Trained, write_atomically};
use serde_json::json;

use super::outputs::check_outputs;
use super::{Context, check_file, describe};
use crate::args::{PlotArguments, TrainArguments, TrainCommand, TrainFiles};
use crate::failure::UsageError;
use crate::output::seconds;

/// Results that are shown first, if there are any: the rest is in the files.
const SHOWN: &[&str] = &["loss/total_val", "inner/exact_val", "edit/exact_val", "loc/exact_val", "loc/near_exact_val", "loc/far_exact_val"];

pub(super) fn run(context: &Context, arguments: &TrainArguments) -> Result<()> {
    match (&arguments.command, &arguments.files) {
        (Some(TrainCommand::Plot(arguments)), _) => plot(context, arguments),
        (None, Some(files)) => train(context, files),
        (None, None) => {
            Err(UsageError("give --hparams, --train, --val and --out, or a command (plot); see easyedit train --help".into()).into())
        }
    }
}

fn train(context: &Context, files: &TrainFiles) -> Result<()> {
    context.check_device()?;
    check_file("--train", &files.train)?;
    check_file("--val", &files.val)?;
    let document = HparamsDocument::load(&files.hparams)?;
    let name = match (&files.model, document.text("model_name")) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => return Err(UsageError("the file names no model (model_name); name one with --model".into()).into()),
    };
    let trainer = EditTrainer::new(&context.session().with_corpora(TextCorpora::default()), document);
    trainer.check()?;
    let records = |path| -> Result<Vec<CheckedRequest>> { Ok(CheckedRequest::all(easyedit::data::read_requests(path)?)?) };
    let (train, val) = (records(&files.train)?, records(&files.val)?);
    let checkpoint = context.open(&name)?;
    check_outputs(
        [("--export", files.export.as_ref())],
        [checkpoint.path(), files.hparams.as_path(), files.train.as_path(), files.val.as_path()],
    )?;
    let model = context.load(&checkpoint)?;
    let started = Instant::now();
    let outcome = trainer.train(&*model, &train, &val, &files.out, files.resume)?;
    let took = started.elapsed().as_secs_f64();
    let trained = files.out.join(MODEL_FILE);
    if let Some(path) = &files.export {
        Trained::load(&trained)?.save(path, true)?;
    }
    let finite: BTreeMap<&str, Option<f64>> =
        outcome.results.iter().map(|(key, value)| (key.as_str(), value.is_finite().then_some(*value))).collect();
    let value = json!({
        "model": model.spec().name,
        "iterations": outcome.iterations,
        "steps": outcome.steps,
        "skipped": outcome.skipped,
        "best": outcome.best.map(|(value, iteration)| json!({"value": value, "iteration": iteration})),
        "results": finite,
        "trained": trained,
        "seconds": took,
    });
    context.output.print(&value, || {
        let mut text = format!("model     {}\n", describe(&*model, &context.common.device));
        text.push_str(&format!("trained   {} iterations, {} steps in {}\n", outcome.iterations, outcome.steps, seconds(took)));
        if outcome.skipped > 0 {
            text.push_str(&format!("skipped   {} batches, whose gradients were not finite\n", outcome.skipped));
        }
        if let Some((value, iteration)) = outcome.best {
            text.push_str(&format!("best      {value:.4} in iteration {iteration}\n"));
        }
        for key in SHOWN {
            if let Some(value) = outcome.results.get(*key) {
                text.push_str(&format!("          {key} {value:.3}\n"));
            }
        }
        text + &format!("kept      {}\n", trained.display())
    })
}

fn plot(context: &Context, arguments: &PlotArguments) -> Result<()> {
    let log = arguments.folder.join(LOG_FILE);
    let lines = read_log(&log)?;
    let out = arguments.out.clone().unwrap_or_else(|| arguments.folder.join("curves.svg"));
    check_outputs([("--out", Some(&out))], [log.as_path()])?;
    let title = arguments.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let svg = plot_curves(&title, &lines, &arguments.metrics);
    write_atomically(&out, |file| file.write_all(svg.as_bytes()))?;
    context.output.print(&json!({"picture": out, "lines": lines.len()}), || format!("picture   {}\n", out.display()))
}
