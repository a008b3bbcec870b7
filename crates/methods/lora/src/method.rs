use std::collections::BTreeMap;

use easyedit_core::{
    CheckedRequest, Edit, EditMethod, Fingerprint, Hparams, LanguageModel, Method, ModelSpec, ParamName, Parameter, Result, Session,
    TensorDelta, WeightDelta, WeightLayout,
};
use easyedit_kernels::{TargetLoss, TrainingRow};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::adapter::Adapter;
use crate::modules::target_weights;
use crate::training::Training;
use crate::{LoraHparams, Sequential};

/// The method: [`LoraHparams`], and the adapter that the next edit may go on with.
#[derive(Debug)]
pub struct Lora {
    hparams: LoraHparams,
    last: Option<LastAdapter>,
}

/// The adapter of the last edit, and the weights that carry it.
#[derive(Debug)]
struct LastAdapter {
    adapters: Vec<Adapter>,
    weights: BTreeMap<ParamName, Fingerprint>,
}

impl Method for Lora {
    type Hparams = LoraHparams;
    const SUMMARY: &'static str = "low-rank adapters trained on the facts: LoRA, and AdaLoRA with its rank budget (Zhang et al. 2023)";

    fn new(hparams: LoraHparams) -> Self {
        Self { hparams, last: None }
    }

    fn hparams_for(spec: &ModelSpec) -> LoraHparams {
        LoraHparams::for_spec(spec)
    }
}

impl Lora {
    /// The adapter of the last edit, if it is to go on and the model carries it still: its weights are known by their fingerprints.
    fn carried(&self, model: &dyn LanguageModel) -> Result<Option<Vec<Adapter>>> {
        let Some(last) = self.last.as_ref().filter(|_| self.hparams.sequential == Sequential::Continue) else { return Ok(None) };
        for (name, fingerprint) in &last.weights {
            if model.fingerprint(name)? != *fingerprint {
                return Ok(None);
            }
        }
        Ok(Some(last.adapters.clone()))
    }

    fn fresh(&self, model: &dyn LanguageModel, rng: &mut ChaCha8Rng) -> Result<Vec<Adapter>> {
        let targets = target_weights(model.spec(), &self.hparams.target_modules, &self.hparams.layers)?;
        let adapter = |target: &Parameter| -> Result<Adapter> {
            let base = model.weight(&target.name)?;
            // A table has no layout; its rows are taken for outputs.
            let layout = target.layout.unwrap_or(WeightLayout::OutIn);
            Ok(Adapter::new(target.name.clone(), layout, base, self.hparams.initial_rank(), self.hparams.lora_type, rng))
        };
        targets.into_iter().map(adapter).collect()
    }

    /// The changes that take the model from carrying `before` to carrying `after`.
    fn deltas(&self, model: &dyn LanguageModel, before: &[Adapter], after: &[Adapter]) -> Result<BTreeMap<ParamName, TensorDelta>> {
        let scale = self.hparams.scale();
        let mut deltas: BTreeMap<ParamName, WeightDelta> = BTreeMap::new();
        let changes = after.iter().map(|adapter| (adapter, scale)).chain(before.iter().map(|adapter| (adapter, -scale)));
        for (adapter, scale) in changes {
            let Some(delta) = adapter.delta(scale)? else { continue };
            let joined = match deltas.remove(&adapter.name) {
                Some(earlier) => earlier.then(&delta, &adapter.name)?,
                None => delta,
            };
            deltas.insert(adapter.name.clone(), joined);
        }
        let based = |(name, delta): (ParamName, WeightDelta)| -> Result<(ParamName, TensorDelta)> {
            let base = model.fingerprint(&name)?;
            Ok((name, TensorDelta::new(delta, base)))
        };
        deltas.into_iter().map(based).collect()
    }

    /// Remembers the adapter as that of the model `edit` makes.
    fn remember(&mut self, model: &dyn LanguageModel, edit: &Edit, adapters: Vec<Adapter>) -> Result<()> {
        let mut edited = model.boxed_clone();
        let _applied = edit.apply(edited.as_mut())?;
        let weight = |adapter: &Adapter| Ok((adapter.name.clone(), edited.fingerprint(&adapter.name)?));
        let weights = adapters.iter().map(weight).collect::<Result<_>>()?;
        self.last = Some(LastAdapter { adapters, weights });
        Ok(())
    }
}

impl EditMethod for Lora {
    fn name(&self) -> &'static str {
        LoraHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["lr", "num_steps", "rank"]
    }

    fn prepare(&mut self, model: &dyn LanguageModel, _: &Session) -> Result<()> {
        self.hparams.check_model(model.spec())?;
        target_weights(model.spec(), &self.hparams.target_modules, &self.hparams.layers).map(|_| ())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        self.hparams.check_model(model.spec())?;
        let mut rng = ChaCha8Rng::seed_from_u64(session.seed());
        let carried = self.carried(model)?;
        let continued = carried.is_some();
        let (before, adapters) = match carried {
            Some(carried) => (carried.clone(), carried),
            None => (Vec::new(), self.fresh(model, &mut rng)?),
        };
        let names: Vec<ParamName> = adapters.iter().map(|adapter| adapter.name.clone()).collect();
        let row = |request: &CheckedRequest| Ok(TrainingRow::teacher_forced(&TrainingRow::tokens_of(model, request, true)?));
        let rows = requests.iter().map(row).collect::<Result<Vec<TrainingRow>>>()?;
        let parts = TargetLoss::in_parts(model, &rows, self.hparams.batch_size, &names)?;
        let training = Training::new(model, adapters, parts.len(), &self.hparams, rng)?;
        session.progress().begin("training adapters", Some(self.hparams.num_steps as u64));
        let outcome = training.run(&parts, session.progress());
        session.progress().end();
        let (mut adapters, losses) = outcome?;
        let ranks: serde_json::Map<String, Value> =
            adapters.iter().map(|adapter| (adapter.name.to_string(), adapter.rank.into())).collect();
        adapters.retain(|adapter| adapter.rank > 0);
        let diagnostics = json!({
            "lora_type": self.hparams.lora_type,
            "scale": self.hparams.scale(),
            "continued": continued,
            "losses": losses,
            "ranks": ranks,
        });
        let deltas = self.deltas(model, &before, &adapters)?;
        let edit = Edit::of(self, model, requests, session.seed(), diagnostics, deltas);
        if self.hparams.sequential == Sequential::Continue {
            self.remember(model, &edit, adapters)?;
        }
        Ok(edit)
    }
}
