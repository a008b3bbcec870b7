//! `easyedit stats`: second moments of the keys, computed ahead of time into the cache the methods read.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use easyedit::kernels::{
    EasyEditStats, FoundMoments, MomentConfig, MomentQuery, collect_shard, find_moments, import_npz, merge_shards, write_npz,
};
use easyedit::{Corpora, HparamsDocument, LanguageModel, SAMPLE_CORPUS, TextCorpora};
use serde_json::{Value, json};

use super::outputs::check_outputs;
use super::{Context, check_corpus, describe};
use crate::args::{CollectArguments, ImportArguments, MergeArguments, StatsArguments, StatsCommand};
use crate::failure::UsageError;
use crate::interrupt;
use crate::output::{Align, Table, seconds, visible_path};

/// What is collected over what.
struct Settings {
    layers: Vec<usize>,
    corpus: String,
    samples: Option<usize>,
    tokens: Option<usize>,
}

pub(super) fn run(context: &Context, arguments: &StatsArguments) -> Result<()> {
    match (&arguments.command, &arguments.collect) {
        (Some(StatsCommand::Merge(arguments)), _) => merge(context, arguments),
        (Some(StatsCommand::Import(arguments)), _) => import(context, arguments),
        (None, Some(arguments)) => collect(context, arguments),
        (None, None) => Err(UsageError("name a model with --model, or a command (merge, import); see easyedit stats --help".into()).into()),
    }
}

fn collect(context: &Context, arguments: &CollectArguments) -> Result<()> {
    context.check_device()?;
    let given = arguments.hparams.as_deref().map(HparamsDocument::load).transpose()?;
    if let Some(document) = &given {
        settings_of(document)?;
    }
    let entry = arguments.method.as_deref().map(|method| easyedit::registry().get(method).copied()).transpose()?;
    if let Some(corpus) = &arguments.corpus {
        check_corpus("--corpus", corpus)?;
    }
    let checkpoint = context.open(&arguments.model)?;
    let inputs = [Some(checkpoint.path()), arguments.hparams.as_deref(), arguments.corpus.as_deref()];
    check_outputs([("--out", arguments.out.as_ref())], inputs.into_iter().flatten())?;
    let model = context.load(&checkpoint)?;
    let document = match (given, entry) {
        (Some(document), _) => Some(document),
        (None, Some(entry)) => Some(easyedit::hparams::find(&entry, &arguments.model, model.spec())?.document),
        (None, None) => None,
    };
    let settings = settings(arguments, document.as_ref(), &*model)?;
    let corpora = TextCorpora { corpus: arguments.corpus.clone() };
    let config = MomentConfig {
        samples: settings.samples.unwrap_or(MomentConfig::default().samples),
        tokens: settings.tokens,
        chunk_tokens: arguments.chunk_tokens,
        // The default seed is the one the methods use.
        seed: MomentConfig::default().seed.wrapping_add(context.common.seed),
        ..MomentConfig::default()
    };
    interrupt::resume("run the same command again: it goes on where it ended");
    let cache = context.cache();
    let samples = config.samples;
    let query = MomentQuery {
        checkpoint: Duration::from_secs_f64(arguments.checkpoint_every),
        ..MomentQuery::new(&settings.corpus, config, Some(&cache))
    };
    let started = Instant::now();
    if let (Some(shard), Some(out)) = (arguments.shard, &arguments.out) {
        let text = corpora.text(&settings.corpus)?;
        let report = collect_shard(&*model, &settings.layers, &query, &text, shard, out, context.progress())?;
        let (chunks, all) = report.chunks;
        let value = json!({
            "model": model.spec().name, "corpus": settings.corpus, "seconds": started.elapsed().as_secs_f64(), "layers": settings.layers,
            "shard": shard.to_string(), "tokens": report.tokens, "chunks": chunks, "all_chunks": all, "file": visible_path(out),
        });
        return context.output.print(&value, || {
            let took = seconds(started.elapsed().as_secs_f64());
            format!("shard {shard}: {} tokens in {chunks} of {all} chunks, in {took}: {}", report.tokens, out.display())
        });
    }
    let found = find_moments(&*model, &settings.layers, &query, &corpora, context.progress())?;
    let took = started.elapsed().as_secs_f64();
    let rows: Vec<Row> = found
        .into_iter()
        .map(|(layer, found)| {
            let names = EasyEditStats::of(model.spec(), layer, &settings.corpus, samples);
            Row::new(layer, found, &names, arguments.export_npz.as_deref())
        })
        .collect::<Result<_>>()?;
    let value = json!({ "model": model.spec().name, "corpus": settings.corpus, "seconds": took, "layers": values(&rows) });
    context.output.print(&value, || {
        let model = describe(&*model, &context.common.device);
        format!("model     {model}\ntext      {}, in {}\n\n{}", settings.corpus, seconds(took), table(&rows))
    })
}

fn merge(context: &Context, arguments: &MergeArguments) -> Result<()> {
    let cache = context.cache();
    let merged = merge_shards(&arguments.files, Some(&cache))?;
    let rows: Vec<Row> = merged
        .layers
        .into_iter()
        .map(|(layer, (module, found))| {
            let names = EasyEditStats { model: merged.model.clone(), corpus: merged.corpus.clone(), module, samples: merged.samples };
            Row::new(layer, found, &names, arguments.export_npz.as_deref())
        })
        .collect::<Result<_>>()?;
    let value = json!({ "model": merged.model, "corpus": merged.corpus, "shards": arguments.files.len(), "layers": values(&rows) });
    context.output.print(&value, || {
        format!("model     {}\ntext      {}, from {} shards\n\n{}", merged.model, merged.corpus, arguments.files.len(), table(&rows))
    })
}

