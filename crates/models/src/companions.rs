use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::read_input;

use crate::safetensors_source::INDEX_FILE;
use crate::{Error, Result};

/// Larger files beside the weights are taken for weights of another format.
const MAX_COMPANION_BYTES: u64 = 64 << 20;
/// Endings of weight files, which are written anew or belong to another framework.
const WEIGHT_ENDINGS: &[&str] =
    &["safetensors", "bin", "pt", "pth", "ckpt", "gguf", "ggml", "h5", "msgpack", "onnx", "ot", "npz", "tflite", "pkl"];

/// The small files of a Hugging Face folder that go with its weights: tokenizer, configuration, licence, and the like. The index
/// goes along if the weights are `sharded`.
pub(crate) fn carried_files(path: &Path, sharded: bool) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let entry = entry.map_err(|e| Error::io("list", path, e))?;
        // The file a link of the Hugging Face cache leads to; what cannot be looked at (a dangling link) is not carried.
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if metadata.is_file() && metadata.len() <= MAX_COMPANION_BYTES && is_companion(&name, sharded) {
            files.insert(name, read_input(&entry.path(), MAX_COMPANION_BYTES)?);
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
