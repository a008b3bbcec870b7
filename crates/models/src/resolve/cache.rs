//! Hugging Face's cache: `models--organisation--name/refs/REVISION` names a commit, whose files are in `snapshots/COMMIT`.

use std::path::{Path, PathBuf};

use easyedit_core::{read_input, read_input_text};
use serde_json::Value;

use super::HubId;
use crate::json_file::MAX_JSON_BYTES;
use crate::{SENTENCEPIECE_FILES, TOKENIZER_FILE};

/// Names of files that hold weights.
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Longest file that names a commit.
const MAX_REF_BYTES: u64 = 4096;

/// The folder of a model that is whole in the cache.
pub(super) fn find(cache: &Path, id: &HubId<'_>) -> Result<PathBuf, String> {
    let repository = cache.join(format!("models--{}", id.repository.replace('/', "--")));
    let commit = match read_input_text(&repository.join("refs").join(id.revision), MAX_REF_BYTES) {
        Ok(commit) => commit.trim().to_owned(),
        Err(_) if repository.join("snapshots").join(id.revision).is_dir() => id.revision.to_owned(),
        Err(_) => return Err("not there".to_owned()),
    };
    if !is_file_name(&commit) {
        return Err(format!("revision {} points to {commit:?}, which is no commit", id.revision));
    }
    let folder = repository.join("snapshots").join(commit);
    missing_file(&folder).map_or(Ok(folder), |file| Err(format!("there, but without {file}")))
}

/// The first file a model needs that is not in `folder`.
fn missing_file(folder: &Path) -> Option<String> {
    let has = |name: &str| folder.join(name).is_file();
    if !has("config.json") {
        return Some("config.json".to_owned());
    }
    if !has(TOKENIZER_FILE) && !SENTENCEPIECE_FILES.iter().any(|name| has(name)) {
        return Some(TOKENIZER_FILE.to_owned());
    }
    if has(SINGLE) {
        return None;
    }
    if !has(INDEX) {
        return Some(SINGLE.to_owned());
    }
    match read_input(&folder.join(INDEX), MAX_JSON_BYTES).map_err(|e| e.to_string()).and_then(|index| shards(&index)) {
        Ok(shards) => shards.into_iter().find(|shard| !has(shard)),
        Err(_) => Some(format!("a readable {INDEX}")),
    }
}

/// The files an index names, each once.
pub(super) fn shards(index: &[u8]) -> Result<Vec<String>, String> {
    let index: Value = serde_json::from_slice(index).map_err(|e| format!("{INDEX} is not JSON: {e}"))?;
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| format!("{INDEX} has no weight_map"))?;
    let mut names = Vec::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_file_name(name));
        names.push(name.ok_or_else(|| format!("{INDEX} says tensor {tensor} is in {file}, which is no file name"))?.to_owned());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether `name` stays in the folder it is looked up in.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}
