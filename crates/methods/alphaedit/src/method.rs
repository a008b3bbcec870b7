use std::collections::BTreeMap;

use easyedit_core::{CheckedRequest, Edit, EditMethod, Error, Hparams, LanguageModel, Method, ModelSpec, Result, Session};
use easyedit_kernels::{KeyWeight, MassEdit, NullSpace, Preparation, ResidualShare, ValueSite, needed_moments};
use serde_json::Value;

use crate::AlphaEditHparams;
use crate::history::History;

/// The method: [`AlphaEditHparams`], what all its edits share, and which of them are in a model.
#[derive(Debug)]
pub struct AlphaEdit {
    hparams: AlphaEditHparams,
    preparation: Preparation,
    spaces: BTreeMap<usize, NullSpace>,
    histories: BTreeMap<usize, History>,
}

impl Method for AlphaEdit {
    type Hparams = AlphaEditHparams;
    const SUMMARY: &'static str = "as MEMIT, in the null space of what is kept; for many edits in sequence (Fang et al. 2025)";

    fn new(hparams: AlphaEditHparams) -> Self {
        Self { hparams, preparation: Preparation::default(), spaces: BTreeMap::new(), histories: BTreeMap::new() }
    }

    fn hparams_for(spec: &ModelSpec) -> AlphaEditHparams {
        AlphaEditHparams::for_spec(spec)
    }
}

impl EditMethod for AlphaEdit {
    fn name(&self) -> &'static str {
        AlphaEditHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["nullspace_threshold", "L2", "v_lr", "v_num_grad_steps"]
    }

    fn prepare(&mut self, model: &dyn LanguageModel, session: &Session) -> Result<()> {
        let settings = self.hparams.settings();
        self.preparation.prepare(model, &settings, false, session)?;
        let missing: Vec<usize> = settings.layers.iter().copied().filter(|layer| !self.spaces.contains_key(layer)).collect();
        let found = if missing.is_empty() { BTreeMap::new() } else { needed_moments(model, &missing, &settings.moments, session)? };
        for (layer, found) in found {
            found.check(layer)?;
            let space = NullSpace::of(&found.moments, self.hparams.nullspace_threshold, &found.describe(layer))?;
            tracing::info!("layer {layer}: {} of {} directions may be changed", space.dimension(), found.moments.size());
            self.spaces.insert(layer, space);
        }
        Ok(())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        self.prepare(model, session)?;
        let settings = self.hparams.settings();
        let values = settings.value_config(ValueSite::BlockOutput);
        let mass = MassEdit { settings, preparation: &self.preparation, values, share: ResidualShare::Linear, weight_key: "L2" };
        let weight = KeyWeight::of(self.hparams.L2, self.hparams.target_share);
        let mut written = BTreeMap::new();
        let (deltas, told) = mass.run(model, requests, session, &mut |model, layer, keys| {
            let space = self.spaces.get(&layer).ok_or_else(|| Error::Batch(format!("there is no null space of layer {layer}")))?;
            let before = model.fingerprint(&model.spec().mlp_out_weight(layer))?;
            let earlier = self.histories.get(&layer).map(|history| history.keys(&before)).unwrap_or_default();
            let solved = space.solve_with_keys(&earlier, keys, weight, &format!("the keys of layer {layer}"))?;
            written.insert(layer, (before, keys.to_vec()));
            Ok(solved)
        })?;
        let edit = Edit::of(self, model, requests, session.seed(), told, deltas);
        let mut edited = model.boxed_clone();
        let _applied = edit.apply(edited.as_mut())?;
        for (layer, (before, keys)) in written {
            let after = edited.fingerprint(&edited.spec().mlp_out_weight(layer))?;
            self.histories.entry(layer).or_default().add(&before, after, keys);
        }
        Ok(edit)
    }
}
