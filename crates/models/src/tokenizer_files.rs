use std::path::Path;

use easyedit_core::{Tokenizer, catch_panic, limit_patterns, read_input};
use serde_json::Value;

use crate::json_file::read_json_object_if_present;
use crate::sentencepiece::{self, CONVERT};
use crate::tokenizer_checks::check;
use crate::{Error, Result};

/// The tokenizer of a Hugging Face folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The tokenizers a folder may have instead, in SentencePiece's format; T5's is the second.
pub const SENTENCEPIECE_FILES: [&str; 2] = ["tokenizer.model", "spiece.model"];
/// No `tokenizer.json` is larger: that of a million pieces takes about 60 MB.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;
const GENERATION_CONFIG_FILE: &str = "generation_config.json";
pub(crate) const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const EOS_ID_KEY: &str = "eos_token_id";

/// Reads the tokenizer of `folder`: `tokenizer.json`, else `tokenizer.model` or `spiece.model`. Ids that end a text are gathered from
/// `generation_config.json`, from `config` (the folder's `config.json`) and from `eos_token` of `tokenizer_config.json`; if none of
/// them names one, it is the SentencePiece vocabulary's.
///
/// # Errors
///
/// [`Error::NotFound`] saying how to make a `tokenizer.json` when there is none of them; [`Error::Format`] naming the file that is
/// damaged.
pub fn load_tokenizer(folder: &Path, config: &Value) -> Result<Tokenizer> {
    let tokenizer_config = read_json_object_if_present(&folder.join(TOKENIZER_CONFIG_FILE))?;
    let fast = folder.join(TOKENIZER_FILE);
    let (inner, own_eos, path) = if fast.exists() {
        (read_fast_tokenizer(&fast)?, None, fast)
    } else {
        let path = SENTENCEPIECE_FILES.iter().map(|name| folder.join(name)).find(|path| path.exists());
        let path = path.ok_or_else(|| no_tokenizer(folder))?;
        let (inner, eos) = sentencepiece::load(&path, config, tokenizer_config.as_ref())?;
        (inner, eos, path)
    };

    let mut eos = Vec::new();
    let generation_path = folder.join(GENERATION_CONFIG_FILE);
    if let Some(generation) = read_json_object_if_present(&generation_path)? {
        add_ids(&mut eos, &generation, &generation_path)?;
    }
    add_ids(&mut eos, config, &folder.join("config.json"))?;
    let named = tokenizer_config.as_ref().and_then(|settings| settings.get("eos_token")).and_then(token_text);
    if let Some(id) = named.and_then(|text| inner.token_to_id(text))
        && !eos.contains(&id)
    {
        eos.push(id);
    }
    if eos.is_empty() {
        eos.extend(own_eos);
    }
    Ok(Tokenizer::new(inner, eos).with_origin(path))
}

fn read_fast_tokenizer(path: &Path) -> Result<tokenizers::Tokenizer> {
    let bytes = read_input(path, MAX_TOKENIZER_BYTES)?;
    let damaged = |what: &dyn std::fmt::Display| Error::format(path, format!("is not a tokenizer: {what}; fetch it again"));
    // Added tokens are normalized when the tokenizer is built.
    limit_patterns();
    check(&bytes).map_err(|problem| damaged(&problem))?;
    // The tokenizers crate panics on some damaged files instead of returning an error.
    let parsed = catch_panic(|| tokenizers::Tokenizer::from_bytes(&bytes));
    parsed.map_err(|panic| damaged(&format!("its parts contradict each other ({panic})")))?.map_err(|e| damaged(&e))
}

/// The text of a token as `tokenizer_config.json` writes it: a string, or an object with `content`.
pub(crate) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content").and_then(Value::as_str))
}

/// Adds the ids under `eos_token_id` (one number, a list, or null) of the object in `file`.
fn add_ids(eos: &mut Vec<u32>, object: &Value, file: &Path) -> Result<()> {
    let listed = match object.get(EOS_ID_KEY) {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    for id in listed {
        let id = id
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| Error::format(file, format!("{EOS_ID_KEY} holds {id}, which is not a token id; set it to a number or null")))?;
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    Ok(())
}

/// The error for a folder without a tokenizer, with the way to make one.
fn no_tokenizer(folder: &Path) -> Error {
    let slow = ["vocab.json", "vocab.txt"].into_iter().find(|name| folder.join(name).exists());
    let hint = match slow {
        Some(name) => format!("its {name} has to be converted once with `transformers`: {CONVERT}"),
        None => format!("fetch it together with the weights, or make it with `transformers`: {CONVERT}"),
    };
    let [llama, t5] = SENTENCEPIECE_FILES;
    Error::NotFound(format!("{} has no {TOKENIZER_FILE}, and no {llama} or {t5}; {hint}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eos_ids_are_a_number_a_list_or_null() {
        let ids = |value: Value| {
            let mut eos = vec![2];
            add_ids(&mut eos, &serde_json::json!({ "eos_token_id": value }), Path::new("config.json")).map(|()| eos)
        };
        assert_eq!(ids(serde_json::json!(7)).unwrap(), [2, 7]);
        assert_eq!(ids(serde_json::json!([2, 9])).unwrap(), [2, 9]);
        assert_eq!(ids(Value::Null).unwrap(), [2]);
        for bad in [serde_json::json!("</s>"), serde_json::json!(-1), serde_json::json!([1, 1u64 << 32])] {
            let message = ids(bad).unwrap_err().to_string();
            assert!(message.contains("config.json") && message.contains("eos_token_id"), "{message}");
        }
    }
}
