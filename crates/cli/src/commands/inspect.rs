//! `easyedit inspect`

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use easyedit::{Edit, WeightDelta};
use serde_json::{Value, json};

use super::Context;
use super::edit_files::load_edit_files;
use crate::args::InspectArguments;
use crate::output::{Align, Table, style, visible_path};

/// Letters of a fingerprint that are shown.
const SHOWN_FINGERPRINT: usize = 12;

pub(super) fn run(context: &Context, arguments: &InspectArguments) -> Result<()> {
    let inspected = load_edit_files(&arguments.files)?;
    let inspected = inspected.iter().map(|(file, edit)| Inspected::of(file, edit)).collect::<Result<Vec<_>>>()?;
    match inspected.as_slice() {
        [one] => context.output.print(&one.value, || one.text.clone()),
        several => {
            let values: Vec<&Value> = several.iter().map(|one| &one.value).collect();
            let titled = several.iter().map(|one| format!("{}\n{}", style(one.file.display().to_string()).bold(), one.text));
            context.output.print(&values, || titled.collect::<Vec<_>>().join("\n\n"))
        }
    }
}

/// What there is to tell about one file.
struct Inspected<'a> {
    file: &'a Path,
    value: Value,
    text: String,
}

impl<'a> Inspected<'a> {
    fn of(file: &'a Path, edit: &Edit) -> Result<Self> {
        let norms: Vec<f64> = edit.deltas.values().map(|change| change.delta.norm()).collect();
        let bytes = std::fs::metadata(file)?.len();
        Ok(Self { file, value: value(file, edit, &norms, bytes), text: text(edit, &norms, bytes) })
    }
}

fn value(file: &Path, edit: &Edit, norms: &[f64], bytes: u64) -> Value {
    let tensors: Vec<Value> = edit
        .deltas
        .iter()
        .zip(norms)
        .map(|((name, change), norm)| {
            json!({
                "name": name, "kind": kind(&change.delta), "shape": change.delta.shape(), "rank": change.delta.rank(),
                "norm": norm, "base": change.base, "after": change.after,
            })
        })
        .collect();
    json!({
        "file": visible_path(file), "bytes": bytes, "method": edit.method, "model": edit.model, "family": edit.family, "seed": edit.seed,
        "requests": edit.requests, "hparams": edit.hparams, "tensors": tensors, "overlay": overlay(edit), "diagnostics": edit.diagnostics,
    })
}

/// What is laid over the model: the data, and the shapes of its tensors.
fn overlay(edit: &Edit) -> Option<Value> {
    let overlay = edit.overlay.as_ref()?;
    let tensors: BTreeMap<&str, [usize; 2]> = overlay.tensors.iter().map(|(name, matrix)| (name.as_str(), matrix.shape())).collect();
    Some(json!({ "data": overlay.data, "tensors": tensors }))
}

fn kind(delta: &WeightDelta) -> &'static str {
    match delta {
        WeightDelta::LowRank { .. } => "low rank",
        WeightDelta::Dense(_) => "dense",
        WeightDelta::Sparse { .. } => "sparse",
    }
}

fn text(edit: &Edit, norms: &[f64], bytes: u64) -> String {
    let mut text = format!(
        "method    {}, seed {}\nmodel     {} ({})\nsize      {:.1} kB\n\n",
        edit.method,
        edit.seed,
        edit.model,
        edit.family,
        bytes as f64 / 1000.0
    );
    let mut facts = Table::new(&[("case", Align::Right), ("prompt", Align::Left), ("new target", Align::Left), ("subject", Align::Left)]);
    for request in &edit.requests {
        let subject = request.subject.clone().unwrap_or_default();
        facts.row([request.case_id.to_string(), request.filled_prompt(), request.target_new.clone(), subject]);
    }
    let mut tensors = Table::new(&[
        ("tensor", Align::Left),
        ("change", Align::Left),
        ("shape", Align::Left),
        ("norm", Align::Right),
        ("made for", Align::Left),
    ]);
    for ((name, change), norm) in edit.deltas.iter().zip(norms) {
        let rank = change.delta.rank().map(|rank| format!(" ({rank})")).unwrap_or_default();
        let [rows, cols] = change.delta.shape();
        let base = change.base.as_str();
        tensors.row([
            name.to_string(),
            format!("{}{rank}", kind(&change.delta)),
            format!("{rows}×{cols}"),
            format!("{norm:.4}"),
            base.get(..SHOWN_FINGERPRINT).unwrap_or(base).to_owned(),
        ]);
    }
    text.push_str(&facts.render());
    if !edit.deltas.is_empty() {
        text.push_str(&format!("\n{}", tensors.render()));
    }
    let data = edit.overlay.iter().filter_map(|overlay| overlay.data.as_object()).flatten();
    for (name, list) in data.filter_map(|(name, value)| Some((name, value.as_array()?))) {
        text.push_str(&format!("\nlaid over   {} {name}", list.len()));
    }
    for (name, matrix) in edit.overlay.iter().flat_map(|overlay| &overlay.tensors) {
        let [rows, cols] = matrix.shape();
        text.push_str(&format!("\nlaid over   {name} {rows}×{cols}"));
    }
    if let Value::Object(hparams) = &edit.hparams {
        let pairs: Vec<String> = hparams.iter().map(|(key, value)| format!("  {key}: {value}\n")).collect();
        text.push_str(&format!("\nhyperparameters\n{}", pairs.concat()));
    }
    text
}
