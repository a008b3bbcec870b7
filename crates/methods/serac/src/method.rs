use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Device;
use easyedit_core::{
    CheckedRequest, Edit, EditMethod, EditedModel, Error, Hparams, LanguageModel, Method, ModelSpec, Overlay, Result, Session,
};
use easyedit_kernels::sampled_fingerprint;
use serde_json::{Value, json};

use crate::memory::{Memory, without};
use crate::networks::{Networks, TrainedFacts};
use crate::routed::{MemoryBeside, RoutedPredictor, Routing};
use crate::scoped::ScopedMemory;
use crate::{Identity, SeracHparams, Threshold};

/// The method: [`SeracHparams`], and the trained networks once they are loaded.
#[derive(Debug)]
pub struct Serac {
    hparams: SeracHparams,
    learned: Option<Learned>,
}

/// What was loaded from the archive.
#[derive(Clone, Debug)]
struct Learned {
    networks: Arc<Networks>,
    /// What the archive says of its training; nothing if it is the reference's.
    facts: Option<TrainedFacts>,
    /// Fingerprint of the classifier.
    classifier: String,
}

impl Method for Serac {
    type Hparams = SeracHparams;
    const SUMMARY: &'static str =
        "a memory of edits; a classifier decides who answers, the model or a counterfactual one (Mitchell et al. 2022)";

    fn new(hparams: SeracHparams) -> Self {
        Self { hparams, learned: None }
    }

    fn hparams_for(spec: &ModelSpec) -> SeracHparams {
        SeracHparams::for_spec(spec)
    }
}

impl Serac {
    /// The method with networks that were trained in this process.
    ///
    /// # Errors
    ///
    /// If the device cannot give a weight back.
    pub fn with_networks(hparams: SeracHparams, networks: Networks) -> Result<Self> {
        let classifier = networks.classifier_fingerprint()?;
        Ok(Self { hparams, learned: Some(Learned { networks: Arc::new(networks), facts: None, classifier }) })
    }

    fn learned(&self) -> Result<&Learned> {
        self.learned.as_ref().ok_or_else(|| Error::Unsupported {
            method: self.name().to_owned(),
            message: "the trained networks are not loaded; prepare the method, or apply the edit in a session that has corpora".into(),
        })
    }

    fn routing(&self, facts: Option<&TrainedFacts>) -> Routing {
        match (self.hparams.is_soft(), self.hparams.threshold, facts) {
            (true, ..) => Routing::Soft,
            (false, Some(Threshold::At(threshold)), _) => Routing::Hard { threshold },
            (false, _, Some(facts)) => Routing::Hard { threshold: facts.threshold },
            (false, _, None) => Routing::Hard { threshold: Threshold::HALF },
        }
    }

    /// Checks that the archive was trained for `model`.
    fn check_base(&self, model: &dyn LanguageModel) -> Result<()> {
        let Some(facts) = self.learned()?.facts.as_ref().filter(|_| !self.hparams.any_base) else { return Ok(()) };
        let now = Identity::of(&model.spec().name, model.tokenizer());
        let way_out = "train on this model, or route with any_base: true, where nothing of the base model was learned";
        if now.vocabulary != facts.base.vocabulary {
            return Err(Error::hparams(format!(
                "archive: was trained for {}, and {} has another tokenizer; {way_out}",
                facts.base.name, now.name
            )));
        }
        if sampled_fingerprint(model)? != facts.base_weights {
            return Err(Error::hparams(format!(
                "archive: was trained for {}, and {} has other weights; {way_out}",
                facts.base.name, now.name
            )));
        }
        Ok(())
    }

    fn overlay<'a>(&self, edit: &'a Edit) -> Result<&'a Overlay> {
        let message = || "the edit holds no memory".to_owned();
        edit.overlay.as_ref().ok_or_else(|| Error::Unsupported { method: self.name().to_owned(), message: message() })
    }

    /// The memory that lies uppermost over `model`, if one does, and the model beneath it.
    fn uppermost<'m>(&self, model: &'m dyn LanguageModel, learned: &Learned) -> Result<(Memory, &'m dyn LanguageModel)> {
        match model.overlaid() {
            Some(lower) if lower.method.eq_ignore_ascii_case(SeracHparams::METHOD) => {
                let memory = Memory::from_overlay(lower.overlay, &learned.networks.classifier, &learned.classifier)?;
                Ok((memory, lower.beneath))
            }
            _ => Ok((Memory::default(), model)),
        }
    }
}

