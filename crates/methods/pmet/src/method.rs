use easyedit_core::{CheckedRequest, Edit, EditMethod, Hparams, LanguageModel, Method, ModelSpec, Result, Session};
use easyedit_kernels::{KeyWeight, MassEdit, OncePredicted, Preparation, ResidualShare, ValueConfig, ValueSite};
use serde_json::Value;

use crate::PmetHparams;

/// From the pass on in which the target is the most probable continuation, its likelihood counts a tenth, and a small divergence is enough.
const ONCE_PREDICTED: OncePredicted = OncePredicted { nll_factor: 0.1, kl_threshold: 0.01 };

/// The method: [`PmetHparams`] and what all its edits share.
#[derive(Debug)]
pub struct Pmet {
    hparams: PmetHparams,
    preparation: Preparation,
}

impl Method for Pmet {
    type Hparams = PmetHparams;
    const SUMMARY: &'static str = "as MEMIT, with attention optimised beside the MLP that is edited (Li et al. 2024)";

    fn new(hparams: PmetHparams) -> Self {
        Self { hparams, preparation: Preparation::default() }
    }

    fn hparams_for(spec: &ModelSpec) -> PmetHparams {
        PmetHparams::for_spec(spec)
    }
}

impl EditMethod for Pmet {
    fn name(&self) -> &'static str {
        PmetHparams::METHOD
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
        let values = ValueConfig {
            nll_factor: self.hparams.nll_loss_factor,
            once_predicted: Some(ONCE_PREDICTED),
            ..settings.value_config(ValueSite::MlpAndAttentionOutput)
        };
        let mass = MassEdit {
            settings,
            preparation: &self.preparation,
            values,
            share: ResidualShare::SquareRoot,
            weight_key: "mom2_update_weight",
        };
        let weight = KeyWeight::of(self.hparams.mom2_update_weight, self.hparams.target_share);
        let (deltas, told) = mass.run(model, requests, session, &mut |_, layer, keys| {
            let moments = self.preparation.moments(layer)?;
            moments.solve_with_keys(weight, keys, &format!("the keys of layer {layer}"))
        })?;
        Ok(Edit::of(self, model, requests, session.seed(), told, deltas))
    }
}
