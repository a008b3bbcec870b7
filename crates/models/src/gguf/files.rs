use serde_json::{Map, Value, json};

use super::source::GgufFile;
use super::special::SpecialTokens;
use crate::{Error, Result};

impl GgufFile {
    /// The files that, beside the tensors, make a Hugging Face folder of this model: `config.json`, `generation_config.json`,
    /// `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.
    ///
    /// # Errors
    ///
    /// As [`GgufFile::config`] and [`GgufFile::tokenizer`].
    pub fn hf_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let special = SpecialTokens::of(self.gguf())?;
        let config = self.config()?;
        let tokenizer = self.tokenizer()?;
        let tokenizer_json = tokenizer
            .to_string(true)
            .map_err(|e| Error::format(self.gguf().path(), format!("its tokenizer cannot be written as tokenizer.json: {e}")))?;

        let mut names = Map::new();
        let ids = [("bos_token", special.bos), ("eos_token", special.eos.first().copied()), ("unk_token", special.unk)];
        for (key, id) in ids.into_iter().chain([("pad_token", special.pad)]) {
            if let Some(token) = id.and_then(|id| tokenizer.id_to_token(id)) {
                names.insert(key.to_owned(), Value::String(token));
            }
        }
        let mut tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.get("max_position_embeddings"),
            "clean_up_tokenization_spaces": false,
            "model_input_names": ["input_ids", "attention_mask"],
        });
        let mut generation = json!({ "_from_model_config": true });
        if let (Some(tokenizer_config), Some(generation)) = (tokenizer_config.as_object_mut(), generation.as_object_mut()) {
            tokenizer_config.extend(names.clone());
            if let Some(template) = self.gguf().text("tokenizer.chat_template")? {
                tokenizer_config.insert("chat_template".to_owned(), Value::String(template.to_owned()));
            }
            generation.extend(special.config_entries());
        }
        let mut files = vec![("tokenizer.json".to_owned(), tokenizer_json.into_bytes())];
        for (name, content) in [
            ("config.json", &config),
            ("generation_config.json", &generation),
            ("tokenizer_config.json", &tokenizer_config),
            ("special_tokens_map.json", &Value::Object(names)),
        ] {
            files.push((name.to_owned(), format!("{content:#}\n").into_bytes()));
        }
        Ok(files)
    }
}
