use std::path::{Path, PathBuf};

use easyedit_core::{Corpora, Error, Result};
use easyedit_data::{read_corpus, sample_text, split_documents};

/// Name of the text that is built in.
pub const SAMPLE_CORPUS: &str = "wikitext-sample";

/// Corpora that EasyEdit downloads by name.
const DOWNLOADED: &[&str] = &["wikipedia", "wikitext"];

/// Text for statistics, from a file or from the sample that is built in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextCorpora {
    /// Stands in for whatever corpus the hyperparameters name: a text file with blank lines between documents, or a `.json` or
    /// `.jsonl` file of strings or of records with a `text`.
    pub corpus: Option<PathBuf>,
}

impl Corpora for TextCorpora {
    /// The documents of [`corpus`](Self::corpus) if it is set; else `name` is [`SAMPLE_CORPUS`] or the path of a file.
    fn documents(&self, name: &str) -> Result<Vec<String>> {
        if let Some(path) = &self.corpus {
            return read_corpus(path);
        }
        if name.eq_ignore_ascii_case(SAMPLE_CORPUS) {
            return Ok(split_documents(sample_text()).map(str::to_owned).collect());
        }
        if Path::new(name).is_file() {
            return read_corpus(Path::new(name));
        }
        let way_out = format!(
            "give a text file with --corpus FILE, or set mom2_dataset to a file's path or to {SAMPLE_CORPUS}; `easyedit stats` computes the statistics ahead of time"
        );
        Err(Error::hparams(if DOWNLOADED.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            format!("mom2_dataset: {name} is not downloaded by this program; {way_out}")
        } else {
            format!("mom2_dataset: there is no corpus or file called {name:?}; {way_out}")
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_built_in_and_in_pieces() {
        let documents = TextCorpora::default().documents("WikiText-Sample").unwrap();
        assert!(documents.len() > 100 && documents.iter().all(|d| !d.trim().is_empty()));
    }

    #[test]
    fn a_corpus_stands_in_for_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.txt");
        std::fs::write(&path, "one\n\ntwo\n").unwrap();
        let corpora = TextCorpora { corpus: Some(path.clone()) };
        assert_eq!(corpora.documents("wikipedia").unwrap(), ["one", "two"]);
        assert_eq!(TextCorpora::default().documents(path.to_str().unwrap()).unwrap(), ["one", "two"]);
    }

    #[test]
    fn a_corpus_that_is_not_there_says_what_to_do() {
        for name in ["wikipedia", "nowhere.txt"] {
            let message = TextCorpora::default().documents(name).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("--corpus FILE"), "{message}");
        }
    }
}
