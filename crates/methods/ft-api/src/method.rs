use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use easyedit_core::{CheckedRequest, Hparams, OutputFolder, Progress, write_atomically};
use serde::Serialize;
use serde_json::json;

use crate::api::Api;
use crate::client::Client;
use crate::hparams::duration;
use crate::job::{Job, JobEvent, JobStatus};
use crate::state::State;
use crate::training::TrainingFile;
use crate::{Error, FtApiHparams, Result};

/// Name of the training file, here and at the API.
const TRAINING_FILE: &str = "training.jsonl";
/// Letters of a fingerprint that name a folder.
const FOLDER_LETTERS: usize = 16;
/// Time between two looks at whether the work is to end.
const LONGEST_SLEEP: Duration = Duration::from_millis(200);

/// Fine-tuning of a model behind OpenAI's API.
#[derive(Debug)]
pub struct FtApi {
    pub(crate) hparams: FtApiHparams,
    pub(crate) api: Api,
    pub(crate) seed: u64,
}

/// A model that the API has fine-tuned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FineTuned {
    /// Its name at the API.
    pub model: String,
    /// The model it was made from.
    pub base: String,
    /// Id of the job that made it.
    pub job: String,
    /// Id of the training file at the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Tokens that were paid for, where the API tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained_tokens: Option<u64>,
    /// Folder with the training file and the job's state; none for a job that was taken up by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Whether it was there already, from an earlier run with the same requests and settings.
    pub reused: bool,
}

impl FtApi {
    /// Name, as `alg_name` gives it.
    pub const NAME: &'static str = FtApiHparams::METHOD;
    /// One line on what it does.
    pub const SUMMARY: &'static str = "fine-tunes a model behind OpenAI's API on the facts; the key is read from OPENAI_API_KEY";

    /// The method by its hyperparameters and the environment: the key, `OPENAI_BASE_URL`, and the variables of a proxy. `seed` is the
    /// training's, and that of the waits between attempts.
    ///
    /// # Errors
    ///
    /// [`Error::NoKey`] if there is no key, [`Error::Setting`] naming a value that cannot be used.
    pub fn new(hparams: FtApiHparams, seed: u64) -> Result<Self> {
        Self::with_variables(hparams, seed, &|name| std::env::var(name).ok())
    }

