//! What is learned: the scope classifier and the counterfactual model, as networks and as a file.

use std::collections::BTreeMap;

use burn::tensor::Device;
use easyedit_core::{Error, HostTensor, LanguageModel, ParamName, Result, Session, Tokenizer, Trained, tensor_values};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::classifier::{PREFIX, SCALE};
use crate::{ScopeClassifier, ScopeRules, SeracHparams};

/// Prefix of the counterfactual model's tensors in files.
pub(crate) const REPLACEMENT: &str = "replacement.";

/// Both trained networks.
#[derive(Clone)]
pub struct Networks {
    /// Decides which edit a query is about.
    pub classifier: ScopeClassifier,
    /// Answers queries that are in scope.
    pub counterfactual: Box<dyn LanguageModel>,
}

impl std::fmt::Debug for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Networks").field("classifier", &self.classifier).field("counterfactual", &self.counterfactual.spec().name).finish()
    }
}

/// What a file of trained networks says beside its tensors, and what a user of the file has to fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainedFacts {
    /// How scores were made.
    pub rules: ScopeRules,
    /// The score above which a query is in scope.
    pub threshold: f64,
    /// Whether the parts were trained apart.
    pub supervised: bool,
    /// The encoder's vocabulary.
    pub encoder: Identity,
    /// The counterfactual model's vocabulary.
    pub counterfactual: Identity,
    /// The base model of the training, with a fingerprint of its weights.
    pub base: Identity,
    /// That fingerprint.
    pub base_weights: String,
}

/// A model by its name and vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What it was called.
    pub name: String,
    /// SHA-256 of its vocabulary: every token with its id.
    pub vocabulary: String,
}

impl Identity {
    /// The identity of something with a tokenizer.
    pub fn of(name: &str, tokenizer: &Tokenizer) -> Self {
        Self { name: name.to_owned(), vocabulary: vocabulary(tokenizer) }
    }
}

/// SHA-256 over every token and its id, in the order of ids.
pub(crate) fn vocabulary(tokenizer: &Tokenizer) -> String {
    let mut tokens: Vec<(u32, String)> = tokenizer.inner().get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    let mut hash = Sha256::new();
    for (id, token) in tokens {
        hash.update(id.to_le_bytes());
        hash.update((token.len() as u64).to_le_bytes());
        hash.update(token);
    }
    format!("{:x}", hash.finalize())
}

impl Networks {
    /// The networks that hyperparameters name, as they are before a training.
    ///
    /// # Errors
    ///
    /// If one cannot be had, or the hyperparameters do not fit it.
    pub fn open(hparams: &SeracHparams, device: &Device, session: &Session) -> Result<Self> {
        if hparams.small_name.trim().is_empty() {
            return Err(Error::hparams(
                "small_name is empty; name the model that answers queries in scope, such as a small one of the family",
            ));
        }
        let (corpora, progress) = (session.corpora(), session.progress());
        let encoder = corpora.text_encoder(&hparams.cls_name, device, progress);
        let encoder = encoder.map_err(|error| Error::hparams(format!("cls_name: {error}")))?;
        let counterfactual = corpora.language_model(&hparams.small_name, device, progress);
        let counterfactual = counterfactual.map_err(|error| Error::hparams(format!("small_name: {error}")))?;
        Ok(Self { classifier: ScopeClassifier::new(encoder, ScopeRules::of(hparams), hparams.seed)?, counterfactual })
    }

    /// Names of all parameters, as files have them.
    pub fn parameter_names(&self) -> Vec<String> {
        let replacement = self.counterfactual.parameter_names();
        let replacement = replacement.iter().map(|name| format!("{REPLACEMENT}{name}"));
        self.classifier.parameter_names().into_iter().chain(replacement).collect()
    }

    /// All tensors by the reference's names: `classifier.*`, `replacement.*`, `scale`. A vector has one dimension.
    ///
    /// # Errors
    ///
    /// If the device cannot give a tensor back.
    pub fn state(&self) -> Result<BTreeMap<String, HostTensor>> {
        let mut state = BTreeMap::from([(SCALE.to_owned(), self.classifier.scale())]);
        for name in self.parameter_names() {
            let weight = self.weight(&name)?;
            let tensor = if weight.dims()[0] == 1 { HostTensor::from_row(&weight)? } else { HostTensor::from_matrix(&weight)? };
            state.insert(name, tensor);
        }
        Ok(state)
    }

