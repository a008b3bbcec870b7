use std::path::Path;

use easyedit_core::Tokenizer;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::json_file::{read_json_object_if_present, read_small_file};
use crate::{Error, Result};

/// The tokenizer of a Hugging Face folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
const GENERATION_CONFIG_FILE: &str = "generation_config.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const EOS_ID_KEY: &str = "eos_token_id";

/// Reads `tokenizer.json` of `folder`. Ids that end a text are gathered from `generation_config.json`, from `config` (the folder's
/// `config.json`) and from `eos_token` of `tokenizer_config.json`.
///
/// # Errors
///
/// [`Error::NotFound`] saying how to make a `tokenizer.json` when there is none; [`Error::Format`] naming the file that is damaged.
pub fn load_tokenizer(folder: &Path, config: &Value) -> Result<Tokenizer> {
    let path = folder.join(TOKENIZER_FILE);
    if !path.exists() {
        return Err(no_tokenizer(folder));
    }
    let bytes = read_small_file(&path)?;
    let damaged = |what: &dyn std::fmt::Display| Error::format(&path, format!("is not a tokenizer: {what}; fetch it again"));
    // The tokenizers crate panics on some damaged files instead of returning an error; most of those are not JSON at all.
    serde_json::from_slice::<IgnoredAny>(&bytes).map_err(|e| damaged(&e))?;
    let parsed = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(&bytes));
    let inner = parsed.map_err(|_| damaged(&"its parts contradict each other"))?.map_err(|e| damaged(&e))?;

    let mut eos = Vec::new();
    let generation_path = folder.join(GENERATION_CONFIG_FILE);
    if let Some(generation) = read_json_object_if_present(&generation_path)? {
        add_ids(&mut eos, &generation, &generation_path)?;
    }
    add_ids(&mut eos, config, &folder.join("config.json"))?;
    if let Some(tokenizer_config) = read_json_object_if_present(&folder.join(TOKENIZER_CONFIG_FILE))? {
        let token = tokenizer_config.get("eos_token");
        let text = token.and_then(Value::as_str).or_else(|| token.and_then(|t| t.get("content")).and_then(Value::as_str));
        if let Some(id) = text.and_then(|text| inner.token_to_id(text))
            && !eos.contains(&id)
        {
            eos.push(id);
        }
    }
    Ok(Tokenizer::new(inner, eos))
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

/// The error for a folder without `tokenizer.json`, with the way to make one.
fn no_tokenizer(folder: &Path) -> Error {
    let slow = ["tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"].into_iter().find(|name| folder.join(name).exists());
    let convert = "AutoTokenizer.from_pretrained(FOLDER, use_fast=True).save_pretrained(FOLDER)";
    let hint = match slow {
        Some(name) => format!("its {name} has to be converted once with `transformers`: {convert}"),
        None => "fetch it together with the weights".to_owned(),
    };
    Error::NotFound(format!("{} has no {TOKENIZER_FILE}; {hint}", folder.display()))
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