    /// As [`new`](Self::new), with another environment.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_variables(hparams: FtApiHparams, seed: u64, get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        hparams.check().map_err(easyedit_core::Error::hparams)?;
        let client = Client::new(&hparams, seed, get)?;
        Ok(Self { hparams, api: Api::new(client, seed), seed })
    }

    /// The hyperparameters.
    pub fn hparams(&self) -> &FtApiHparams {
        &self.hparams
    }

    /// Where the API is.
    pub fn base_url(&self) -> &str {
        self.api.base()
    }

    /// Fine-tunes the model on all requests at once, and waits for it.
    ///
    /// The same requests, model, settings and seed have the same folder under `results_dir`. What was done there before is not done
    /// again: a file that was uploaded is used, a job that was started is waited for, a model that is there is returned.
    ///
    /// # Errors
    ///
    /// A request without prompt or target, an API that cannot be reached or refuses, a job that failed, was cancelled
    /// ([`Error::Job`]) or takes too long ([`Error::Timeout`]). Errors that leave a job running at the API name it.
    pub fn edit(&self, requests: &[CheckedRequest], progress: &dyn Progress) -> Result<FineTuned> {
        let training = TrainingFile::new(requests, &self.hparams.system_prompt)?;
        let folder = self.folder(&training);
        let _claim = OutputFolder::claim(&folder).map_err(|error| match error {
            easyedit_core::Error::Format { .. } => Error::Busy { folder: folder.clone() },
            other => other.into(),
        })?;
        let known = State::load(&folder)?;
        let mut state = known.unwrap_or_else(|| State::new(&self.hparams.model_name, self.api.base()));
        if let (Some(model), Some(job)) = (&state.fine_tuned_model, &state.job) {
            return Ok(FineTuned {
                model: model.clone(),
                base: state.base.clone(),
                job: job.clone(),
                file: state.file.clone(),
                trained_tokens: state.trained_tokens,
                folder: Some(folder),
                reused: true,
            });
        }
        write_atomically(&folder.join(TRAINING_FILE), |file| file.write_all(training.text().as_bytes()))?;
        progress.begin(&format!("fine-tune {}", self.hparams.model_name), None);
        let done = self.train(&training, &folder, &mut state, progress);
        progress.end();
        let job = done?;
        if self.hparams.delete_file
            && let Some(file) = &state.file
            && let Err(error) = self.api.delete_file(file)
        {
            tracing::warn!("the training file stays at the API: {error}");
        }
        fine_tuned(job, &self.hparams.model_name, Some(folder))
    }

    /// Waits for a job that an earlier run has started.
    ///
    /// # Errors
    ///
    /// As [`edit`](Self::edit), as far as it is about the job.
    pub fn resume(&self, job: &str, progress: &dyn Progress) -> Result<FineTuned> {
        progress.begin(&format!("fine-tuning job {job}"), None);
        let done = self.api.job(job).and_then(|job| self.follow(job, progress, &mut |_| Ok(())));
        progress.end();
        fine_tuned(done?, &self.hparams.model_name, None)
    }

    /// How far a job is.
    ///
    /// # Errors
    ///
    /// If the API cannot be reached or knows no such job.
    pub fn job(&self, job: &str) -> Result<Job> {
        self.api.job(job)
    }

    /// Ends a job.
    ///
    /// # Errors
    ///
    /// If the API cannot be reached or refuses, as it does for a job that has ended.
    pub fn cancel(&self, job: &str) -> Result<Job> {
        self.api.cancel(job)
    }

    /// What happened to a job, the newest first; a hundred events at most.
    ///
    /// # Errors
    ///
    /// If the API cannot be reached or knows no such job.
    pub fn events(&self, job: &str) -> Result<Vec<JobEvent>> {
        self.api.events(job)
    }

    /// Deletes a training file from the API.
    ///
    /// # Errors
    ///
    /// If the API cannot be reached or knows no such file.
    pub fn delete_file(&self, file: &str) -> Result<()> {
        self.api.delete_file(file)
    }

    /// Folder for a training file, named after everything that the training depends on.
    fn folder(&self, training: &TrainingFile) -> PathBuf {
        let hparams = &self.hparams;
        let print = training.fingerprint(&json!({
            "model": hparams.model_name, "base_url": self.api.base(), "n_epochs": hparams.n_epochs, "suffix": hparams.suffix, "seed": self.seed,
        }));
        let name: String = print.chars().take(FOLDER_LETTERS).collect();
        hparams.results_dir.join(Self::NAME).join(name)
    }

    /// From whatever is there already to a finished job, noting each step in `folder`.
    fn train(&self, training: &TrainingFile, folder: &Path, state: &mut State, progress: &dyn Progress) -> Result<Job> {
        let known = state.job.clone();
        let job = match &known {
            Some(job) => self.api.job(job).map_err(|error| match error.is_not_found() {
                true => Error::Core(easyedit_core::Error::format(
                    State::path(folder),
                    format!("the API knows no job {job}; delete the file to fine-tune anew, which is paid for again"),
                )),
                false => Error::Interrupted { job: job.clone(), source: Box::new(error) },
            })?,
            None => self.start(training, folder, state, progress)?,
        };
        let mut note = |job: &Job| {
            state.job = Some(job.id.clone());
            if let Some(base) = &job.model {
                state.base = base.clone();
            }
            state.status = Some(job.status.clone());
            state.fine_tuned_model = job.fine_tuned_model.clone();
            state.trained_tokens = job.trained_tokens;
            state.save(folder)
        };
        if known.is_none() {
            tracing::info!("fine-tuning job {} has begun", job.id);
        }
        note(&job)?;
        self.follow(job, progress, &mut note)
    }

    /// Uploads the training file, unless it is there, and starts the job, unless it has begun.
    fn start(&self, training: &TrainingFile, folder: &Path, state: &mut State, progress: &dyn Progress) -> Result<Job> {
        if let Some(file) = state.file.clone() {
            match self.wait_for_file(&file, progress) {
                Ok(()) => {
                    // The run that uploaded it may have been cut off between starting the job and noting it.
                    if let Some(job) = self.api.job_of_file(&file)? {
                        return Ok(job);
                    }
                    return self.api.create_job(&file, &self.hparams);
                }
                Err(error) if error.is_not_found() || matches!(error, Error::File { .. }) => {
                    tracing::info!("the training file is uploaded again: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        progress.remark("uploading the training file");
        let file = self.api.upload(TRAINING_FILE, training.text().as_bytes())?.id;
        state.file = Some(file.clone());
        state.save(folder)?;
        self.wait_for_file(&file, progress)?;
        self.api.create_job(&file, &self.hparams)
    }

    /// Waits until the API has read a file.
    fn wait_for_file(&self, id: &str, progress: &dyn Progress) -> Result<()> {
        let begun = Instant::now();
        loop {
            let file = self.api.file(id)?;
            match file.status.as_deref() {
                None | Some("processed") => return Ok(()),
                Some("error") => {
                    let message = file.status_details.unwrap_or_else(|| "it gives no reason".to_owned());
                    return Err(Error::File { file: file.id, message });
                }
                Some(status) => progress.remark(&format!("training file {status}")),
            }
            if begun.elapsed() + duration(self.hparams.poll_seconds) > duration(self.hparams.job_timeout_seconds) {
                return Err(Error::FileTimeout { file: id.to_owned(), seconds: begun.elapsed().as_secs_f64() });
            }
            pause(duration(self.hparams.poll_seconds), progress)?;
        }
    }

    /// Asks about a job until it has ended; `note` is given each new status.
    fn follow(&self, mut job: Job, progress: &dyn Progress, note: &mut dyn FnMut(&Job) -> Result<()>) -> Result<Job> {
        let begun = Instant::now();
        let (poll, limit) = (duration(self.hparams.poll_seconds), duration(self.hparams.job_timeout_seconds));
        loop {
            match job.status {
                JobStatus::Succeeded => return Ok(job),
                JobStatus::Failed | JobStatus::Cancelled => {
                    let message = job.message();
                    return Err(Error::Job { job: job.id, status: job.status.to_string(), message });
                }
                _ => {}
            }
            if begun.elapsed() + poll > limit {
                return Err(Error::Timeout { job: job.id, status: job.status.to_string(), seconds: begun.elapsed().as_secs_f64() });
            }
            pause(poll, progress)?;
            let next = self.api.job(&job.id).map_err(|source| Error::Interrupted { job: job.id.clone(), source: Box::new(source) })?;
            let event = self.api.last_event(&job.id).map(|event| format!(": {}", event.message)).unwrap_or_default();
            progress.remark(&format!("{} {}{event}", next.id, next.status));
            if next != job {
                note(&next)?;
            }
            job = next;
        }
    }
}

/// Waits, unless the work is to end.
fn pause(time: Duration, progress: &dyn Progress) -> Result<()> {
    let begun = Instant::now();
    loop {
        progress.check()?;
        let left = time.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LONGEST_SLEEP));
    }
}

fn fine_tuned(job: Job, base: &str, folder: Option<PathBuf>) -> Result<FineTuned> {
    let model = job.fine_tuned_model.ok_or_else(|| {
        Error::answer(&format!("use the fine-tuning job {}", job.id), "it succeeded, but the API names no fine-tuned model")
    })?;
    Ok(FineTuned {
        model,
        base: job.model.unwrap_or_else(|| base.to_owned()),
        job: job.id,
        file: job.training_file,
        trained_tokens: job.trained_tokens,
        folder,
        reused: false,
    })
}
