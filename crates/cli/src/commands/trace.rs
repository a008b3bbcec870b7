//! `easyedit trace`: where the model recalls a fact.

use std::path::Path;

use anyhow::{Result, bail};
use console::Color;
use easyedit::trace::{FactTrace, FigureFormat, Restored, Suggestion, TokenClass, TraceOptions, TraceReport, TraceRequest};
use easyedit::trace::{suggest_layers, trace_facts, write_average_figure, write_fact_figure};
use easyedit::{HparamsDocument, LanguageModel, MethodEntry, write_atomically};
use serde::Serialize;

use super::outputs::check_outputs;
use super::{Context, describe};
use crate::args::{States, TraceArguments};
use crate::failure::UsageError;
use crate::output::{HeatMap, seconds};

/// Facts are shown one by one up to this many.
const MOST_SHOWN: usize = 1;
/// The methods whose layers are suggested: one that edits one layer, and one that edits several.
const ONE_LAYER: &str = "ROME";
const SEVERAL_LAYERS: &str = "MEMIT";

/// What is printed and written as JSON.
#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    report: &'a TraceReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    suggestion: Option<Suggestion>,
    seconds: f64,
}

pub(super) fn run(context: &Context, arguments: &TraceArguments) -> Result<()> {
    context.check_device()?;
    let entry = *easyedit::registry().get(&arguments.method)?;
    if let Some(plot) = &arguments.plot {
        FigureFormat::of(plot)?;
    }
    let options = options(context, arguments);
    let wants_layers = arguments.suggest_layers || arguments.write_hparams.is_some();
    if wants_layers && !options.restore.contains(&Restored::Mlp) {
        return Err(UsageError("layers are suggested from MLP outputs; add mlp to --restore".into()).into());
    }
    let facts = facts(arguments)?;
    let checkpoint = context.open(&arguments.model.model)?;
    check_outputs(
        [
            ("--plot", arguments.plot.as_ref()),
            ("--report", arguments.report.as_ref()),
            ("--write-hparams", arguments.write_hparams.as_ref()),
        ],
        [Some(checkpoint.path()), arguments.requests.as_deref()].into_iter().flatten(),
    )?;
    let model = context.load(&checkpoint)?;
    let started = std::time::Instant::now();
    let report = trace_facts(&*model, &facts, &options, context.progress())?;
    let took = started.elapsed().as_secs_f64();

    let suggestion = match wants_layers {
        true => Some(suggestion(&report, layers_of(&hparams(SEVERAL_LAYERS, arguments, &*model)?)?)?),
        false => None,
    };
    let printed = Printed { report: &report, suggestion: suggestion.clone(), seconds: took };
    let mut written = Vec::new();
    if let Some(path) = &arguments.plot {
        match report.facts.as_slice() {
            [fact] => write_fact_figure(path, &report, fact)?,
            _ => write_average_figure(path, &report)?,
        }
        written.push(("picture", path));
    }
    if let Some(path) = &arguments.report {
        let text = serde_json::to_string_pretty(&printed)?;
        write_atomically(path, |file| writeln!(file, "{text}"))?;
        written.push(("numbers", path));
    }
    if let Some(path) = &arguments.write_hparams {
        write_hparams(path, &entry, hparams(entry.name, arguments, &*model)?, &report)?;
        written.push(("hparams", path));
    }
    context.output.print(&printed, || {
        let mut text = format!("model     {}\n", describe(&*model, &context.common.device));
        text.push_str(&describe_report(&report, took));
        if let Some(suggestion) = &suggestion {
            text.push_str(&describe_suggestion(suggestion));
        }
        for (what, path) in written {
            text.push_str(&format!("{what:<9} {}\n", path.display()));
        }
        text
    })
}

fn options(context: &Context, arguments: &TraceArguments) -> TraceOptions {
    let mut restore: Vec<Restored> = Vec::new();
    for states in &arguments.restore {
        let restored = match states {
            States::Hidden => Restored::Hidden,
            States::Mlp => Restored::Mlp,
            States::Attention => Restored::Attention,
        };
        if !restore.contains(&restored) {
            restore.push(restored);
        }
    }
    TraceOptions {
        restore,
        samples: arguments.samples as usize,
        noise: arguments.noise,
        window: arguments.window.map(|window| window as usize),
        seed: context.common.seed,
        only_known: arguments.requests.is_some(),
        most: arguments.facts.map(|facts| facts as usize),
        batch_tokens: arguments.batch_tokens as usize,
    }
}

fn facts(arguments: &TraceArguments) -> Result<Vec<TraceRequest>> {
    match (&arguments.requests, &arguments.prompt) {
        (Some(path), _) => {
            let requests = easyedit::data::read_requests(path)?;
            Ok(requests.iter().map(TraceRequest::of).collect::<easyedit::Result<_>>()?)
        }
        (None, Some(prompt)) => {
            let subject = arguments.subject.clone().unwrap_or_default();
            let fact = TraceRequest { case_id: 0, prompt: prompt.clone(), subject, answer: arguments.target.clone() };
            fact.check()?;
            Ok(vec![fact])
        }
        (None, None) => bail!("there is no fact to trace; give --prompt and --subject, or --requests"),
    }
}

