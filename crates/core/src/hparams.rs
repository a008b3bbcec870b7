use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};

use crate::{Error, Result, read_input_text};

/// Longest file of hyperparameters. EasyEdit's longest has 2 kB.
const MAX_BYTES: u64 = 64 << 10;
/// Deepest nesting in it: values are numbers, texts, and lists of lists at most. The YAML reader's time grows with the square of the depth.
const MAX_DEPTH: usize = 16;

/// Longer names are not compared with known ones.
const LONGEST_NAME: usize = 256;

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
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is no regular file or too large, [`Error::Hparams`] if it is no flat map.
    pub fn load(path: &Path) -> Result<Self> {
        let mut path = path.to_owned();
        if !path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            path.as_mut_os_string().push(".yaml");
        }
        let text = read_input_text(&path, MAX_BYTES)?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses YAML text; `origin` names it in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if it is no flat map.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let fail = |message: String| Error::Hparams { origin: Some(origin.to_owned()), message };
        check_size(text).map_err(fail)?;
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

/// Checks length and depth before the YAML reader sees the text. Brackets in quotes and comments count too, which no sound file notices.
fn check_size(text: &str) -> std::result::Result<(), String> {
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("has {} bytes; hyperparameters have at most {MAX_BYTES}", text.len()));
    }
    let (mut brackets, mut indents) = (0usize, Vec::new());
    for (number, line) in text.lines().enumerate() {
        let content = line.trim_start_matches([' ', '\t']);
        let mut indent = line.len() - content.len();
        if !content.is_empty() {
            indents.retain(|outer| *outer < indent);
            // Every `-`, `?` or `:` that begins an entry opens a level of its own.
            let mut rest = content;
            while let Some(inner) = rest.strip_prefix(['-', '?', ':']).filter(|inner| inner.is_empty() || inner.starts_with([' ', '\t'])) {
                indents.push(indent);
                let next = inner.trim_start_matches([' ', '\t']);
                indent += rest.len() - next.len();
                rest = next;
            }
            indents.push(indent);
        }
        for bracket in content.bytes() {
            match bracket {
                b'[' | b'{' => brackets += 1,
                b']' | b'}' => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            if brackets + indents.len() > MAX_DEPTH {
                return Err(format!("line {}: is nested deeper than {MAX_DEPTH} levels; hyperparameters are a flat map", number + 1));
            }
        }
    }
    Ok(())
}

/// The known name nearest to `name`, if it is near enough to be meant.
pub fn nearest_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    // The distance takes time and memory by the product of the lengths.
    let length = lower.chars().count();
    let may_be_near = |candidate: &&str| candidate.chars().count().abs_diff(length) <= 1 + candidate.chars().count() / 3;
    known
        .into_iter()
        .filter(|_| length <= LONGEST_NAME)
        .filter(may_be_near)
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
    fn deep_and_long_texts_are_refused_before_they_are_parsed() {
        let deep = [
            format!("alg_name: DEMO\nlayers: {}", "[".repeat(60_000)),
            format!("alg_name: DEMO\nlayers: {}", "{a: ".repeat(15_000)),
            format!("alg_name: DEMO\nlayers: {}", "[[],".repeat(15_000)),
            format!("alg_name: DEMO\nlayers:\n {}1", "- ".repeat(30_000)),
            format!("{}1", "? ".repeat(30_000)),
            (0..300).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(),
            (0..200).map(|depth| format!("{}- a:\n", "  ".repeat(depth))).collect(),
        ];
        for text in deep {
            let message = read(&text).unwrap_err();
            assert!(message.contains("demo.yaml") && message.contains("nested deeper") && message.contains("line"), "{message}");
        }
        assert!(read(&format!("# {}", "x".repeat(1 << 16))).unwrap_err().contains("bytes"));
        let lists = "alg_name: DEMO\nv_lr: 1\nlayers:\n- 1\n- 2\n- 3\ncontext:\n  - [5, 10]\n  - [10, 10]\n";
        assert!(read(lists).unwrap_err().contains("unknown key context"));
        let short = "- 1\n".repeat(10_000);
        assert_eq!(read(&format!("alg_name: DEMO\nv_lr: 1\nlayers:\n{short}")).unwrap().layers.len(), 10_000);
    }

    #[test]
    fn aliases_do_not_multiply_without_end() {
        let mut text = "alg_name: DEMO\nv_lr: 1\na0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for n in 1..12 {
            let again = vec![format!("*a{}", n - 1); 10].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{again}]\n"));
        }
        assert!(read(&text).unwrap_err().contains("repetition limit"));
    }

    #[test]
    fn files_that_would_not_end_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe.yaml");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(HparamsDocument::load(&pipe).unwrap_err().to_string().contains("pipe"));
    }

    #[test]
    fn names_of_any_length_are_compared_in_no_time() {
        let (long, other) = ("a".repeat(1 << 20), "b".repeat(1 << 20));
        assert_eq!(nearest_name(&long, [other.as_str(), "ROME"]), None);
        assert_eq!(nearest_name("ROMEE", [other.as_str(), "ROME"]), Some("ROME"));
    }

    #[test]
    fn nearest_names_are_near() {
        assert_eq!(nearest_name("ROMEE", ["ROME", "MEMIT"]), Some("ROME"));
        assert_eq!(nearest_name("xyz", ["ROME", "MEMIT"]), None);
    }
}
