//! `easyedit stats`: second moments of the keys, computed ahead of time into the cache the methods read.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use easyedit::kernels::{MomentConfig, cached_moments};
use easyedit::{Corpora, HparamsDocument, TextCorpora};
use serde_json::{Value, json};

use super::{Context, check_file, describe};
use crate::args::StatsArguments;
use crate::failure::UsageError;
use crate::output::{Align, Table, seconds};

/// The method whose hyperparameters say over which text the statistics are, where none are given.
const METHOD: &str = "ROME";

/// What the hyperparameters say about statistics.
struct Settings {
    layers: Vec<usize>,
    corpus: String,
    samples: usize,
}

pub(super) fn run(context: &Context, arguments: &StatsArguments) -> Result<()> {
    context.check_device()?;
    let given = arguments.hparams.as_deref().map(HparamsDocument::load).transpose()?;
    if let Some(document) = &given {
        settings(document)?;
    }
    if let Some(corpus) = &arguments.corpus {
        check_file("--corpus", corpus)?;
    }
    let checkpoint = context.open(&arguments.model.model)?;
    let model = context.load(&checkpoint)?;
    let document = match given {
        Some(document) => document,
        None => easyedit::hparams::find(easyedit::registry().get(METHOD)?, &arguments.model.model, model.spec())?.document,
    };
    let mut settings = settings(&document)?;
    if !arguments.layers.is_empty() {
        settings.layers.clone_from(&arguments.layers);
    }
    settings.layers.sort_unstable();
    settings.layers.dedup();
    settings.layers.iter().try_for_each(|layer| model.spec().check_layer(*layer))?;

    let documents = TextCorpora { corpus: arguments.corpus.clone() }.documents(&settings.corpus)?;
    let config = MomentConfig { samples: settings.samples, ..MomentConfig::default() };
    let cache = context.cache();
    let started = std::time::Instant::now();
    let moments = cached_moments(&*model, &settings.layers, &settings.corpus, &documents, &config, Some(&cache), context.progress())?;
    let took = started.elapsed().as_secs_f64();

    let rows: Vec<(usize, u64, usize, Option<PathBuf>)> =
        moments.iter().map(|(layer, (moments, path))| (*layer, moments.tokens(), moments.size(), path.clone())).collect();
    let value: Vec<Value> =
        rows.iter().map(|(layer, tokens, size, path)| json!({ "layer": layer, "tokens": tokens, "size": size, "file": path })).collect();
    let value = json!({ "model": model.spec().name, "corpus": settings.corpus, "seconds": took, "layers": value });
    context.output.print(&value, || {
        let mut table = Table::new(&[("layer", Align::Right), ("tokens", Align::Right), ("size", Align::Left), ("file", Align::Left)]);
        for (layer, tokens, size, path) in &rows {
            let path = path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            table.row([layer.to_string(), tokens.to_string(), format!("{size}×{size}"), path]);
        }
        let text = match &arguments.corpus {
            Some(path) => path.display().to_string(),
            None => settings.corpus.clone(),
        };
        format!("model     {}\ntext      {text}, in {}\n\n{}", describe(&*model, &context.common.device), seconds(took), table.render())
    })
}

fn settings(document: &HparamsDocument) -> Result<Settings> {
    let values = document.to_json()?;
    let missing = |key: &str| UsageError(format!("{}: {key} is missing or of the wrong type", document.origin()));
    let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let layers = values.get("layers").and_then(Value::as_array).and_then(|list| list.iter().map(number).collect());
    Ok(Settings {
        layers: layers.ok_or_else(|| missing("layers"))?,
        corpus: values.get("mom2_dataset").and_then(Value::as_str).ok_or_else(|| missing("mom2_dataset"))?.to_owned(),
        samples: values.get("mom2_n_samples").and_then(number).with_context(|| missing("mom2_n_samples"))?,
    })
}
