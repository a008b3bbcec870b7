use std::path::{Path, PathBuf};

use easyedit_core::read_input;
use serde_json::Value;

use crate::{Error, Result};

/// Largest width, depth or head count that is believed.
const MAX_DIMENSION: u64 = 1_000_000;
/// Largest vocabulary or context length that is believed.
const MAX_ROWS: u64 = 1_000_000_000;
/// Largest `config.json` that is read, in bytes: the longest list labels or languages, in less than one megabyte.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// A model's `config.json`: what its architecture is, as Hugging Face writes it.
///
/// The getters check what they give: a missing key, a wrong type or an absurd number is an error that names the key.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    value: Value,
    model_type: String,
    origin: PathBuf,
}

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is not a JSON object with a `model_type`.
    pub fn read(path: &Path) -> Result<Self> {
        let value =
            serde_json::from_slice(&read_input(path, MAX_FILE_BYTES)?).map_err(|e| Error::format(path, format!("not valid JSON: {e}")))?;
        Self::new(value, path)
    }

    /// A configuration from parsed JSON; `origin` is the file it came from, for messages.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] unless it is an object with a `model_type`.
    pub fn new(value: Value, origin: impl Into<PathBuf>) -> Result<Self> {
        let origin = origin.into();
        let model_type = match value.get("model_type") {
            Some(Value::String(name)) if value.is_object() => name.clone(),
            _ if !value.is_object() => return Err(Error::format(origin, "not a JSON object")),
            Some(other) => return Err(Error::format(origin, format!("model_type is {other}, not the name of a model family"))),
            None => return Err(Error::format(origin, "model_type is missing; is this the config.json of a transformers model?")),
        };
        Ok(Self { value, model_type, origin })
    }

    /// The same configuration with `key` set to `value`.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        if let Some(keys) = self.value.as_object_mut() {
            keys.insert(key.to_owned(), value.into());
        }
        self
    }

    /// Name of the model's family, e.g. `llama`.
    pub fn model_type(&self) -> &str {
        &self.model_type
    }

    /// The whole JSON.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The file it came from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The value of `key`; `None` if it is absent or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// An error about `key`.
    pub fn error(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::format(&self.origin, format!("{key} {message}"))
    }

    /// A width, depth or count: 1 to 1,000,000.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the key is absent or its value out of range.
    pub fn dimension(&self, key: &str) -> Result<usize> {
        self.optional_dimension(key)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// As [`dimension`](Self::dimension); `None` if the key is absent or null.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the value is out of range.
    pub fn optional_dimension(&self, key: &str) -> Result<Option<usize>> {
        self.whole_number(key, MAX_DIMENSION)
    }

    /// A number of table rows (vocabulary, positions): 1 to 1,000,000,000.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the key is absent or its value out of range.
    pub fn table_rows(&self, key: &str) -> Result<usize> {
        self.whole_number(key, MAX_ROWS)?.ok_or_else(|| self.error(key, "is missing"))
    }

    fn whole_number(&self, key: &str, max: u64) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if (1..=max).contains(&number) => Ok(Some(number as usize)),
            _ => Err(self.error(key, format!("is {value}, not a whole number from 1 to {max}"))),
        }
    }

    /// A count that may be 0, up to 1,000,000; `default` if the key is absent or null.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the value is something else.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key) {
            Some(Value::Number(number)) if number.as_u64() == Some(0) => Ok(0),
            _ => Ok(self.optional_dimension(key)?.unwrap_or(default)),
        }
    }

    /// A positive finite number, or `default` if the key is absent or null.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the value is something else.
    pub fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        positive(self.get(key), default).ok_or_else(|| self.error(key, "is not a positive number"))
    }

    /// A boolean, or `default` if the key is absent or null.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the value is something else.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.error(key, format!("is {other}, not true or false"))),
        }
    }

    /// A text, or `default` if the key is absent or null.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the value is something else.
    pub fn text_or<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.error(key, format!("is {other}, not a text"))),
        }
    }

    /// `whole / parts`, when it leaves no remainder.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming both keys.
    pub fn divide(&self, whole_key: &str, whole: usize, parts_key: &str, parts: usize) -> Result<usize> {
        match whole.checked_rem(parts) {
            Some(0) => Ok(whole / parts),
            _ => Err(self.error(whole_key, format!("is {whole}, which does not divide by {parts_key}, {parts}"))),
        }
    }
}

/// A positive finite number, or `default` if absent; `None` if it is something else.
pub(crate) fn positive(value: Option<&Value>, default: f64) -> Option<f64> {
    value.map_or(Some(default), Value::as_f64).filter(|number| number.is_finite() && *number > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> ModelConfig {
        ModelConfig::new(value, "config.json").unwrap()
    }

    #[test]
    fn absurd_values_are_errors_that_name_the_key() {
        let c = config(json!({"model_type": "llama", "a": 0, "b": 2_000_000, "c": -3, "d": 1.5, "e": "x", "f": null}));
        for key in ["a", "b", "c", "d", "e", "f", "missing"] {
            let message = c.dimension(key).unwrap_err().to_string();
            assert!(message.contains(key) && message.contains("config.json"), "{message}");
        }
        assert!(c.optional_dimension("f").unwrap().is_none());
        assert!(c.positive_or("c", 1.0).is_err() && c.flag_or("a", true).is_err() && c.text_or("a", "").is_err());
        assert!(c.divide("a", 10, "b", 3).is_err() && c.divide("a", 10, "b", 0).is_err());
        assert_eq!(c.divide("a", 12, "b", 3).unwrap(), 4);
    }

    #[test]
    fn a_model_type_is_needed() {
        for bad in [json!([]), json!({}), json!({"model_type": 3})] {
            assert!(matches!(ModelConfig::new(bad, "config.json"), Err(Error::Format { .. })));
        }
    }
}
