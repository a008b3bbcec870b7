use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};

use crate::{Error, Result};

/// Keys that newer EasyEdit files carry and that change nothing here; they are accepted in every file.
const ACCEPTED_KEYS: &[&str] = &["fp16", "bf16", "use_chat_template", "evaluation_type", "api_key", "num_beams", "sequential_edit"];

/// Hyperparameters of one method, read from a flat YAML map with EasyEdit's keys.
pub trait Hparams: Serialize + DeserializeOwned {
    /// The method, as `alg_name` gives it.
    const METHOD: &'static str;
    /// Every key of the struct.
    const KEYS: &'static [&'static str];

    /// Checks ranges.
    ///
    /// # Errors
    ///
    /// A message naming the key.
    fn check(&self) -> std::result::Result<(), String> {
        Ok(())
    }
}

/// A YAML file of hyperparameters before a method has read it.
#[derive(Clone, Debug, PartialEq)]
pub struct HparamsDocument {
    origin: String,
    values: Mapping,
}

impl HparamsDocument {
    /// Reads a file; `.yaml` is appended when the path has no such ending.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Hparams`] if it is no flat map.
    pub fn load(path: &Path) -> Result<Self> {
        let mut path = path.to_owned();
        if !path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            path.as_mut_os_string().push(".yaml");
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read the hyperparameters", &path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses YAML text; `origin` names it in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if it is no flat map.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let fail = |message: String| Error::Hparams { origin: Some(origin.to_owned()), message };
        let value: Value = serde_yaml::from_str(text).map_err(|e| fail(e.to_string()))?;
        match value {
            Value::Mapping(values) => Ok(Self { origin: origin.to_owned(), values }),
            _ => Err(fail("is not a map of keys and values".into())),
        }
    }

    /// The document of a typed set of hyperparameters.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if the struct is no flat map.
    pub fn from_hparams<H: Hparams>(hparams: &H, origin: &str) -> Result<Self> {
        let fail = |message: String| Error::Hparams { origin: Some(origin.to_owned()), message };
        match serde_yaml::to_value(hparams).map_err(|e| fail(e.to_string()))? {
            Value::Mapping(values) => Ok(Self { origin: origin.to_owned(), values }),
            _ => Err(fail("is not a map of keys and values".into())),
        }
    }

    /// The document of hyperparameters as edits record them.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if it is no flat map.
    pub fn from_json(values: &Json, origin: &str) -> Result<Self> {
        let fail = |message: String| Error::Hparams { origin: Some(origin.to_owned()), message };
        match serde_yaml::to_value(values).map_err(|e| fail(e.to_string()))? {
            Value::Mapping(values) => Ok(Self { origin: origin.to_owned(), values }),
            _ => Err(fail("is not a map of keys and values".into())),
        }
    }

    /// Where the values come from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The method the file is for: `alg_name`, or `alg` in training files.
    pub fn method(&self) -> Option<&str> {
        self.values.get("alg_name").or_else(|| self.values.get("alg")).and_then(Value::as_str)
    }

    /// A string value.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).and_then(Value::as_str)
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.values.insert(key.into(), value.into());
    }

    /// The document as YAML text.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if a value cannot be written.
    pub fn to_yaml(&self) -> Result<String> {
        serde_yaml::to_string(&self.values).map_err(|e| self.error(e.to_string()))
    }

    /// The document as JSON, as edits and reports record it.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if a value has no JSON form.
    pub fn to_json(&self) -> Result<Json> {
        serde_json::to_value(&self.values).map_err(|e| self.error(e.to_string()))
    }

    /// Reads the values as a method's hyperparameters.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming the file and the key: a file of another method, an unknown key (with the nearest known one), a missing
    /// key, a value of the wrong type or out of range.
    pub fn read<H: Hparams>(&self) -> Result<H> {
        match self.method() {
            Some(method) if method.eq_ignore_ascii_case(H::METHOD) => {}
            Some(method) => {
                return Err(self.error(format!("alg_name is {method}: these are the hyperparameters of another method than {}", H::METHOD)));
            }
            None => return Err(self.error(format!("the key alg_name is missing; a file for {0} says `alg_name: {0}`", H::METHOD))),
        }
        for key in self.values.keys() {
            let key = key.as_str().ok_or_else(|| self.error(format!("the key {key:?} is not text")))?;
            if !H::KEYS.contains(&key) && !ACCEPTED_KEYS.contains(&key) {
                let hint = nearest_name(key, H::KEYS.iter().copied()).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
                return Err(self.error(format!("unknown key {key}{hint}")));
            }
        }
        let known = self.values.iter().filter(|(key, _)| key.as_str().is_some_and(|k| H::KEYS.contains(&k)));
        let known: Mapping = known.map(|(key, value)| (key.clone(), value.clone())).collect();
        let hparams: H = serde_path_to_error::deserialize(Value::Mapping(known)).map_err(|e| match e.path().to_string().as_str() {
            "." => self.error(e.inner().to_string()),
            path => self.error(format!("{path}: {}", e.inner())),
        })?;
        hparams.check().map_err(|message| self.error(message))?;
        Ok(hparams)
    }

    fn error(&self, message: String) -> Error {
        Error::Hparams { origin: Some(self.origin.clone()), message }
    }
}