impl EditMethod for Serac {
    fn name(&self) -> &'static str {
        SeracHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["threshold", "archive"]
    }

    fn load_learned(&mut self, device: &Device, session: &Session) -> Result<()> {
        if self.learned.is_some() {
            return Ok(());
        }
        let archive = self.hparams.archive.as_deref().filter(|archive| !archive.trim().is_empty());
        let archive = archive.ok_or_else(|| {
            Error::hparams(
                "archive is missing: SERAC edits with networks that were trained before; train them (`easyedit train`) and name the file it wrote",
            )
        })?;
        let trained = session.corpora().trained(archive, SeracHparams::METHOD)?;
        let mut networks = Networks::open(&self.hparams, device, session)?;
        let facts = networks.take_over(&trained, self.hparams.freeze_cntr)?;
        let classifier = networks.classifier_fingerprint()?;
        self.learned = Some(Learned { networks: Arc::new(networks), facts, classifier });
        Ok(())
    }

    fn prepare(&mut self, model: &dyn LanguageModel, session: &Session) -> Result<()> {
        self.load_learned(&model.device(), session)?;
        let learned = self.learned()?.clone();
        let (_, beneath) = self.uppermost(model, &learned)?;
        self.check_base(beneath)?;
        // Tells a mixture of different vocabularies before anything is edited.
        let scope = ScopedMemory::new(learned.networks, Memory::default(), beneath)?;
        RoutedPredictor::new(beneath.boxed_clone(), scope, self.routing(learned.facts.as_ref())).map(|_| ())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        if requests.is_empty() {
            return Err(Error::Batch("there are no requests to edit".into()));
        }
        self.prepare(model, session)?;
        let learned = self.learned()?;
        let own = Memory::of(requests, &learned.networks.classifier)?;
        let (mut all, beneath) = self.uppermost(model, learned)?;
        let before = ScopedMemory::new(learned.networks.clone(), all.clone(), beneath)?;
        let prompts: Vec<String> = own.entries().iter().map(|entry| entry.prompt.clone()).collect();
        let told: Vec<Value> = own
            .entries()
            .iter()
            .zip(before.nearest(&prompts)?)
            .map(|(entry, nearest)| {
                json!({ "case_id": entry.case_id, "nearest_earlier": nearest.map(|found| json!({ "entry": found.entry, "score": found.score })) })
            })
            .collect();
        all.extend(&own);
        let told = json!({ "memory": all.entries().len(), "edits": told });
        let overlay = own.to_overlay(&learned.classifier)?;
        Ok(Edit::of(self, model, requests, session.seed(), told, BTreeMap::new()).with_overlay(overlay))
    }

    fn changes_weights(&self) -> bool {
        false
    }

    fn lay_over(&self, edit: &Edit, model: Box<dyn LanguageModel>) -> Result<Box<dyn LanguageModel>> {
        let learned = self.learned()?;
        let own = Memory::from_overlay(self.overlay(edit)?, &learned.networks.classifier, &learned.classifier)?;
        let (mut all, beneath) = self.uppermost(&*model, learned)?;
        self.check_base(beneath)?;
        all.extend(&own);
        let beneath = beneath.boxed_clone();
        if all.entries().is_empty() {
            return Ok(beneath);
        }
        let overlay = all.to_overlay(&learned.classifier)?;
        let scope = ScopedMemory::new(learned.networks.clone(), all, &*beneath)?;
        let routed = RoutedPredictor::new(beneath.boxed_clone(), scope, self.routing(learned.facts.as_ref()))?;
        Ok(Box::new(EditedModel::new(beneath, self.name(), overlay, MemoryBeside(routed))))
    }

    fn forget(&self, edit: &Edit, forgotten: &[usize]) -> Result<Edit> {
        let mut edit = edit.clone();
        edit.overlay = Some(without(self.overlay(&edit)?, edit.requests.len(), forgotten)?);
        edit.drop_requests(forgotten);
        Ok(edit)
    }
}