    /// A parameter by its name in files; a vector is one row.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if there is no such parameter.
    pub fn weight(&self, name: &str) -> Result<burn::tensor::Tensor<2>> {
        match name.strip_prefix(REPLACEMENT) {
            Some(name) => self.counterfactual.weight(&ParamName::from(name)),
            None => self.classifier.weight(name),
        }
    }

    /// Replaces a parameter by one of the same shape.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if there is no such parameter, or the shape differs.
    pub fn set_weight(&mut self, name: &str, value: burn::tensor::Tensor<2>) -> Result<()> {
        match name.strip_prefix(REPLACEMENT) {
            Some(name) => self.counterfactual.set_weight(&ParamName::from(name), value),
            None => self.classifier.set_weight(name, value),
        }
    }

    /// Takes over what [`state`](Self::state) has given, or what the reference has saved. What belongs to no parameter (masks, a tied head,
    /// a pooler) is passed over. `partial`: the counterfactual model may be missing, and stays as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] naming a tensor that is missing or misshapen.
    pub fn load_state(&mut self, state: &BTreeMap<String, HostTensor>, partial: bool) -> Result<()> {
        let device = self.counterfactual.device();
        for name in self.parameter_names() {
            let Some(tensor) = state.get(&name) else {
                if partial && name.starts_with(REPLACEMENT) {
                    continue;
                }
                let whose = if name.starts_with(PREFIX) { "cls_name" } else { "small_name" };
                return Err(Error::tensor(
                    &name,
                    format!("is not in the archive; {whose} or cross_attend is another than in its training"),
                ));
            };
            let have = self.weight(&name)?.dims();
            let value = tensor.to_matrix(&name, &device)?;
            if value.dims() != have {
                let message =
                    format!("has shape {:?} in the archive, and the network has {have:?}; name the network of the training", value.dims());
                return Err(Error::tensor(&name, message));
            }
            if tensor.values().iter().any(|value| !value.is_finite()) {
                return Err(Error::NotFinite(format!("tensor {name}: the archive holds NaN or infinity")));
            }
            self.set_weight(&name, value)?;
        }
        match state.get(SCALE) {
            Some(scale) => self.classifier.set_scale(scale),
            None => Ok(()),
        }
    }

    /// SHA-256 over the first row of every parameter of the classifier: tells whose embeddings are whose.
    ///
    /// # Errors
    ///
    /// If the device cannot give a tensor back.
    pub fn classifier_fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(vocabulary(self.classifier.encoder().tokenizer()));
        hash.update(serde_json::to_vec(&self.classifier.rules()).map_err(Error::other)?);
        for name in self.classifier.parameter_names() {
            hash.update(&name);
            for value in tensor_values(&self.classifier.weight(&name)?.narrow(0, 0, 1))? {
                hash.update(value.to_le_bytes());
            }
        }
        Ok(format!("{:x}", hash.finalize()))
    }

    /// Checks that an archive was made for these networks, and takes its tensors over. What the archive says of its training; `None` for one of
    /// the reference, which says nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming what differs: the method, the rules of scores, a tokenizer. Otherwise as [`load_state`](Self::load_state).
    pub fn take_over(&mut self, trained: &Trained, freeze_cntr: bool) -> Result<Option<TrainedFacts>> {
        let fail = |message: String| Err(Error::hparams(format!("archive: {message}")));
        if !trained.method.eq_ignore_ascii_case("SERAC") {
            return fail(format!("holds what {} has learned, not SERAC", trained.method));
        }
        let facts = match &trained.facts {
            Value::Null => None,
            facts => match serde_json::from_value::<TrainedFacts>(facts.clone()) {
                Ok(facts) => Some(facts),
                Err(error) => return fail(format!("does not say what it was trained for: {error}")),
            },
        };
        if let Some(facts) = &facts {
            if facts.rules != self.classifier.rules() {
                let (of_file, asked) = (facts.rules, self.classifier.rules());
                return fail(format!("was trained with scores of {of_file:?}, and the hyperparameters ask for {asked:?}"));
            }
            let encoder = self.classifier.encoder();
            let known = [
                ("cls_name", &facts.encoder, Identity::of(encoder.name(), encoder.tokenizer())),
                ("small_name", &facts.counterfactual, Identity::of(&self.counterfactual.spec().name, self.counterfactual.tokenizer())),
            ];
            if let Some((key, of_file, now)) = known.iter().find(|(_, of_file, now)| of_file.vocabulary != now.vocabulary) {
                return fail(format!(
                    "was trained with the tokenizer of {}, and {key} names {}, which has another vocabulary",
                    of_file.name, now.name
                ));
            }
        }
        self.load_state(&trained.tensors, freeze_cntr)?;
        Ok(facts)
    }
}