fn import(context: &Context, arguments: &ImportArguments) -> Result<()> {
    context.check_device()?;
    if arguments.layer.is_some() && arguments.files.len() > 1 {
        return Err(UsageError("--layer names the layer of one file; leave it out, or import the files one by one".into()).into());
    }
    let checkpoint = context.open(&arguments.model)?;
    let model = context.load(&checkpoint)?;
    let cache = context.cache();
    let mut rows = Vec::new();
    let mut told = Vec::new();
    for path in &arguments.files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let in_name = || {
            let modules = &model.spec().modules.mlp_out;
            (0..model.spec().n_layers).find(|layer| name.starts_with(&format!("{}_", modules.replace("{}", &layer.to_string()))))
        };
        let layer = arguments.layer.or_else(in_name).with_context(|| {
            let module = &model.spec().modules.mlp_out;
            format!("{}: the name does not begin with a module of the model ({module}); say the layer with --layer", path.display())
        })?;
        let in_folder = || {
            let folder = path.parent()?.file_name()?.to_str()?;
            folder.strip_suffix("_stats").map(str::to_owned)
        };
        let corpus = arguments.corpus.clone().or_else(in_folder).with_context(|| {
            format!("{}: its folder is not called CORPUS_stats; say the corpus's name (mom2_dataset) with --corpus", path.display())
        })?;
        let (samples, found) = import_npz(&*model, layer, &corpus, arguments.samples, path, &cache)?;
        told.push(format!("mom2_dataset: {corpus}, mom2_n_samples: {samples}"));
        rows.push(Row { layer, found, exported: None });
    }
    told.sort();
    told.dedup();
    let value = json!({ "model": model.spec().name, "found_by": told, "layers": values(&rows) });
    context.output.print(&value, || {
        let model = describe(&*model, &context.common.device);
        format!("model     {model}\nfound by  {}\n\n{}", told.join("; "), table(&rows))
    })
}

/// A layer's line in the result.
struct Row {
    layer: usize,
    found: FoundMoments,
    exported: Option<PathBuf>,
}

impl Row {
    /// Writes EasyEdit's file, too, if there is a folder for it.
    fn new(layer: usize, found: FoundMoments, names: &EasyEditStats, export: Option<&Path>) -> Result<Self> {
        let exported = export.map(|folder| names.path(folder));
        if let Some(path) = &exported {
            write_npz(path, &found.moments, names.samples)?;
        }
        Ok(Self { layer, found, exported })
    }
}

fn values(rows: &[Row]) -> Vec<Value> {
    let value = |row: &Row| {
        let moments = &row.found.moments;
        let mut value = json!({ "layer": row.layer, "tokens": moments.tokens(), "size": moments.size(), "file": row.found.file.as_deref().map(visible_path) });
        if let (Some(path), Some(map)) = (&row.exported, value.as_object_mut()) {
            map.insert("npz".into(), json!(visible_path(path)));
        }
        value
    };
    rows.iter().map(value).collect()
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(&[("layer", Align::Right), ("tokens", Align::Right), ("size", Align::Left), ("file", Align::Left)]);
    for row in rows {
        let (tokens, size) = (row.found.moments.tokens(), row.found.moments.size());
        for path in [&row.found.file, &row.exported].into_iter().flatten() {
            table.row([row.layer.to_string(), tokens.to_string(), format!("{size}×{size}"), path.display().to_string()]);
        }
    }
    table.render()
}

/// What the flags say, else the hyperparameters, else the defaults.
fn settings(arguments: &CollectArguments, document: Option<&HparamsDocument>, model: &dyn LanguageModel) -> Result<Settings> {
    let of_document = document.map(settings_of).transpose()?;
    let mut settings = of_document.unwrap_or_else(|| Settings {
        layers: Vec::new(),
        corpus: SAMPLE_CORPUS.to_owned(),
        samples: None,
        tokens: arguments.samples.is_none().then(|| MomentConfig::default_tokens(model.spec())),
    });
    if !arguments.layers.is_empty() {
        settings.layers.clone_from(&arguments.layers);
    }
    settings.layers.sort_unstable();
    settings.layers.dedup();
    settings.layers.iter().try_for_each(|layer| model.spec().check_layer(*layer))?;
    settings.samples = arguments.samples.or(settings.samples);
    settings.tokens = arguments.tokens.or(settings.tokens);
    if let Some(corpus) = &arguments.corpus {
        settings.corpus = corpus.file_stem().unwrap_or(corpus.as_os_str()).to_string_lossy().into_owned();
    }
    Ok(settings)
}

fn settings_of(document: &HparamsDocument) -> Result<Settings> {
    let values = document.to_json()?;
    let missing = |key: &str| UsageError(format!("{}: {key} is missing or of the wrong type", document.origin()));
    let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let layers = values.get("layers").and_then(Value::as_array).and_then(|list| list.iter().map(number).collect());
    Ok(Settings {
        layers: layers.ok_or_else(|| missing("layers"))?,
        corpus: values.get("mom2_dataset").and_then(Value::as_str).ok_or_else(|| missing("mom2_dataset"))?.to_owned(),
        samples: Some(values.get("mom2_n_samples").and_then(number).with_context(|| missing("mom2_n_samples"))?),
        tokens: values.get("mom2_n_tokens").and_then(number),
    })
}
