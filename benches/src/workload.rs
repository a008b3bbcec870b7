use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use easyedit::models::{Checkpoint, cache_folder, resolve_model};
use easyedit::{
    CheckedRequest, Corpora, EditMethod, EditRequest, HparamsDocument, LanguageModel, Session, Silent, TextCorpora, device, hparams,
    registry,
};

use crate::facts;

/// Tokens that statistics are timed over, unless told otherwise: as many as the Python reference was timed over.
const MOMENT_TOKENS: usize = 11_689;
/// What the names of models in `data/tiny-world` begin with.
const TINY_WORLD: &str = "tiny-world-";

/// How a [`Workload`] is made.
#[derive(Clone, Debug)]
pub struct WorkloadOptions {
    /// The device the model is loaded to.
    pub device: String,
    /// The repository's folder `data`.
    pub data: PathBuf,
    /// Text of the statistics instead of the built-in sample.
    pub corpus: Option<PathBuf>,
    /// Tokens that statistics are timed over.
    pub tokens: usize,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self { device: "cpu".into(), data: crate::data_folder(), corpus: None, tokens: MOMENT_TOKENS, seed: 0 }
    }
}

/// What statistics are timed over.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// The layers that MEMIT edits, in ascending order.
    pub layers: Vec<usize>,
    /// The texts.
    pub documents: Vec<String>,
    /// Their tokens, all together.
    pub tokens: usize,
}

/// A model with the facts and texts it is timed on.
pub struct Workload {
    name: String,
    model: Box<dyn LanguageModel>,
    requests: Vec<CheckedRequest>,
    corpora: TextCorpora,
    options: WorkloadOptions,
    cache: PathBuf,
    /// Holds the cache of a model whose statistics are not worth keeping.
    _temporary: Option<tempfile::TempDir>,
}

impl Workload {
    /// Loads `name`: `tiny-world-FAMILY` from the data folder with the facts of its world, or any model that easyedit finds by name, with
    /// facts about countries.
    ///
    /// # Errors
    ///
    /// If the model cannot be had or loaded, or the device is missing.
    pub fn load(name: &str, options: WorkloadOptions) -> Result<Self> {
        let device = device::select(&options.device)?;
        let mut corpora = TextCorpora { corpus: options.corpus.clone() };
        let world = options.data.join("tiny-world");
        let (path, name, requests, temporary) = if name.starts_with(TINY_WORLD) {
            corpora.corpus.get_or_insert_with(|| world.join("corpus.txt"));
            let requests = easyedit::data::read_requests(&world.join("requests.json"))?;
            let cache = tempfile::tempdir().context("cannot make a temporary folder")?;
            (world.join("models").join(name), name.to_owned(), requests, Some(cache))
        } else {
            let location = resolve_model(name, &Silent)?;
            (location.path, location.name, facts::requests(facts::MOST), None)
        };
        let model = Checkpoint::open(&path)?.with_name(name.clone()).load(&device)?;
        let cache = temporary.as_ref().map_or_else(cache_folder, |folder| folder.path().to_owned());
        let requests = CheckedRequest::all(requests)?;
        Ok(Self { name, model, requests, corpora, options, cache, _temporary: temporary })
    }

    /// Whether the model `name` is on this machine already, or comes with the repository.
    pub fn is_at_hand(name: &str, data: &Path) -> bool {
        if name.starts_with(TINY_WORLD) {
            return data.join("tiny-world/models").join(name).is_dir();
        }
        resolve_model(name, &Silent).is_ok()
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model.
    pub fn model(&self) -> &dyn LanguageModel {
        &*self.model
    }

    /// The first `count` facts.
    ///
    /// # Errors
    ///
    /// If there are fewer.
    pub fn requests(&self, count: usize) -> Result<&[CheckedRequest]> {
        self.requests.get(..count).with_context(|| format!("there are {} facts for {}, not {count}", self.requests.len(), self.name))
    }

    /// A fact whose subject is followed by several words, as the Python reference is timed on; in the tiny world the first fact.
    ///
    /// # Errors
    ///
    /// If the tiny world has no facts.
    pub fn fact(&self) -> Result<CheckedRequest> {
        self.first_or(EditRequest::new("The Eiffel Tower is located in the city of", "The Eiffel Tower", "Rome"))
    }

    /// A fact whose subject ends the prompt but for one word; in the tiny world the first fact.
    ///
    /// # Errors
    ///
    /// If the tiny world has no facts.
    pub fn short_fact(&self) -> Result<CheckedRequest> {
        self.first_or(EditRequest::new("The capital of France is", "France", "Rome"))
    }

    fn first_or(&self, request: EditRequest) -> Result<CheckedRequest> {
        match self.is_tiny() {
            true => Ok(self.requests(1)?.first().cloned().context("there are no facts")?),
            false => Ok(CheckedRequest::new(request)?),
        }
    }

    /// Whether the model is one of the tiny world.
    pub fn is_tiny(&self) -> bool {
        self._temporary.is_some()
    }

    /// What a method may use.
    pub fn session(&self) -> Session {
        Session::new().with_seed(self.options.seed).with_corpora(self.corpora.clone()).with_cache(&self.cache)
    }

    /// The hyperparameters of a method for the model.
    ///
    /// # Errors
    ///
    /// If there is no such method, or its values cannot be read.
    pub fn hparams(&self, method: &str) -> Result<HparamsDocument> {
        let registry = registry();
        Ok(hparams::find(registry.get(method)?, &self.name, self.model.spec())?.document)
    }

    /// A method with templates and statistics made ready.
    ///
    /// # Errors
    ///
    /// If the hyperparameters cannot be read, or something cannot be made ready.
    pub fn method(&self, document: &HparamsDocument) -> Result<Box<dyn EditMethod>> {
        let method = document.method().unwrap_or_default().to_owned();
        let mut method = registry().get(&method)?.build(document)?;
        method.prepare(self.model(), &self.session())?;
        Ok(method)
    }

    /// What statistics are timed over: whole documents from the beginning of the text, the last one cut.
    ///
    /// # Errors
    ///
    /// If there is no text, or MEMIT's layers are not known.
    pub fn moments(&self) -> Result<Moments> {
        let values = self.hparams("MEMIT")?.to_json()?;
        let layers = values["layers"].as_array().into_iter().flatten().filter_map(|layer| layer.as_u64().map(|layer| layer as usize));
        let mut layers: Vec<usize> = layers.collect();
        layers.sort_unstable();
        let corpus = values["mom2_dataset"].as_str().unwrap_or_default();
        let (mut documents, mut tokens) = (Vec::new(), 0);
        for text in self.corpora.documents(corpus)? {
            let ids = self.model.tokenizer().encode(&text)?.ids;
            let left = self.options.tokens - tokens;
            let (text, count) = match ids.get(..left) {
                Some(first) if first.len() < ids.len() => (self.model.tokenizer().decode(first)?, left),
                _ => (text, ids.len()),
            };
            documents.push(text);
            tokens += count;
            if tokens >= self.options.tokens {
                break;
            }
        }
        Ok(Moments { layers, documents, tokens })
    }
}
