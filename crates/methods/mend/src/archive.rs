use easyedit_core::{Error, LanguageModel, ParameterRole, Result, Stack, Trained};
use serde::{Deserialize, Serialize};

use crate::{Init, MendHparams};

/// Text whose tokens tell tokenizers apart.
const SAMPLE: &str = "In 1889 Zoë's tower — 330 m of wrought iron — opened; it isn't far from the Île de la Cité.";

/// Settings that what was learned only works with. A trained file says them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LearnedSettings {
    pub(crate) inner_params: Vec<String>,
    descent: bool,
    shared: bool,
    combine: bool,
    one_sided: bool,
    x_only: bool,
    delta_only: bool,
    norm: bool,
    init: Init,
    n_hidden: usize,
    rank: usize,
    base: BaseModel,
}

/// The model that a network was trained for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BaseModel {
    name: String,
    /// Of the token embedding, which edits leave as it is.
    embedding: String,
    /// Ids of a sample text.
    sample: Vec<u32>,
}

impl BaseModel {
    pub(crate) fn of(model: &dyn LanguageModel) -> Result<Self> {
        let spec = model.spec();
        let embedding = spec.name_of(Stack::Decoder, None, ParameterRole::TokenEmbedding);
        let embedding = embedding.ok_or_else(|| Error::Batch(format!("{} has no token embedding", spec.name)))?;
        Ok(Self {
            name: spec.name.clone(),
            embedding: model.fingerprint(embedding)?.as_str().to_owned(),
            sample: model.tokenizer().encode(SAMPLE)?.ids,
        })
    }
}

impl LearnedSettings {
    pub(crate) fn new(hparams: &MendHparams, inner_params: Vec<String>, base: BaseModel) -> Self {
        Self {
            inner_params,
            descent: hparams.descent.unwrap_or(true),
            shared: hparams.shared,
            combine: hparams.combine,
            one_sided: hparams.one_sided,
            x_only: hparams.x_only,
            delta_only: hparams.delta_only,
            norm: hparams.norm,
            init: hparams.init,
            n_hidden: hparams.n_hidden,
            rank: hparams.rank,
            base,
        }
    }

    /// Those of a trained file; `None` of a file of another program.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if the file says something else.
    pub(crate) fn of(trained: &Trained) -> Result<Option<Self>> {
        if trained.facts.is_null() {
            return Ok(None);
        }
        let learned = serde_json::from_value(trained.facts.clone());
        learned.map(Some).map_err(|e| Error::hparams(format!("archive: the file does not say what its network is: {e}")))
    }

    /// Checks that `model` is the one the network was trained for.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] naming both.
    pub(crate) fn check_base(&self, model: &dyn LanguageModel) -> Result<()> {
        let now = BaseModel::of(model)?;
        let what = if self.base.sample != now.sample {
            "another tokenizer"
        } else if self.base.embedding != now.embedding {
            "other weights"
        } else {
            return Ok(());
        };
        Err(Error::hparams(format!(
            "archive: the network was trained for {}, and {} has {what}; train one for this model (easyedit train)",
            self.base.name, now.name
        )))
    }

    /// `hparams` with what the file says of its network.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if other weights are to be edited than the network knows, or in the other direction.
    pub(crate) fn applied_to(&self, hparams: &MendHparams) -> Result<MendHparams> {
        if !hparams.inner_params.is_empty() && hparams.inner_params != self.inner_params {
            return Err(Error::hparams(format!(
                "inner_params are not those of the archive, in their order: {}; leave the key out",
                self.inner_params.join(", ")
            )));
        }
        if hparams.descent.is_some_and(|descent| descent != self.descent) {
            return Err(Error::hparams(format!("descent is not that of the archive, {}; leave the key out", self.descent)));
        }
        Ok(MendHparams {
            inner_params: self.inner_params.clone(),
            descent: Some(self.descent),
            shared: self.shared,
            combine: self.combine,
            one_sided: self.one_sided,
            x_only: self.x_only,
            delta_only: self.delta_only,
            norm: self.norm,
            init: self.init,
            n_hidden: self.n_hidden,
            rank: self.rank,
            ..hparams.clone()
        })
    }
}
