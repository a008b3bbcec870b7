//! One file per command, and what they share.

mod apply;
mod continuations;
mod data;
mod demo;
mod destination;
mod edit;
mod edit_files;
mod export;
mod forget;
mod ft_api;
mod generate;
mod import;
mod index;
mod inspect;
mod lists;
mod outputs;
mod perplexity;
mod requests;
mod revert;
mod run;
mod stats;
mod trace;
mod train;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use easyedit::models::{Checkpoint, cache_folder, resolve_model};
use easyedit::{LanguageModel, Progress, SAMPLE_CORPUS, SELF_CORPUS, Session, TextCorpora};

use crate::args::{Command, Common};
use crate::failure::UsageError;
use crate::output::Output;
use crate::progress::Bars;

/// What every command is given besides its own flags.
pub(crate) struct Context {
    pub(crate) common: Common,
    pub(crate) output: Output,
    session: Session,
}

impl Context {
    pub(crate) fn new(common: Common, bars: &Bars) -> Self {
        let session = Session::new()
            .with_seed(common.seed)
            .with_cache(cache_folder())
            .with_progress(bars.clone())
            .with_corpora(TextCorpora::default());
        Self { output: Output::new(common.json), common, session }
    }

    /// Where long work reports to, and is told to end.
    pub(crate) fn progress(&self) -> &dyn Progress {
        self.session.progress()
    }

    /// Where methods keep what is worth keeping.
    pub(crate) fn cache(&self) -> PathBuf {
        cache_folder()
    }

    /// The session that the flags ask for, with the built-in texts and whatever lies on disk. All work of the command belongs to it.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Checks `--device`, so that a wrong one is told before anything is computed.
    pub(crate) fn check_device(&self) -> Result<()> {
        easyedit::device::select(&self.common.device)?;
        Ok(())
    }

    /// Finds a model (which may fetch it) and opens its files; no weight is read yet.
    pub(crate) fn open(&self, name: &str) -> Result<Checkpoint> {
        if name.trim().is_empty() {
            return Err(UsageError("--model is empty; give a folder, a .gguf file, a Hub id or a short name".into()).into());
        }
        let location = resolve_model(name, self.progress())?;
        Ok(Checkpoint::open(&location.path)?.with_name(location.name))
    }

    /// Loads an opened model onto `--device`.
    pub(crate) fn load(&self, checkpoint: &Checkpoint) -> Result<Box<dyn LanguageModel>> {
        let device = easyedit::device::select(&self.common.device)?;
        Ok(checkpoint.load_while(&device, self.progress())?)
    }
}

/// Does what the command line asks for.
pub(crate) fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Demo(arguments) => demo::run(context, &arguments),
        Command::Edit(arguments) => edit::run(context, &arguments),
        Command::Generate(arguments) => generate::run(context, &arguments),
        Command::Perplexity(arguments) => perplexity::run(context, &arguments),
        Command::Data(arguments) => data::run(context, &arguments),
        Command::Apply(arguments) => apply::run(context, &arguments),
        Command::Revert(arguments) => revert::run(context, &arguments),
        Command::Forget(arguments) => forget::run(context, &arguments),
        Command::Inspect(arguments) => inspect::run(context, &arguments),
        Command::Export(arguments) => export::run(context, &arguments),
        Command::Import(arguments) => import::run(context, &arguments),
        Command::Methods => lists::methods(context),
        Command::Models => lists::models(context),
        Command::Stats(arguments) => stats::run(context, &arguments),
        Command::Index(arguments) => index::run(context, &arguments),
        Command::Trace(arguments) => trace::run(context, &arguments),
        Command::Train(arguments) => train::run(context, &arguments),
        Command::Verify(arguments) => verify::run(context, &arguments),
    }
}

/// A path that goes into hyperparameters, which are text.
fn utf8_path<'a>(flag: &str, path: &'a Path) -> Result<&'a str> {
    path.to_str().ok_or_else(|| {
        UsageError(format!("{flag} {}: hyperparameters name this file, so its name has to be UTF-8; rename it", path.display())).into()
    })
}

/// Checks that a file a flag names is there.
fn check_file(flag: &str, path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {} (given with {flag})", path.display()))?;
    if !metadata.is_file() {
        return Err(UsageError(format!("{} (given with {flag}) is not a file", path.display())).into());
    }
    Ok(())
}

/// Checks that a text a flag names is there: a file, a folder, or the model's own.
fn check_corpus(flag: &str, path: &Path) -> Result<()> {
    let is_name = [SAMPLE_CORPUS, SELF_CORPUS].iter().any(|name| path.as_os_str().eq_ignore_ascii_case(name));
    if !is_name && !path.is_dir() {
        check_file(flag, path)?;
    }
    Ok(())
}

/// `model` as the first lines of a result name it.
fn describe(model: &dyn LanguageModel, device: &str) -> String {
    let spec = model.spec();
    format!("{} ({}, {} layers of width {}) on {device}", spec.name, spec.family, spec.n_layers, spec.d_model)
}
