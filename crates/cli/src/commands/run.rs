//! From a model's name and requests to edits, a report and saved results: what `edit` and `demo` share.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use easyedit::eval::{Record, ReportWriter};
use easyedit::hparams::{FoundHparams, HparamsSource};
use easyedit::{CheckedRequest, EditRun, Editor, EditorOptions, HparamsDocument, LanguageModel, MethodEntry, Mode, TextCorpora};

use super::continuations::{Watched, compare};
use super::destination::{Destination, EditKeeper, Saved};
use super::outputs::check_outputs;
use super::{Context, describe, utf8_path};
use crate::args::OutputArguments;
use crate::failure::UsageError;
use crate::interrupt;
use crate::output::{Continuation, seconds};

/// Key of the records that demonstrations are made of, in the hyperparameters of methods that have any.
const DEMONSTRATIONS: &str = "train_data";
/// Continuations are shown for this many requests at most.
pub(super) const MOST_SHOWN: usize = 4;

/// A run as the command line asks for it, checked as far as that goes without the model.
pub(super) struct Run<'a> {
    pub(super) model: &'a str,
    pub(super) entry: MethodEntry,
    /// Given hyperparameters, and the file they are from.
    pub(super) hparams: Option<(HparamsDocument, PathBuf)>,
    pub(super) requests: Vec<CheckedRequest>,
    /// The file they are from, if they are from one.
    pub(super) requests_file: Option<&'a Path>,
    pub(super) mode: Mode,
    pub(super) corpus: Option<PathBuf>,
    /// Records to take demonstrations from.
    pub(super) demonstrations: Option<&'a Path>,
    pub(super) evaluate: bool,
    pub(super) output: &'a OutputArguments,
    pub(super) report: Option<&'a PathBuf>,
    /// Prompts to show besides those of the requests.
    pub(super) watched: Vec<Watched>,
}

/// What came out.
pub(super) struct Finished {
    pub(super) run: EditRun<EditKeeper>,
    /// One line on the model.
    pub(super) model: String,
    pub(super) hparams: FoundHparams,
    pub(super) continuations: Vec<Continuation>,
    pub(super) saved: Saved,
    pub(super) report: Option<PathBuf>,
}

