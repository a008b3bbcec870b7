//! Everything that is timed.

use std::time::Instant;

use anyhow::{Context as _, Result};
use easyedit::eval::Evaluation;
use easyedit::kernels::{MomentConfig, SecondMoments};
use easyedit::{CheckedRequest, HparamsDocument, Pass, Silent, TokenBatch};
use serde_json::{Map, Value, json};

use crate::Workload;

/// Rows of the batch that is run forward: those of a fact in its contexts.
const FORWARD_ROWS: usize = 12;
/// Tokens of each of them.
const FORWARD_TOKENS: usize = 17;
/// Records that are evaluated.
const RECORDS: usize = 100;
/// Passes of the two value optimisations whose difference gives the time of one pass.
const FEW_PASSES: u64 = 2;
const MANY_PASSES: u64 = 8;
/// A learning rate that leaves the loss where it is, so that no pass is saved by an early end.
const STANDSTILL: f64 = 1e-9;

/// What a run of a section tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Seconds of what is measured, if that is not the whole run.
    pub seconds: Option<f64>,
    /// Numbers of tokens, passes, edits.
    pub counts: Map<String, Value>,
}

impl Outcome {
    fn counting<const N: usize>(counts: [(&str, usize); N]) -> Self {
        let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect();
        Self { seconds: None, counts }
    }
}

/// A section made ready: each call is one run.
pub type Timed<'a> = Box<dyn FnMut() -> Result<Outcome> + 'a>;

/// Something that is timed.
#[derive(Clone, Copy)]
pub struct Section {
    /// Its name; in a run it stands behind the model's, `tiny-world-llama/forward`.
    pub name: &'static str,
    /// One line on what is timed.
    pub about: &'static str,
    /// Whether it runs for minutes on a real model: then only where it is asked for by its name.
    pub long: bool,
    prepare: for<'a> fn(&'a Workload) -> Result<Timed<'a>>,
}

impl Section {
    /// Does what is not timed.
    ///
    /// # Errors
    ///
    /// If the workload has too few facts, or something cannot be made ready.
    pub fn prepare<'a>(&self, workload: &'a Workload) -> Result<Timed<'a>> {
        (self.prepare)(workload)
    }
}

/// All sections, in the order they are run.
pub const SECTIONS: &[Section] = &[
    section("forward", "all layers and the head at the last positions, 12 rows of 17 tokens", forward),
    section("value-step", "one pass of a value optimisation, forward and backward, in a fact's contexts", value_step),
    section("rome-edit", "a ROME edit with our own settings, templates and statistics at hand", |w| rome(w, w.fact()?, false)),
    section("rome-edit-reference", "the same with EasyEdit's optimiser", |w| rome(w, w.fact()?, true)),
    section("rome-short-reference", "EasyEdit's optimiser, and a subject that all but ends the prompt", |w| rome(w, w.short_fact()?, true)),
    section("memit-1", "MEMIT, 1 fact", |w| memit(w, 1, false)),
    section("memit-10", "MEMIT, 10 facts in one batch", |w| memit(w, 10, false)),
    section("memit-10-reference", "the same with EasyEdit's optimiser", |w| memit(w, 10, true)).long(),
    section("memit-100", "MEMIT, 100 facts in one batch", |w| memit(w, 100, false)).long(),
    section("memit-1000", "MEMIT, 1000 facts in one batch", |w| memit(w, 1000, false)).long(),
    section("moments-1", "second moments of the last of MEMIT's layers", |w| moments(w, true)),
    section("moments-5", "second moments of all of MEMIT's layers in one pass", |w| moments(w, false)),
    section("evaluate-100", "100 records asked, teacher-forced and continued freely", evaluate),
];

const fn section(name: &'static str, about: &'static str, prepare: for<'a> fn(&'a Workload) -> Result<Timed<'a>>) -> Section {
    Section { name, about, long: false, prepare }
}

impl Section {
    const fn long(mut self) -> Self {
        self.long = true;
        self
    }
}

/// The sections that `filter` chooses on model `model`. A filter that is a section's whole name, with or without the model's before it, means
/// that section; any other means all whose `model/section` holds it. Without filters all are chosen. Long ones must be named.
pub fn chosen(model: &str, filters: &[String]) -> Vec<&'static Section> {
    let full = |section: &Section| format!("{model}/{}", section.name);
    let names = |section: &Section, filter: &str| section.name == filter || full(section) == filter;
    let is_name = |filter: &str| SECTIONS.iter().any(|section| filter == section.name || filter.ends_with(&format!("/{}", section.name)));
    SECTIONS
        .iter()
        .filter(|section| match filters {
            [] => !section.long,
            filters => filters.iter().any(|filter| match is_name(filter) {
                true => names(section, filter),
                false => !section.long && full(section).contains(filter.as_str()),
            }),
        })
        .collect()
}

fn forward(workload: &Workload) -> Result<Timed<'_>> {
    let model = workload.model();
    let vocabulary = model.spec().vocab_size.max(1);
    let length = FORWARD_TOKENS.min(model.spec().max_positions);
    let rows: Vec<Vec<u32>> =
        (0..FORWARD_ROWS).map(|row| (0..length).map(|token| ((row * 131 + token * 17) % vocabulary) as u32).collect()).collect();
    let batch = TokenBatch::new(&rows)?;
    Ok(Box::new(move || {
        let mut pass = Pass::new(batch.clone(), &model.device());
        let hidden = model.hidden(&mut pass, &mut ())?;
        let logits = easyedit::tensor_values(&model.logits(hidden, &batch.last_indices())?)?;
        Ok(Outcome::counting([("tokens", batch.tokens()), ("logits", logits.len())]))
    }))
}