/// The known name nearest to `name`, if it is near enough to be meant.
pub fn nearest_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 3)
        .map(|(_, candidate)| candidate)
}

/// Reads a number that may have been quoted (EasyEdit's loader turns such text into numbers); for `#[serde(deserialize_with = "easyedit_core::number")]`.
///
/// # Errors
///
/// If the value is neither a number nor text that reads as one.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(f64),
        Text(String),
    }
    match NumberOrText::deserialize(deserializer).map_err(|_| serde::de::Error::custom("expected a number"))? {
        NumberOrText::Number(value) => Ok(value),
        NumberOrText::Text(text) => text.trim().parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is not a number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Demo {
        alg_name: String,
        #[serde(deserialize_with = "number")]
        v_lr: f64,
        layers: Vec<usize>,
    }

    impl Hparams for Demo {
        const METHOD: &'static str = "DEMO";
        const KEYS: &'static [&'static str] = &["alg_name", "v_lr", "layers"];
        fn check(&self) -> std::result::Result<(), String> {
            if self.layers.is_empty() { Err("layers is empty".into()) } else { Ok(()) }
        }
    }

    fn read(text: &str) -> std::result::Result<Demo, String> {
        HparamsDocument::parse(text, "demo.yaml").and_then(|d| d.read()).map_err(|e| e.to_string())
    }

    #[test]
    fn numbers_read_in_every_form_easyedit_writes() {
        for v_lr in ["5e-1", "0.5", "\"5e-1\"", "'0.5'"] {
            assert_eq!(read(&format!("alg_name: DEMO\nv_lr: {v_lr}\nlayers: [5]\nfp16: true")).unwrap().v_lr, 0.5);
        }
        assert_eq!(read("alg_name: demo\nv_lr: 4\nlayers: [5]").unwrap().v_lr, 4.0);
    }

    #[test]
    fn errors_name_file_and_key() {
        for (text, parts) in [
            ("alg_name: DEMO\nv_lrr: 1\nlayers: [1]", ["demo.yaml", "v_lrr", "did you mean v_lr?"]),
            ("alg_name: DEMO\nlayers: [1]", ["demo.yaml", "missing", "v_lr"]),
            ("alg_name: MEMIT\nv_lr: 1\nlayers: [1]", ["demo.yaml", "MEMIT", "another method"]),
            ("alg_name: DEMO\nv_lr: fast\nlayers: [1]", ["demo.yaml", "v_lr", "not a number"]),
            ("alg_name: DEMO\nv_lr: 1\nlayers: []", ["demo.yaml", "layers", "empty"]),
            ("v_lr: 1\nlayers: [1]", ["demo.yaml", "alg_name", "missing"]),
            ("- 1", ["demo.yaml", "not a map", ""]),
        ] {
            let message = read(text).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{text:?}: {message}");
        }
    }

    #[test]
    fn nearest_names_are_near() {
        assert_eq!(nearest_name("ROMEE", ["ROME", "MEMIT"]), Some("ROME"));
        assert_eq!(nearest_name("xyz", ["ROME", "MEMIT"]), None);
    }
}
