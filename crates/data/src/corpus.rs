//! Text for statistics.

use std::fs;
use std::path::{Path, PathBuf};

use easyedit_core::{Error, Result};
use serde_json::Value;

use crate::dataset::read_text;
use crate::records::each_record;

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

/// Endings of files of text, and of records.
const TEXT_ENDINGS: &[&str] = &["txt", "text", "md"];
const RECORD_ENDINGS: &[&str] = &["json", "jsonl"];

/// The documents of a file: a text with blank lines between them, or (`.json`, `.jsonl`) strings or records with a `text`. Of a folder:
/// those of all such files in it (`.txt`, `.text`, `.md`, `.json`, `.jsonl`), by name; folders inside it are not looked into.
///
/// # Errors
///
/// [`Error::Io`] if a file cannot be read; [`Error::Format`] naming it, and the record and key, if it holds no text, or naming the folder
/// if there is no such file.
pub fn read_corpus(path: &Path) -> Result<Vec<String>> {
    if !path.is_dir() {
        return read_file(path);
    }
    let failed = |e| Error::io("read", path, e);
    let entries: Result<Vec<PathBuf>> = fs::read_dir(path).map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.path())).collect();
    let mut files: Vec<PathBuf> =
        entries?.into_iter().filter(|file| file.is_file() && (ends_in(file, TEXT_ENDINGS) || ends_in(file, RECORD_ENDINGS))).collect();
    files.sort();
    if files.is_empty() {
        let endings = [TEXT_ENDINGS, RECORD_ENDINGS].concat().join(", .");
        return Err(Error::format(path, format!("holds no files of text (.{endings})")));
    }
    let mut documents = Vec::new();
    for file in files {
        documents.extend(read_file(&file)?);
    }
    Ok(documents)
}

fn ends_in(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|e| endings.iter().any(|ending| e.eq_ignore_ascii_case(ending)))
}

fn read_file(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path)?;
    let mut documents = Vec::new();
    if ends_in(path, RECORD_ENDINGS) {
        let mut records = Vec::new();
        each_record(path, &text, &mut |_, record| records.push(record)).map_err(|message| Error::format(path, message))?;
        for (index, record) in records.into_iter().enumerate() {
            match record.map_err(|message| Error::format(path, format!("record {index}: {message}")))? {
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
        assert!(read_corpus(Path::new("/dev/null/x")).is_err());
    }

    #[test]
    fn folders_are_read_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let message = read_corpus(dir.path()).unwrap_err().to_string();
        assert!(message.contains("no files of text") && message.contains(".jsonl"), "{message}");
        for (name, text) in [("b.txt", "two\n\nthree"), ("a.jsonl", "{\"text\": \"one\"}"), ("c.MD", "four"), ("d.bin", "\u{1}")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::fs::create_dir(dir.path().join("e.txt")).unwrap();
        assert_eq!(read_corpus(dir.path()).unwrap(), ["one", "two", "three", "four"]);
        std::fs::write(dir.path().join("f.txt"), " ").unwrap();
        assert!(read_corpus(dir.path()).unwrap_err().to_string().contains("f.txt"));
    }
}