fn value_step(workload: &Workload) -> Result<Timed<'_>> {
    let request = [workload.fact()?];
    let with_passes = |passes: u64| {
        let mut document = workload.hparams("ROME")?;
        document.set("v_num_grad_steps", passes);
        document.set("v_lr", STANDSTILL);
        workload.method(&document)
    };
    let (mut few, mut many) = (with_passes(FEW_PASSES)?, with_passes(MANY_PASSES)?);
    Ok(Box::new(move || {
        let started = Instant::now();
        let passes_of_few = passes(&few.edit(workload.model(), &request, &workload.session())?.diagnostics);
        let between = started.elapsed();
        let passes_of_many = passes(&many.edit(workload.model(), &request, &workload.session())?.diagnostics);
        let seconds = (started.elapsed() - between).as_secs_f64() - between.as_secs_f64();
        let difference = passes_of_many.checked_sub(passes_of_few).filter(|passes| *passes > 0);
        let passes = difference.context("the value optimisation ended early: there is no pass to be timed")?;
        Ok(Outcome { seconds: Some(seconds.max(0.0) / passes as f64), ..Outcome::counting([("passes", passes)]) })
    }))
}

fn rome(workload: &Workload, request: CheckedRequest, reference: bool) -> Result<Timed<'_>> {
    edit(workload, "ROME", vec![request], reference)
}

fn memit(workload: &Workload, count: usize, reference: bool) -> Result<Timed<'_>> {
    edit(workload, "MEMIT", workload.requests(count)?.to_vec(), reference)
}

fn edit<'a>(workload: &'a Workload, method: &str, requests: Vec<CheckedRequest>, reference: bool) -> Result<Timed<'a>> {
    let mut document = workload.hparams(method)?;
    if reference {
        use_reference_optimiser(&mut document, workload)?;
    }
    let mut method = workload.method(&document)?;
    method.prepare(workload.model(), &workload.session())?;
    Ok(Box::new(move || {
        // Values that an earlier run has found are looked for again.
        let empty = tempfile::tempdir().context("cannot make a temporary folder")?;
        let cache = empty.path().to_owned();
        let edit = method.edit(workload.model(), &requests, &workload.session().with_cache(&cache))?;
        Ok(Outcome::counting([("edits", requests.len()), ("passes", passes(&edit.diagnostics))]))
    }))
}

/// Adam as EasyEdit's files mean it, where our own file chooses another.
fn use_reference_optimiser(document: &mut HparamsDocument, workload: &Workload) -> Result<()> {
    if !workload.is_tiny() {
        document.set("v_lr", 0.5);
    }
    // Only a method that has the key can have chosen other values than these.
    if document.to_json()?.get("v_adam_betas").is_some() {
        document.set("v_adam_betas", vec![0.9, 0.999]);
    }
    Ok(())
}

/// Passes of all value optimisations that an edit's diagnostics tell of.
fn passes(diagnostics: &Value) -> usize {
    match diagnostics {
        Value::Array(list) => list.iter().map(passes).sum(),
        Value::Object(map) => match map.get("losses") {
            Some(Value::Array(losses)) => losses.len(),
            _ => map.values().map(passes).sum(),
        },
        _ => 0,
    }
}

fn moments(workload: &Workload, last_alone: bool) -> Result<Timed<'_>> {
    let timed = workload.moments()?;
    let first = if last_alone { timed.layers.len().saturating_sub(1) } else { 0 };
    let layers = timed.layers.get(first..).unwrap_or_default().to_vec();
    let config = MomentConfig::default();
    Ok(Box::new(move || {
        let collected = SecondMoments::collect(workload.model(), &layers, &timed.documents, &config, &Silent)?;
        let tokens = collected.values().next().map_or(0, SecondMoments::tokens) as usize;
        Ok(Outcome::counting([("layers", collected.len()), ("deepest", layers.last().copied().unwrap_or_default()), ("tokens", tokens)]))
    }))
}

fn evaluate(workload: &Workload) -> Result<Timed<'_>> {
    let evaluation = Evaluation::new(workload.model(), workload.requests(RECORDS)?)?;
    Ok(Box::new(move || {
        let answers = evaluation.ask(workload.model(), &Silent)?;
        Ok(Outcome::counting([("records", answers.len())]))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(filters: &[&str]) -> Vec<&'static str> {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        chosen("tiny-world-llama", &filters).iter().map(|section| section.name).collect()
    }

    #[test]
    fn a_whole_name_is_that_section_and_long_ones_must_be_named() {
        assert_eq!(names(&["memit-1"]), ["memit-1"]);
        assert_eq!(names(&["memit-1000"]), ["memit-1000"]);
        assert_eq!(names(&["tiny-world-llama/memit-100"]), ["memit-100"]);
        assert!(names(&["other-model/memit-100"]).is_empty());
        assert_eq!(names(&["memit"]), ["memit-1", "memit-10"]);
        assert_eq!(names(&["memit-1", "evaluate"]), ["memit-1", "evaluate-100"]);
        assert_eq!(names(&["llama"]), names(&[]));
        assert!(!names(&[]).contains(&"memit-1000") && names(&["no such"]).is_empty());
    }

    #[test]
    fn passes_are_counted_wherever_they_are_told_of() {
        let told = json!([{"losses": [1, 2, 3]}, {"requests": [{"losses": [1]}]}, {"layer": 4}]);
        assert_eq!(passes(&told), 4);
    }
}
