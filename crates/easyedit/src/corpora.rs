use std::path::{Path, PathBuf};

use burn::tensor::Device;
use easyedit_core::{
    Corpora, CorpusText, EditRequest, Error, LanguageModel, Progress, Result, SELF_CORPUS, SentenceEncoder, TrainableEncoder, Trained,
};
use easyedit_data::{read_corpus, read_requests, sample_text, split_documents};

use crate::{open_language_model, open_sentence_encoder, open_text_encoder, open_trained};

/// Name of the text that is built in.
pub const SAMPLE_CORPUS: &str = "wikitext-sample";

/// Corpora that EasyEdit downloads by name.
const DOWNLOADED: &[&str] = &["wikipedia", "wikitext"];

/// Text for statistics: from a file or a folder, from the sample that is built in, or written by the model itself. Records are read from
/// files in any of [`easyedit_data`]'s formats, sentence encoders opened by [`open_sentence_encoder`], and what methods learned by [`open_trained`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextCorpora {
    /// Stands in for whatever corpus the hyperparameters name: a text file with blank lines between documents, a `.json` or `.jsonl`
    /// file of strings or of records with a `text`, a folder of such files, or [`SELF_CORPUS`] for text that the model writes.
    pub corpus: Option<PathBuf>,
}

impl Corpora for TextCorpora {
    /// The documents of [`corpus`](Self::corpus) if it is set; else `name` is [`SAMPLE_CORPUS`] or the path of a file or folder.
    fn documents(&self, name: &str) -> Result<Vec<String>> {
        let name = match &self.corpus {
            Some(path) if path.as_os_str().eq_ignore_ascii_case(SAMPLE_CORPUS) => SAMPLE_CORPUS,
            Some(path) => return read_corpus(path),
            None => name,
        };
        if name.eq_ignore_ascii_case(SAMPLE_CORPUS) {
            return Ok(split_documents(sample_text()).map(str::to_owned).collect());
        }
        if Path::new(name).exists() {
            return read_corpus(Path::new(name));
        }
        let way_out = format!(
            "give a text file with --corpus FILE, or set mom2_dataset to a file's path, to {SAMPLE_CORPUS}, or to {SELF_CORPUS} for text that the model writes; `easyedit stats` computes the statistics ahead of time, and `easyedit stats import` takes EasyEdit's"
        );
        Err(Error::hparams(if DOWNLOADED.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            format!("mom2_dataset: {name} is not downloaded by this program; {way_out}")
        } else {
            format!("mom2_dataset: there is no corpus or file called {name:?}; {way_out}")
        }))
    }

    fn text(&self, name: &str) -> Result<CorpusText> {
        let wanted = self.corpus.as_deref().unwrap_or(Path::new(name));
        match wanted.as_os_str().eq_ignore_ascii_case(SELF_CORPUS) {
            true => Ok(CorpusText::SelfWritten),
            false => self.documents(name).map(CorpusText::Documents),
        }
    }

    fn stands_in(&self) -> bool {
        self.corpus.is_some()
    }

    fn records(&self, name: &str) -> Result<Vec<EditRequest>> {
        match Path::new(name) {
            path if path.exists() => read_requests(path),
            _ => Err(Error::hparams(format!("train_data: there is no file {name:?}; give a dataset with --demonstrations FILE"))),
        }
    }

    fn sentence_encoder(&self, name: &str, device: &Device, progress: &dyn Progress) -> Result<Box<dyn SentenceEncoder>> {
        open_sentence_encoder(name, device, progress)
    }

    fn text_encoder(&self, name: &str, device: &Device, progress: &dyn Progress) -> Result<Box<dyn TrainableEncoder>> {
        open_text_encoder(name, device, progress)
    }

    fn language_model(&self, name: &str, device: &Device, progress: &dyn Progress) -> Result<Box<dyn LanguageModel>> {
        open_language_model(name, device, progress)
    }

    fn trained(&self, name: &str, method: &str) -> Result<Trained> {
        open_trained(name, method)
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
    fn the_model_itself_is_a_corpus() {
        let own = TextCorpora { corpus: Some("self".into()) };
        assert_eq!((own.text("wikipedia").unwrap(), own.stands_in()), (CorpusText::SelfWritten, true));
        assert_eq!(TextCorpora::default().text("Self").unwrap(), CorpusText::SelfWritten);
        assert!(matches!(TextCorpora::default().text(SAMPLE_CORPUS).unwrap(), CorpusText::Documents(_)));
        assert!(!TextCorpora::default().stands_in());
    }

    #[test]
    fn a_corpus_that_is_not_there_says_what_to_do() {
        for name in ["wikipedia", "nowhere.txt"] {
            let message = TextCorpora::default().documents(name).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("--corpus FILE"), "{message}");
        }
    }
}