/// The hyperparameters of a method for the model, as `edit` would find them.
fn hparams(method: &str, arguments: &TraceArguments, model: &dyn LanguageModel) -> Result<HparamsDocument> {
    let registry = easyedit::registry();
    let entry = registry.get(method)?;
    let found = easyedit::hparams::find(entry, &arguments.model.model, model.spec())?;
    Ok(easyedit::hparams::complete(found.document, entry, model.spec())?)
}

/// How many layers a method edits.
fn layers_of(document: &HparamsDocument) -> Result<usize> {
    let values = document.to_json()?;
    match values.get("layers").and_then(|layers| layers.as_array()) {
        Some(layers) if !layers.is_empty() => Ok(layers.len()),
        _ => bail!("{}: the hyperparameters name no layers to replace", document.origin()),
    }
}

fn suggestion(report: &TraceReport, count: usize) -> Result<Suggestion> {
    match suggest_layers(&report.average, count) {
        Some(suggestion) => Ok(suggestion),
        None => bail!("no layers can be suggested: nothing was restored at a subject's last token"),
    }
}

fn write_hparams(path: &Path, entry: &MethodEntry, mut document: HparamsDocument, report: &TraceReport) -> Result<()> {
    let count = layers_of(&document)?;
    let suggestion = suggestion(report, count)?;
    let layers: Vec<usize> = if count == 1 { vec![suggestion.layer] } else { suggestion.layers.collect() };
    document.set("layers", layers);
    // What is written can be read: a suggested layer the method does not accept is told here.
    entry.build(&document)?;
    let text = format!("# Layers by causal tracing over {} facts of {}.\n{}", suggestion.facts, report.model, document.to_yaml()?);
    Ok(write_atomically(path, |file| file.write_all(text.as_bytes()))?)
}

fn describe_report(report: &TraceReport, took: f64) -> String {
    let settings = &report.settings;
    let mut text = String::new();
    if report.facts.len() > MOST_SHOWN {
        let total = report.average.total_effect;
        let interval = total.interval.map(|half| format!(" ± {half:.3}")).unwrap_or_default();
        text.push_str(&format!("facts     {}", report.facts.len()));
        if !report.left_out.is_empty() {
            text.push_str(&format!(" ({} more are left out: the model does not know them)", report.left_out.len()));
        }
        text.push_str(&format!("\neffect    {:.3}{interval} of the answer's probability goes with the subject\n", total.mean));
    }
    for fact in report.facts.iter().filter(|_| report.facts.len() <= MOST_SHOWN) {
        text.push_str(&format!("fact      {} →{}\n", fact.prompt, with_space(&fact.answer)));
        text.push_str(&format!("answer    p = {:.3}, and {:.3} with the subject corrupted\n", fact.clean, fact.corrupted));
    }
    let noise = format!("{} samples, {}σ = {:.4}, seed {}", settings.samples, settings.noise_factor, settings.noise, settings.seed);
    text.push_str(&format!("noise     {noise}\ntime      {}\n", seconds(took)));
    match report.facts.as_slice() {
        [fact] => fact_maps(fact).iter().for_each(|map| text.push_str(&format!("\n{}", map.render()))),
        _ => average_maps(report).iter().for_each(|map| text.push_str(&format!("\n{}", map.render()))),
    }
    text.push('\n');
    text
}

fn describe_suggestion(suggestion: &Suggestion) -> String {
    let Suggestion { layer, effect, layers, facts } = suggestion;
    let last = layers.end.saturating_sub(1);
    let few = if *facts < 10 { "; more facts make it surer" } else { "" };
    format!("layers    {ONE_LAYER}: {layer}, {SEVERAL_LAYERS}: {} to {last} (effect {effect:.3}, {facts} facts{few})\n", layers.start)
}

fn with_space(answer: &str) -> String {
    if answer.starts_with(char::is_whitespace) { answer.to_owned() } else { format!(" {answer}") }
}

fn map_title(restored: Restored, window: usize) -> String {
    match window {
        1 => format!("{} restored in one layer", restored.title()),
        window => format!("{} restored in {window} layers around", restored.title()),
    }
}

fn colour(restored: Restored) -> Color {
    match restored {
        Restored::Hidden => Color::Magenta,
        Restored::Mlp => Color::Green,
        Restored::Attention => Color::Red,
    }
}

fn fact_maps(fact: &FactTrace) -> Vec<HeatMap> {
    let map = |panel: &easyedit::trace::Panel| HeatMap {
        title: map_title(panel.restored, panel.window),
        rows: panel.probabilities.iter().enumerate().map(|(token, row)| (fact.label(token), row.clone())).collect(),
        low: fact.corrupted,
        colour: colour(panel.restored),
    };
    fact.panels.iter().map(map).collect()
}

fn average_maps(report: &TraceReport) -> Vec<HeatMap> {
    let map = |panel: &easyedit::trace::PanelAverage| HeatMap {
        title: map_title(panel.restored, panel.window),
        rows: TokenClass::ALL
            .iter()
            .map(|class| {
                let means = panel.classes.get(class).map(|effects| effects.layers.iter().map(|effect| effect.mean).collect());
                (class.title().to_owned(), means.unwrap_or_default())
            })
            .collect(),
        low: 0.0,
        colour: colour(panel.restored),
    };
    report.average.panels.iter().map(map).collect()
}
