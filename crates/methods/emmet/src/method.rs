use std::collections::BTreeMap;

use easyedit_core::{CheckedRequest, Edit, EditMethod, Error, Hparams, LanguageModel, Method, ModelSpec, Result, Session};
use easyedit_kernels::{Cholesky, KeyWeight, MassEdit, Preparation, ResidualShare, ValueSite, second_moments};
use serde_json::Value;

use crate::EmmetHparams;

/// The method: [`EmmetHparams`] and what all its edits share.
#[derive(Debug)]
pub struct Emmet {
    hparams: EmmetHparams,
    preparation: Preparation,
    /// Of each layer's scaled second moment with `update_norm_lambda` on its diagonal.
    factors: BTreeMap<usize, Cholesky>,
}

impl Method for Emmet {
    type Hparams = EmmetHparams;
    const SUMMARY: &'static str = "many facts at once as exact constraints on one or several MLPs (Gupta et al. 2024)";

    fn new(hparams: EmmetHparams) -> Self {
        Self { hparams, preparation: Preparation::default(), factors: BTreeMap::new() }
    }

    fn hparams_for(spec: &ModelSpec) -> EmmetHparams {
        EmmetHparams::for_spec(spec)
    }
}

impl EditMethod for Emmet {
    fn name(&self) -> &'static str {
        EmmetHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["mom2_update_weight", "emmet_lambda", "v_lr", "v_num_grad_steps"]
    }

    fn prepare(&mut self, model: &dyn LanguageModel, session: &Session) -> Result<()> {
        let settings = self.hparams.settings();
        self.preparation.prepare(model, &settings, false, session)?;
        let missing: Vec<usize> = settings.layers.iter().copied().filter(|layer| !self.factors.contains_key(layer)).collect();
        for (layer, moments) in second_moments(model, &missing, &settings, session)? {
            self.factors.insert(layer, moments.factor_scaled(self.hparams.mom2_update_weight, self.hparams.update_norm_lambda, layer)?);
        }
        Ok(())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        self.prepare(model, session)?;
        let settings = self.hparams.settings();
        let values = settings.value_config(ValueSite::BlockOutput);
        let mass = MassEdit { settings, preparation: &self.preparation, values, share: ResidualShare::Linear, weight_key: "emmet_lambda" };
        let weight = KeyWeight::of(self.hparams.emmet_lambda, self.hparams.target_share);
        let (deltas, told) = mass.run(model, requests, session, &mut |_, layer, keys| {
            let factor = self.factors.get(&layer).ok_or_else(|| Error::Batch(format!("there is no second moment of layer {layer}")))?;
            factor.solve_with_keys(weight, keys, &format!("the keys of layer {layer}"))
        })?;
        Ok(Edit::of(self, model, requests, session.seed(), told, deltas))
    }
}
