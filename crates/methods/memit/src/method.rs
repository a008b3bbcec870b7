use easyedit_core::{CheckedRequest, Edit, EditMethod, Hparams, LanguageModel, Method, ModelSpec, Result, Session};
use easyedit_kernels::{Cholesky, KeyWeight, MassEdit, Preparation, ResidualShare, ValueSite};
use serde_json::Value;

use crate::MemitHparams;

/// The method: [`MemitHparams`] and what all its edits share.
#[derive(Debug)]
pub struct Memit {
    hparams: MemitHparams,
    preparation: Preparation,
}

impl Method for Memit {
    type Hparams = MemitHparams;
    const SUMMARY: &'static str = "many facts at once, spread over the MLPs of several layers (Meng et al. 2023)";

    fn new(hparams: MemitHparams) -> Self {
        Self { hparams, preparation: Preparation::default() }
    }

    fn hparams_for(spec: &ModelSpec) -> MemitHparams {
        MemitHparams::for_spec(spec)
    }
}

impl Memit {
    /// Uses these context templates instead of writing new ones; each holds one `{}`, the first is `"{}"`.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`](easyedit_core::Error::Hparams) if they are not of that form.
    pub fn with_templates(mut self, templates: Vec<String>) -> Result<Self> {
        self.preparation.set_templates(templates)?;
        Ok(self)
    }

    /// Uses this factor of the second moment of layer `layer` instead of collecting statistics.
    pub fn with_moments(mut self, layer: usize, factor: Cholesky) -> Self {
        self.preparation.set_moments(layer, factor);
        self
    }
}

impl EditMethod for Memit {
    fn name(&self) -> &'static str {
        MemitHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["mom2_update_weight", "v_lr", "v_num_grad_steps"]
    }

    fn prepare(&mut self, model: &dyn LanguageModel, session: &Session) -> Result<()> {
        self.preparation.prepare(model, &self.hparams.settings(), true, session)
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        self.prepare(model, session)?;
        let settings = self.hparams.settings();
        let values = settings.value_config(ValueSite::BlockOutput);
        let mass =
            MassEdit { settings, preparation: &self.preparation, values, share: ResidualShare::Linear, weight_key: "mom2_update_weight" };
        let weight = KeyWeight::of(self.hparams.mom2_update_weight, self.hparams.target_share);
        let (deltas, told) = mass.run(model, requests, session, &mut |_, layer, keys| {
            let moments = self.preparation.moments(layer)?;
            moments.solve_with_keys(weight, keys, &format!("the keys of layer {layer}"))
        })?;
        Ok(Edit::of(self, model, requests, session.seed(), told, deltas))
    }
}
