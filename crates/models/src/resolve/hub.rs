//! Downloads a model's files from the Hub into Hugging Face's cache.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use easyedit_core::{Progress, read_input};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::cache::{INDEX, SINGLE, shards};
use super::{HubId, ModelSettings};
use crate::json_file::MAX_JSON_BYTES;

/// How long the Hub may take to say that it is there.
const FIRST_ANSWER: Duration = Duration::from_secs(8);
/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(60);

/// What is taken of a repository beside its weights.
const SMALL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "merges.txt",
    "vocab.json",
];

enum Event {
    Answered,
    Begin(String, u64),
    Advance(u64),
    End,
    Done(Result<PathBuf, String>),
}

/// Fetches what is not yet in the cache, and gives the model's folder there.
///
/// The work is done on a thread of its own, because the client has no time limits: a Hub that does not answer is given up.
pub(super) fn download(settings: &ModelSettings, id: &HubId<'_>, progress: &dyn Progress) -> Result<PathBuf, String> {
    let (sender, receiver) = channel();
    let settings = settings.clone();
    let repo = Repo::with_revision(id.repository.to_owned(), RepoType::Model, id.revision.to_owned());
    std::thread::Builder::new()
        .name("hub download".to_owned())
        .spawn(move || {
            let result = fetch(&settings, repo, &sender);
            let _ = sender.send(Event::Done(result));
        })
        .map_err(|e| format!("no thread can be started: {e}"))?;
    let mut open = false;
    let result = follow(&receiver, progress, &mut open);
    if open {
        progress.end();
    }
    result
}

/// Passes what the thread tells on to `progress`, which need not be safe to share.
fn follow(receiver: &Receiver<Event>, progress: &dyn Progress, open: &mut bool) -> Result<PathBuf, String> {
    let mut patience = FIRST_ANSWER;
    loop {
        match receiver.recv_timeout(patience) {
            Ok(Event::Answered) => patience = STALL,
            Ok(Event::Begin(file, size)) => {
                progress.begin(&format!("downloading {file}"), Some(size));
                *open = true;
            }
            Ok(Event::Advance(bytes)) => progress.step(bytes).map_err(|e| e.to_string())?,
            Ok(Event::End) => {
                progress.end();
                *open = false;
            }
            Ok(Event::Done(result)) => return result,
            Err(RecvTimeoutError::Timeout) => return Err(format!("no answer for {} seconds", patience.as_secs())),
            Err(RecvTimeoutError::Disconnected) => return Err("the download broke off unexpectedly".to_owned()),
        }
    }
}

fn fetch(settings: &ModelSettings, repo: Repo, events: &Sender<Event>) -> Result<PathBuf, String> {
    let cache = Cache::new(settings.hub_cache.clone());
    let builder = ApiBuilder::from_cache(cache.clone()).with_endpoint(settings.endpoint.clone()).with_token(settings.token.clone());
    let api = builder.with_progress(false).build().map_err(|e| explain(&e))?.repo(repo.clone());
    let info = api.info().map_err(|e| explain(&e))?;
    let _ = events.send(Event::Answered);

    let there: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let cached = cache.repo(repo);
    let get = |file: &str| match cached.get(file) {
        Some(path) => Ok(path),
        None => get(&api, file, events),
    };
    if !there.contains(&"config.json") {
        return Err("the repository has no config.json, so it holds no model in Hugging Face's format".to_owned());
    }
    let weights = match (there.contains(&SINGLE), there.contains(&INDEX)) {
        (true, _) => vec![SINGLE.to_owned()],
        (false, true) => {
            let path = get(INDEX)?;
            shards(&read_input(&path, MAX_JSON_BYTES).map_err(|e| e.to_string())?)?
        }
        (false, false) => return Err(format!("the repository has no {SINGLE}; convert its weights to safetensors first")),
    };
    let mut config = None;
    for file in SMALL_FILES.iter().filter(|file| there.contains(file)) {
        let path = get(file)?;
        if *file == "config.json" {
            config = Some(path);
        }
    }
    for file in &weights {
        get(file)?;
    }
    config.and_then(|path| path.parent().map(PathBuf::from)).ok_or_else(|| "config.json was not downloaded".to_owned())
}

fn get(api: &ApiRepo, file: &str, events: &Sender<Event>) -> Result<PathBuf, String> {
    let reporter = Reporter { events: events.clone(), started: false };
    api.download_with_progress(file, reporter).map_err(|e| format!("{file}: {}", explain(&e)))
}

/// Sends a download's progress to the thread that shows it.
struct Reporter {
    events: Sender<Event>,
    started: bool,
}

impl hf_hub::api::Progress for Reporter {
    fn init(&mut self, size: usize, filename: &str) {
        // The client says so once for the file and once for the request.
        if !std::mem::replace(&mut self.started, true) {
            let _ = self.events.send(Event::Begin(filename.to_owned(), size as u64));
        }
    }

    fn update(&mut self, size: usize) {
        let _ = self.events.send(Event::Advance(size as u64));
    }

    fn finish(&mut self) {
        let _ = self.events.send(Event::End);
    }
}

/// Adds the way out to what the client says.
fn explain(error: &ApiError) -> String {
    let text = error.to_string();
    if text.contains("status: 401") || text.contains("status: 403") {
        return format!("{text} (no such repository, or not open to everybody: set HF_TOKEN)");
    }
    if text.contains("status: 404") {
        return format!("{text} (there is no such repository, revision or file)");
    }
    text
}