impl Run<'_> {
    /// Checks the rest, loads the model, edits, evaluates and saves.
    pub(super) fn execute(self, context: &Context) -> Result<Finished> {
        context.check_device()?;
        if self.requests.is_empty() {
            bail!("there are no requests to edit");
        }
        self.check_saving()?;
        let checkpoint = context.open(self.model)?;
        check_outputs([("--report", self.report)], self.inputs().chain([checkpoint.path()]))?;
        let destination = Destination::claim(&checkpoint, self.output)?;
        let mut report = self.report.map(|path| ReportWriter::create(path)).transpose()?;

        let model = context.load(&checkpoint)?;
        let hparams = self.hparams(&*model)?;
        let method = self.entry.build(&hparams.document)?;
        if self.saves_checkpoint() && !method.changes_weights() {
            return Err(UsageError(format!(
                "{} changes no weights, so there is no checkpoint to save; use --save edit, and give the file to `easyedit generate --edit`",
                method.name()
            ))
            .into());
        }
        let told = describe(&*model, &context.common.device);
        let options = EditorOptions { mode: self.mode, evaluate: self.evaluate, keep_going: self.requests.len() > 1 };
        let session = context.session().clone().with_corpora(TextCorpora { corpus: self.corpus.clone() });
        let mut editor = Editor::new(&session, model, method, options);
        let edits = EditKeeper::new(destination.as_ref(), if self.mode == Mode::Batch { 1 } else { self.requests.len() });
        let mut is_named = false;
        let mut on_record = |record: &Record| match &mut report {
            Some(report) => {
                report.record(record)?;
                if !std::mem::replace(&mut is_named, true) {
                    interrupt::keep(report.partial_path());
                }
                Ok(())
            }
            None => Ok(()),
        };
        let run = editor.run_into(edits, &self.requests, &mut on_record)?;
        if let (Some(report), Some(path)) = (report, self.report) {
            interrupt::forget(report.partial_path());
            report.finish(&run.summary)?;
            interrupt::keep(path);
        }
        let saved = match &destination {
            Some(destination) => destination.finish(context, &checkpoint, &run.edits, || run.edited())?,
            None => Saved::default(),
        };
        let continuations = if self.evaluate { self.continuations(context, &run)? } else { Vec::new() };
        Ok(Finished { run, model: told, hparams, continuations, saved, report: self.report.cloned() })
    }

    /// The files it reads besides the model's.
    fn inputs(&self) -> impl Iterator<Item = &Path> {
        let hparams = self.hparams.as_ref().map(|(_, path)| path.as_path());
        [self.requests_file, hparams, self.corpus.as_deref(), self.demonstrations].into_iter().flatten()
    }

    fn saves_checkpoint(&self) -> bool {
        self.output.out.is_some() && self.output.save.unwrap_or_default().checkpoint()
    }

    fn check_saving(&self) -> Result<()> {
        if self.saves_checkpoint() && self.mode == Mode::Independent && self.requests.len() > 1 {
            return Err(UsageError(format!(
                "{} requests edited independently have no model in common to save; use --mode sequential or batch, or --save edit",
                self.requests.len()
            ))
            .into());
        }
        Ok(())
    }

    fn hparams(&self, model: &dyn LanguageModel) -> Result<FoundHparams> {
        let mut found = match &self.hparams {
            Some((document, path)) => {
                let document = easyedit::hparams::complete(document.clone(), &self.entry, model.spec())?;
                FoundHparams { document, source: HparamsSource::File(path.clone()) }
            }
            None => easyedit::hparams::find(&self.entry, self.model, model.spec())?,
        };
        if let Some(path) = self.demonstrations {
            if self.entry.hparams_for(model.spec())?.to_json()?.get(DEMONSTRATIONS).is_none() {
                let message = format!("--demonstrations: {} takes none; leave it out, or choose a method that does (IKE)", self.entry.name);
                return Err(UsageError(message).into());
            }
            found.document.set(DEMONSTRATIONS, utf8_path("--demonstrations", path)?);
        }
        Ok(found)
    }

    fn continuations(&self, context: &Context, run: &EditRun<EditKeeper>) -> Result<Vec<Continuation>> {
        let edited: Vec<&Record> = run.records.iter().filter(|record| record.error.is_none()).collect();
        if edited.is_empty() || edited.len() > MOST_SHOWN {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        for (index, record) in edited.iter().enumerate() {
            let model = match self.mode {
                Mode::Independent => run.edited_by(index)?,
                Mode::Sequential | Mode::Batch => run.edited()?,
            };
            let mut watched = Watched::of(&record.requested_rewrite);
            watched.extend(self.watched.iter().cloned());
            watched.sort_by_key(|one| one.role);
            all.extend(compare(run.original(), &*model, &watched, context.progress())?);
        }
        Ok(all)
    }
}

impl Finished {
    /// The lines that say what was done.
    pub(super) fn heading(&self) -> String {
        let run = &self.run.summary.run;
        let mut text = format!("model     {}\nmethod    {}, hyperparameters {}\n", self.model, run.method, self.hparams.source);
        if self.hparams.source == HparamsSource::Derived
            && let Ok(yaml) = self.hparams.document.to_yaml()
        {
            yaml.lines().for_each(|line| text.push_str(&format!("            {line}\n")));
        }
        text
    }

    /// The lines that say what it took and where it is kept.
    pub(super) fn closing(&self) -> String {
        let summary = &self.run.summary;
        let mut parts =
            vec![format!("prepared in {}", seconds(summary.seconds.prepare)), format!("edited in {}", seconds(summary.seconds.edit))];
        if summary.seconds.evaluate > 0.0 {
            parts.push(format!("evaluated in {}", seconds(summary.seconds.evaluate)));
        }
        if let Some(megabytes) = summary.peak_memory_mb {
            parts.push(format!("peak memory {:.2} GB", megabytes / 1000.0));
        }
        let mut text = parts.join(" · ") + "\n";
        for path in &self.saved.edits {
            text.push_str(&format!("edit        {}\n", path.display()));
        }
        if let Some(path) = &self.saved.checkpoint {
            text.push_str(&format!("checkpoint  {}\n", path.display()));
        }
        if let Some(path) = &self.report {
            text.push_str(&format!("report      {}\n", path.display()));
        }
        text
    }

    /// An error if some requests could not be edited.
    pub(super) fn check(&self) -> Result<()> {
        let errors: Vec<&str> = self.run.records.iter().filter_map(|record| record.error.as_deref()).collect();
        match errors.as_slice() {
            [] => Ok(()),
            [first, ..] => {
                bail!("{} of {} requests could not be edited, the first because {first}", errors.len(), self.run.records.len())
            }
        }
    }
}
