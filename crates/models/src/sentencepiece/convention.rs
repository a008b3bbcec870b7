use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::vocabulary::Vocabulary;
use crate::tokenizer_files::{TOKENIZER_CONFIG_FILE, token_text};
use crate::{Error, Result};

/// ChatGLM's tokens behind the vocabulary, in the order of their ids; a text begins with the second and the fourth.
const CHATGLM_TOKENS: [&str; 5] = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"];
const CHATGLM_PREFIX: [usize; 2] = [1, 3];
/// T5's sentinels behind the vocabulary, the last first.
const T5_SENTINELS: usize = 100;
const MAX_SENTINELS: u64 = 1 << 16;

/// Tokens before and behind a text, with their ids.
type Frame = (Vec<(String, u32)>, Vec<(String, u32)>);

/// What a model family does with a SentencePiece vocabulary: tokens behind it, and tokens around a text.
pub(super) struct Convention<'a> {
    pub(super) vocabulary: &'a Vocabulary,
    pub(super) folder: &'a Path,
    pub(super) config: &'a Value,
    pub(super) tokenizer_config: Option<&'a Value>,
}

impl Convention<'_> {
    /// Adds the family's tokens and those of `tokenizer_config.json`, and says which go around a text.
    pub(super) fn apply(&self, tokenizer: &mut Tokenizer) -> Result<Frame> {
        let model_type = self.config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let frame = match model_type {
            "chatglm" => Some((self.add_chatglm_tokens(tokenizer), Vec::new())),
            "t5" => {
                self.add_sentinels(tokenizer)?;
                None
            }
            _ => None,
        };
        self.add_tokens(tokenizer)?;
        if let Some(frame) = frame {
            return Ok(frame);
        }
        // T5 ends a text, Baichuan leaves it alone, and LLaMA, with all that came after it, begins it.
        let (begins, ends) = match model_type {
            "t5" | "mt5" | "umt5" => (false, true),
            "baichuan" => (false, false),
            _ => (true, false),
        };
        let before = self.edge(tokenizer, "add_bos_token", begins, "bos_token", self.vocabulary.bos())?;
        let behind = self.edge(tokenizer, "add_eos_token", ends, "eos_token", self.vocabulary.eos())?;
        Ok((before.into_iter().collect(), behind.into_iter().collect()))
    }

    /// The token at one end of a text: asked for by `flag` or, if that is not given, by default.
    fn edge(&self, tokenizer: &Tokenizer, flag: &str, default: bool, name: &str, own: Option<u32>) -> Result<Option<(String, u32)>> {
        let asked = match self.setting(flag) {
            None => None,
            Some(Value::Bool(asked)) => Some(*asked),
            Some(other) => return Err(self.wrong(format!("{flag} is {other}, not true or false"))),
        };
        if !asked.unwrap_or(default) {
            return Ok(None);
        }
        let named = self.setting(name).and_then(token_text).and_then(|text| tokenizer.token_to_id(text));
        let token = named.or(own).and_then(|id| Some((tokenizer.id_to_token(id)?, id)));
        match token {
            None if asked.is_some() => Err(self.wrong(format!("{flag} asks for a {name}, which the vocabulary does not have"))),
            token => Ok(token),
        }
    }

    /// ChatGLM's own tokens. Its tokenizer never finds special tokens in a text ("sop" is in "philosophy"), it only adds them.
    fn add_chatglm_tokens(&self, tokenizer: &mut Tokenizer) -> Vec<(String, u32)> {
        let tokens: Vec<(String, u32)> = CHATGLM_TOKENS
            .iter()
            .zip(self.vocabulary.len() as u32..)
            .map(|(token, id)| {
                let is_taken = tokenizer.token_to_id(token).is_some();
                (if is_taken { format!("<|{token}|>") } else { (*token).to_owned() }, id)
            })
            .collect();
        let special = |(token, _): &(String, u32)| AddedToken::from(token.clone(), true).normalized(false);
        tokenizer.add_special_tokens(&tokens.iter().map(special).collect::<Vec<_>>());
        tokenizer.set_encode_special_tokens(true);
        CHATGLM_PREFIX.iter().filter_map(|place| tokens.get(*place).cloned()).collect()
    }

    fn add_sentinels(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        let count = match self.setting("extra_ids") {
            Some(count) => {
                let count = count.as_u64().filter(|count| *count <= MAX_SENTINELS);
                count.ok_or_else(|| self.wrong(format!("extra_ids is not a number up to {MAX_SENTINELS}")))?
            }
            // A model that embeds no more than the vocabulary has no sentinels.
            None => match self.config.get("vocab_size").and_then(Value::as_u64) {
                Some(rows) if rows < (self.vocabulary.len() + T5_SENTINELS) as u64 => 0,
                _ => T5_SENTINELS as u64,
            },
        };
        let sentinels = (0..count).rev().map(|id| AddedToken::from(format!("<extra_id_{id}>"), true).normalized(false));
        tokenizer.add_special_tokens(&sentinels.collect::<Vec<_>>());
        Ok(())
    }

    /// Adds `added_tokens_decoder` of `tokenizer_config.json`: tokens by id.
    fn add_tokens(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        let mut added = BTreeMap::new();
        let listed = match self.setting("added_tokens_decoder") {
            None => return Ok(()),
            Some(listed) => listed.as_object().ok_or_else(|| self.wrong("added_tokens_decoder is not an object".to_owned()))?,
        };
        for (id, token) in listed {
            let text = token_text(token).filter(|text| !text.is_empty());
            let (Ok(id), Some(text)) = (id.parse::<u32>(), text) else {
                return Err(self.wrong(format!("added_tokens_decoder holds {id:?}, which is not an id with a token's content")));
            };
            let is = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
            // Matched before the text is normalized, as transformers does beside a SentencePiece vocabulary.
            let entry = AddedToken::from(text, is("special"))
                .normalized(false)
                .lstrip(is("lstrip"))
                .rstrip(is("rstrip"))
                .single_word(is("single_word"));
            added.insert(id, entry);
        }
        let tokens: Vec<AddedToken> = added.values().cloned().collect();
        tokenizer.add_tokens(&tokens);
        for (id, token) in &added {
            let given = tokenizer.token_to_id(&token.content);
            if given != Some(*id) {
                let given = given.map_or_else(|| "none".to_owned(), |id| id.to_string());
                return Err(self.wrong(format!("added_tokens_decoder gives {:?} the id {id}, but its place is {given}", token.content)));
            }
        }
        Ok(())
    }

    /// A key of `tokenizer_config.json`; `None` if it is absent or null.
    fn setting(&self, key: &str) -> Option<&Value> {
        self.tokenizer_config?.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, message: String) -> Error {
        let path: PathBuf = self.folder.join(TOKENIZER_CONFIG_FILE);
        Error::format(path, message)
    }
}
