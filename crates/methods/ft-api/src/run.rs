use std::collections::BTreeMap;
use std::time::Instant;

use easyedit_core::{CheckedRequest, Progress};
use easyedit_eval::{Record, RunInfo, Seconds, Summary};

use crate::evaluation::{Answers, prompts};
use crate::state::State;
use crate::{Error, Exchange, FineTuned, FtApi, Result};

/// What stands for the `model_type` of a model that nobody but the API sees.
const FAMILY: &str = "api";

/// A fine-tuning with its evaluation, in the form of every other run.
#[derive(Clone, Debug)]
pub struct FtApiRun {
    /// The new model.
    pub fine_tuned: FineTuned,
    /// One record per request. `pre` and `post` are empty: the API gives no logits of a given answer.
    pub records: Vec<Record>,
    /// The run in one object.
    pub summary: Summary,
    /// The answers by prompt; none without evaluation.
    pub exchanges: BTreeMap<String, Exchange>,
}

impl FtApi {
    /// Fine-tunes on all requests at once and, with `evaluate`, asks both models. The base model is asked first, so that a wrong name or
    /// a prompt without an answer is found before anything is paid for.
    ///
    /// # Errors
    ///
    /// As [`edit`](Self::edit) and [`evaluate`](Self::evaluate).
    pub fn run(&self, requests: &[CheckedRequest], evaluate: bool, progress: &dyn Progress) -> Result<FtApiRun> {
        let started = Instant::now();
        let prompts = if evaluate { prompts(requests) } else { Vec::new() };
        let mut seconds = Seconds::default();
        let mut ask = |model: &str| {
            let begun = Instant::now();
            let answers = self.ask(model, &prompts, progress);
            seconds.evaluate += begun.elapsed().as_secs_f64();
            answers
        };
        let before = if evaluate { ask(&self.hparams.model_name)? } else { Answers::new() };
        let begun = Instant::now();
        let fine_tuned = self.edit(requests, progress)?;
        let edit = begun.elapsed().as_secs_f64();
        let after = if evaluate { ask(&fine_tuned.model).map_err(|error| gone(error, &fine_tuned))? } else { Answers::new() };
        let evaluated = self.evaluated(requests, &before, &after, edit);
        seconds.edit = edit;
        seconds.total = started.elapsed().as_secs_f64();
        let info = RunInfo {
            model: self.hparams.model_name.clone(),
            family: FAMILY.to_owned(),
            method: Self::NAME.to_owned(),
            mode: "batch".to_owned(),
            seed: self.seed,
            hparams: serde_json::to_value(&self.hparams).map_err(easyedit_core::Error::other)?,
        };
        let mut summary = Summary::of(info, &evaluated.records, seconds);
        summary.edited_model = Some(fine_tuned.model.clone());
        Ok(FtApiRun { fine_tuned, records: evaluated.records, summary, exchanges: evaluated.exchanges })
    }
}

/// A model of an earlier run that was deleted since is made again only if somebody says so.
fn gone(error: Error, tuned: &FineTuned) -> Error {
    match &tuned.folder {
        Some(folder) if tuned.reused && error.is_not_found() => Error::Core(easyedit_core::Error::format(
            State::path(folder),
            format!(
                "names the model {}, which the API does not have ({error}); delete the file to fine-tune anew, which is paid for again",
                tuned.model
            ),
        )),
        _ => error,
    }
}
