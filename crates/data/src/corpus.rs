//! Text for statistics.

use std::path::Path;

use easyedit_core::{Error, Result};
use serde_json::Value;

use crate::file::{read_text, records};

/// The text that is built in: paragraphs of Wikipedia articles from WikiText-2 (CC BY-SA 3.0; `text/README.md` names source and
/// changes), with blank lines between them.
pub fn sample_text() -> &'static str {
    include_str!("../text/wikitext-sample.txt")
}

/// The documents of a text: what stands between blank lines, without surrounding white space.
pub fn split_documents(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let mut end = 0;
        for line in rest.split_inclusive('\n') {
            if line.trim().is_empty() {
                break;
            }
            end += line.len();
        }
        let (document, after) = rest.split_at(end);
        rest = after;
        Some(document.trim_end())
    })
}

/// The documents of a file: a text with blank lines between them, or (`.json`, `.jsonl`) strings or records with a `text`.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read; [`Error::Format`] naming it, and the record and key, if it holds no text.
pub fn read_corpus(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path)?;
    let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json") || e.eq_ignore_ascii_case("jsonl"));
    let mut documents = Vec::new();
    if json {
        for (index, record) in records(&text).map_err(|message| Error::format(path, message))?.into_iter().enumerate() {
            match record {
                Value::String(document) => documents.push(document),
                Value::Object(mut record) => match record.remove("text").or_else(|| record.remove("Text")) {
                    Some(Value::String(document)) => documents.push(document),
                    _ => return Err(Error::format(path, format!("record {index}: has no text under the key text"))),
                },
                _ => return Err(Error::format(path, format!("record {index}: is neither a string nor an object with the key text"))),
            }
        }
        documents.retain(|document| !document.trim().is_empty());
    } else {
        documents.extend(split_documents(&text).map(str::to_owned));
    }
    if documents.is_empty() {
        return Err(Error::format(path, "holds no text"));
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_stand_between_blank_lines() {
        let split = |text| split_documents(text).collect::<Vec<_>>();
        assert_eq!(split("\n\none\ntwo\n \t\n\nthree"), ["one\ntwo", "three"]);
        assert_eq!(split("one\r\n\r\ntwo\r\n"), ["one", "two"]);
        assert!(split(" \n\n").is_empty());
    }

    #[test]
    fn the_sample_is_prose_without_marks() {
        let documents: Vec<&str> = split_documents(sample_text()).collect();
        assert!(documents.len() > 300 && (150_000..170_000).contains(&sample_text().len()));
        for document in documents {
            assert!(document.len() >= 200 && !document.contains("<unk>") && !document.contains('@'), "{document}");
            assert!(!document.contains(" ,") && !document.contains(" . ") && !document.starts_with('='), "{document}");
        }
    }

    #[test]
    fn json_corpora_hold_strings_or_records() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            read_corpus(&path).map_err(|e| e.to_string())
        };
        assert_eq!(read("a.json", r#"["one", {"text": "two"}, ""]"#).unwrap(), ["one", "two"]);
        assert_eq!(read("a.jsonl", "{\"text\": \"one\"}\n\n{\"Text\": \"two\"}\n").unwrap(), ["one", "two"]);
        for (name, text, part) in [
            ("b.json", r#"[{"body": "x"}]"#, "record 0"),
            ("c.json", "[1]", "record 0"),
            ("d.json", "[", "not JSON"),
            ("e.txt", " \n", "holds no text"),
        ] {
            let message = read(name, text).unwrap_err();
            assert!(message.contains(name) && message.contains(part), "{message}");
        }
        assert!(read_corpus(dir.path()).unwrap_err().to_string().contains("not a file"));
    }
}
