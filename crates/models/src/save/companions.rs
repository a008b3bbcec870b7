use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::Tokenizer;
use serde_json::{Map, Value, json};

use crate::json_file::read_small_file;
use crate::safetensors_source::INDEX_FILE;
use crate::{Checkpoint, Error, HuggingFaceFolder, Result};

/// Larger files beside the weights are taken for weights of another format.
const MAX_COMPANION_BYTES: u64 = 64 << 20;
/// Endings of weight files, which are written anew or belong to another framework.
const WEIGHT_ENDINGS: &[&str] =
    &["safetensors", "bin", "pt", "pth", "ckpt", "gguf", "ggml", "h5", "msgpack", "onnx", "ot", "npz", "tflite", "pkl"];

/// The small files that go with the weights: tokenizer, configuration, licence, and the like.
pub(super) fn gather(source: &Checkpoint) -> Result<BTreeMap<String, Vec<u8>>> {
    match source.files().folder() {
        Some(folder) => carried(folder),
        None => generated(source),
    }
}

fn carried(folder: &HuggingFaceFolder) -> Result<BTreeMap<String, Vec<u8>>> {
    let path = folder.path();
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let entry = entry.map_err(|e| Error::io("list", path, e))?;
        // The file a link of the Hugging Face cache leads to; what cannot be looked at (a dangling link) is not carried.
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if metadata.is_file() && metadata.len() <= MAX_COMPANION_BYTES && is_companion(&name, folder.source().is_sharded()) {
            files.insert(name, read_small_file(&entry.path())?);
        }
    }
    Ok(files)
}

fn is_companion(name: &str, sharded: bool) -> bool {
    if name == INDEX_FILE {
        return sharded;
    }
    let weights = Path::new(name).extension().and_then(|e| e.to_str()).is_some_and(|e| WEIGHT_ENDINGS.contains(&e));
    !name.starts_with('.') && !weights && !name.ends_with(".index.json")
}

/// What a Hugging Face folder needs, for a source that is none.
fn generated(source: &Checkpoint) -> Result<BTreeMap<String, Vec<u8>>> {
    let tokenizer = source.tokenizer()?;
    let mut config = source.config().clone();
    if let Some(config) = config.as_object_mut() {
        // As the weights are written.
        config.insert("torch_dtype".to_owned(), json!("float32"));
    }
    let vocabulary = tokenizer
        .inner()
        .to_string(true)
        .map_err(|e| Error::format(source.path(), format!("its tokenizer cannot be written as tokenizer.json: {e}")))?;
    Ok(BTreeMap::from([
        ("config.json".to_owned(), to_json(&config)),
        ("generation_config.json".to_owned(), to_json(&generation_config(source, &tokenizer))),
        ("tokenizer.json".to_owned(), vocabulary.into_bytes()),
        ("tokenizer_config.json".to_owned(), to_json(&tokenizer_config(source, &tokenizer))),
    ]))
}

fn generation_config(source: &Checkpoint, tokenizer: &Tokenizer) -> Value {
    let mut object = Map::new();
    if let Some(bos) = bos_id(source) {
        object.insert("bos_token_id".to_owned(), json!(bos));
    }
    match tokenizer.eos() {
        [] => {}
        [one] => {
            object.insert("eos_token_id".to_owned(), json!(one));
        }
        several => {
            object.insert("eos_token_id".to_owned(), json!(several));
        }
    }
    Value::Object(object)
}

fn tokenizer_config(source: &Checkpoint, tokenizer: &Tokenizer) -> Value {
    let mut object = Map::new();
    object.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    let ids = [("bos_token", bos_id(source)), ("eos_token", tokenizer.eos().first().copied())];
    for (key, id) in ids {
        if let Some(token) = id.and_then(|id| tokenizer.inner().id_to_token(id)) {
            object.insert(key.to_owned(), json!(token));
        }
    }
    if let Some(length) = source.config().get("max_position_embeddings").and_then(Value::as_u64) {
        object.insert("model_max_length".to_owned(), json!(length));
    }
    object.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    Value::Object(object)
}

fn bos_id(source: &Checkpoint) -> Option<u32> {
    source.config().get("bos_token_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
}

/// Indented JSON with a line break at its end.
pub(super) fn to_json(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_hidden_files_and_foreign_indexes_stay_behind() {
        for carried in ["config.json", "tokenizer.json", "LICENSE", "vocab.json", "merges.txt", "modeling_x.py", "tokenizer.model"] {
            assert!(is_companion(carried, false), "{carried}");
        }
        for left in [".gitattributes", "model.safetensors", "pytorch_model.bin", "x.gguf", "pytorch_model.bin.index.json", INDEX_FILE] {
            assert!(!is_companion(left, false), "{left}");
        }
        assert!(is_companion(INDEX_FILE, true));
    }
}
