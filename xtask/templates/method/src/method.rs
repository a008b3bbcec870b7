use std::collections::BTreeMap;

use easyedit_core::{CheckedRequest, Edit, EditMethod, Error, Hparams, LanguageModel, Method, ModelSpec, Result, Session, TensorDelta};
use easyedit_kernels::{Contexts, optimize_values};
use serde_json::{Value, json};

use crate::NewMethodHparams;
use crate::insertion::least_change;

/// The method: its hyperparameters, and nothing that edits share.
#[derive(Debug)]
pub struct NewMethod {
    hparams: NewMethodHparams,
}

impl Method for NewMethod {
    type Hparams = NewMethodHparams;
    const SUMMARY: &'static str = "one fact by the least change of one MLP";

    fn new(hparams: NewMethodHparams) -> Self {
        Self { hparams }
    }

    fn hparams_for(spec: &ModelSpec) -> NewMethodHparams {
        NewMethodHparams::for_spec(spec)
    }
}

impl EditMethod for NewMethod {
    fn name(&self) -> &'static str {
        NewMethodHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn prepare(&mut self, model: &dyn LanguageModel, _: &Session) -> Result<()> {
        model.spec().check_decoder_only(self.name())?;
        self.hparams.layers.iter().try_for_each(|layer| model.spec().check_layer(*layer))
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        self.prepare(model, session)?;
        let ([request], [layer]) = (requests, self.hparams.layers.as_slice()) else {
            let message = "edits one fact at a time; use the mode independent or sequential".to_owned();
            return Err(Error::Unsupported { method: self.name().to_owned(), message });
        };
        let contexts = Contexts::of(model, request, &["{}".to_owned()], self.hparams.fact_token)?;
        let mut found = None;
        optimize_values(model, &[&contexts], *layer, &self.hparams.value_config(), session.progress(), &mut |_, value, activations| {
            found = Some((value, activations));
            Ok(())
        })?;
        let (value, activations) = found.ok_or_else(|| request.error("no value was found"))?;
        // Row 0 is the prompt itself; the rows behind it are further contexts.
        let key = activations.keys.select_rows(&[0]);
        let name = model.spec().mlp_out_weight(*layer);
        let delta = least_change(key.values(), &value.delta, model.spec().parameter(&name)?.matrix_layout()?)?;
        let base = model.fingerprint(&name)?;
        let [value_norm, delta_norm] = value.norms();
        let told = json!([{
            "case_id": request.case_id(), "layer": layer, "losses": value.losses, "value_norm": value_norm, "delta_norm": delta_norm,
        }]);
        Ok(Edit::of(self, model, requests, session.seed(), told, BTreeMap::from([(name, TensorDelta::new(delta, base))])))
    }
}
