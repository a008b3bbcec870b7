use serde_json::{Map, Value, json};

use super::reader::Gguf;
use crate::{Error, Result};

/// Ids of the tokens that mean something other than text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SpecialTokens {
    pub(super) bos: Option<u32>,
    pub(super) unk: Option<u32>,
    pub(super) pad: Option<u32>,
    /// Tokens that end a text; the first is the one a tokenizer would add.
    pub(super) eos: Vec<u32>,
}

impl SpecialTokens {
    /// Reads them from the metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming a key whose id is not in the vocabulary.
    pub(super) fn of(file: &Gguf) -> Result<Self> {
        let tokens = file.texts("tokenizer.ggml.tokens")?.unwrap_or_default().len();
        let id = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match file.integer(&key)? {
                None => Ok(None),
                Some(id) if id < tokens => Ok(u32::try_from(id).ok()),
                // Converters write the largest number for "there is none".
                Some(id) if id == u32::MAX as usize => Ok(None),
                Some(id) => Err(Error::format(file.path(), format!("key {key} is {id}, but there are {tokens} tokens"))),
            }
        };
        let mut eos: Vec<u32> = Vec::new();
        for name in ["eos", "eot", "eom"] {
            eos.extend(id(name)?.filter(|id| !eos.contains(id)));
        }
        Ok(Self { bos: id("bos")?, unk: id("unknown")?, pad: id("padding")?, eos })
    }

    /// Their entries in `config.json` and `generation_config.json`.
    pub(super) fn config_entries(&self) -> Map<String, Value> {
        let eos = match self.eos.as_slice() {
            [one] => json!(one),
            [] => Value::Null,
            several => json!(several),
        };
        let entries = [("bos_token_id", json!(self.bos)), ("eos_token_id", eos), ("pad_token_id", json!(self.pad))];
        entries.into_iter().filter(|(_, id)| !id.is_null()).map(|(key, id)| (key.to_owned(), id)).collect()
    }
}
