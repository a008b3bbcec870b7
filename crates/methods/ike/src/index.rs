use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use easyedit_core::{CheckedRequest, EditRequest, Error, Matrix, Result, SentenceEncoder, Session, WeightLayout, weight_product};
use easyedit_kernels::WordVectors;

use crate::{Demonstration, IkeHparams, Kind, Retrieval, Selected, demonstrations_of, index_file, nearest};

/// The demonstrations of a dataset, and the way to those near to a fact.
pub struct DemonstrationIndex {
    demonstrations: Vec<Demonstration>,
    /// Of each record, its filled prompt.
    prompts: Vec<String>,
    space: Space,
}

/// What nearness is measured in.
enum Space {
    Embeddings(Box<Embeddings>),
    Words(WordVectors),
}

struct Embeddings {
    encoder: Box<dyn SentenceEncoder>,
    /// `[demonstrations, width]`, of length 1.
    rows: Tensor<2>,
    /// Where they are kept.
    file: Option<PathBuf>,
    /// Whether they were computed now.
    is_new: bool,
}

impl std::fmt::Debug for DemonstrationIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let encoder = self.encoder().unwrap_or("words");
        f.debug_struct("DemonstrationIndex").field("strings", &self.demonstrations.len()).field("space", &encoder).finish_non_exhaustive()
    }
}

impl DemonstrationIndex {
    /// The index of the records in `hparams.train_data`, or `None` without them. Embeddings come from the cache folder if they are there;
    /// otherwise all strings are embedded on `device` and kept.
    ///
    /// # Errors
    ///
    /// If the records cannot be read, or there is no encoder and the hyperparameters ask for one; if the cache cannot be written.
    pub fn open(hparams: &IkeHparams, device: &Device, session: &Session) -> Result<Option<Self>> {
        let Some(name) = hparams.train_data.as_deref().filter(|name| !name.trim().is_empty()) else { return Ok(None) };
        let records = session.corpora().records(name)?;
        match hparams.retrieval {
            Retrieval::Lexical => Self::of_words(&records),
            Retrieval::Embedding => {
                let wanted = &hparams.sentence_model_name;
                let encoder = session.corpora().sentence_encoder(wanted, device, session.progress()).map_err(|error| {
                    Error::hparams(format!(
                        "sentence_model_name: {error}\nname a folder or Hub id of a sentence encoder that is there, or set retrieval to lexical, which needs none"
                    ))
                })?;
                Self::of_embeddings(&records, encoder, device, session)
            }
        }
        .map(Some)
    }

    /// An index of records by the words they have in common with a fact.
    ///
    /// # Errors
    ///
    /// If there are no records.
    pub fn of_words(records: &[EditRequest]) -> Result<Self> {
        let (demonstrations, prompts) = checked(records)?;
        let space = Space::Words(WordVectors::of(demonstrations.iter().map(|one| one.text.as_str())));
        Ok(Self { demonstrations, prompts, space })
    }

    /// An index of records by embeddings, which are kept in the context's cache folder.
    ///
    /// # Errors
    ///
    /// If there are no records, the encoder fails, or the cache cannot be written.
    pub fn of_embeddings(records: &[EditRequest], encoder: Box<dyn SentenceEncoder>, device: &Device, session: &Session) -> Result<Self> {
        let (demonstrations, prompts) = checked(records)?;
        let found = index_file::find_or_build(&demonstrations, &*encoder, session.cache(), session.progress())?;
        let rows = found.embeddings.to_tensor(device);
        let space = Space::Embeddings(Box::new(Embeddings { encoder, rows, file: found.file, is_new: found.is_new }));
        Ok(Self { demonstrations, prompts, space })
    }

    /// All demonstrations.
    pub fn demonstrations(&self) -> &[Demonstration] {
        &self.demonstrations
    }

    /// Number of records.
    pub fn records(&self) -> usize {
        self.prompts.len()
    }

    /// Number of demonstrations of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.demonstrations.iter().filter(|one| one.kind == kind).count()
    }

    /// Name of the encoder; `None` if words are compared.
    pub fn encoder(&self) -> Option<&str> {
        match &self.space {
            Space::Embeddings(embedded) => Some(embedded.encoder.name()),
            Space::Words(_) => None,
        }
    }

    /// Where the embeddings are kept.
    pub fn file(&self) -> Option<&Path> {
        match &self.space {
            Space::Embeddings(embedded) => embedded.file.as_deref(),
            Space::Words(_) => None,
        }
    }

    /// Whether embeddings were computed for this index instead of being there already.
    pub fn is_new(&self) -> bool {
        matches!(&self.space, Space::Embeddings(embedded) if embedded.is_new)
    }

    /// Number of dimensions of the embeddings; `None` if words are compared.
    pub fn width(&self) -> Option<usize> {
        match &self.space {
            Space::Embeddings(embedded) => Some(embedded.rows.dims()[1]),
            Space::Words(_) => None,
        }
    }

    /// Whether demonstration `index` is of one of the facts whose prompts these are.
    pub(crate) fn is_about(&self, index: usize, prompts: &[&str]) -> bool {
        let prompt = self.demonstrations.get(index).and_then(|one| self.prompts.get(one.record));
        prompt.is_some_and(|prompt| prompts.contains(&prompt.as_str()))
    }

    /// The `k` demonstrations nearest to a text, the nearest first.
    ///
    /// # Errors
    ///
    /// As [`similarities`](Self::similarities).
    pub fn nearest(&self, text: &str, k: usize) -> Result<Vec<Selected>> {
        let similarities = self.similarities(&[text])?;
        Ok(nearest(similarities.values(), k, |_| true))
    }

    /// The cosine of every text with every demonstration: `[texts, demonstrations]`.
    ///
    /// # Errors
    ///
    /// If the encoder fails on a text, or does not fit the index.
    pub fn similarities(&self, texts: &[&str]) -> Result<Matrix> {
        let strings = self.demonstrations.len();
        match &self.space {
            Space::Words(vectors) => {
                let values = texts.iter().flat_map(|text| vectors.similarities(text, strings)).collect();
                Matrix::new(texts.len(), strings, values).ok_or_else(|| Error::Batch("similarities are missing".into()))
            }
            Space::Embeddings(embedded) => {
                let Embeddings { encoder, rows, .. } = &**embedded;
                let asked = encoder.embed(texts)?;
                let (got, want) = (asked.shape(), [texts.len(), rows.dims()[1]]);
                if got != want {
                    return Err(Error::Batch(format!("{} gave embeddings of shape {got:?} instead of {want:?}", encoder.name())));
                }
                let found = Matrix::from_tensor(&weight_product(asked.to_tensor(&rows.device()), rows, WeightLayout::OutIn))?;
                match found.values().iter().all(|value| value.is_finite()) {
                    true => Ok(found),
                    false => Err(Error::NotFinite(format!("the embeddings of {} hold NaN or infinity", encoder.name()))),
                }
            }
        }
    }
}

fn checked(records: &[EditRequest]) -> Result<(Vec<Demonstration>, Vec<String>)> {
    if records.is_empty() {
        return Err(Error::hparams("train_data: holds no records to make demonstrations of"));
    }
    let checked = CheckedRequest::all(records.iter().cloned())?;
    Ok((demonstrations_of(&checked), checked.iter().map(|request| request.prompt().to_owned()).collect()))
}
