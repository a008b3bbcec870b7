use std::collections::BTreeMap;

use easyedit_core::{
    CheckedRequest, Edit, EditMethod, EditedModel, Error, Hparams, LanguageModel, Method, ModelSpec, Overlay, Result, Session, Stack,
};
use easyedit_kernels::sampled_fingerprint;
use serde_json::{Value, json};

use crate::codebook::{Codebook, EditId, Insertion, Rules, norm};
use crate::lookup::Lookup;
use crate::stored::without;
use crate::{GraceHparams, value};

/// The method: [`GraceHparams`].
#[derive(Debug)]
pub struct Grace {
    hparams: GraceHparams,
}

impl Method for Grace {
    type Hparams = GraceHparams;
    const SUMMARY: &'static str =
        "a codebook beside one MLP, weights unchanged; edits without end, each can be taken out (Hartvigsen et al. 2023)";

    fn new(hparams: GraceHparams) -> Self {
        Self { hparams }
    }

    fn hparams_for(spec: &ModelSpec) -> GraceHparams {
        GraceHparams::for_spec(spec)
    }
}

impl Grace {
    fn overlay<'a>(&self, edit: &'a Edit) -> Result<&'a Overlay> {
        let message = || "the edit holds no codebook".to_owned();
        edit.overlay.as_ref().ok_or_else(|| Error::Unsupported { method: self.name().to_owned(), message: message() })
    }

    /// What `request` brings into a codebook over `model`, and what there is to tell about the search.
    fn insertion(
        &self,
        model: &dyn LanguageModel,
        request: &CheckedRequest,
        rules: Rules,
        session: &Session,
    ) -> Result<(Insertion, Value)> {
        let found = value::find(model, request, rules, &self.hparams, session)?;
        if !found.predicted {
            tracing::warn!(
                "request {}: no value was found that makes the model say {:?}; raise n_iter or edit_lr, or choose an earlier layer",
                request.case_id(),
                request.target_new()
            );
        }
        let key_norm = norm(&found.key);
        let insertion = Insertion {
            id: EditId { case_id: request.case_id(), prompt: request.prompt().to_owned() },
            label: request.target_new().trim().to_owned(),
            key: found.key,
            value: found.value,
            radius: self.hparams.radius(key_norm),
        };
        let told = json!({
            "case_id": request.case_id(),
            "stack": rules.stack,
            "layer": rules.layer,
            "losses": found.losses,
            "predicted": found.predicted,
            "key_norm": key_norm,
            "value_norm": norm(&insertion.value),
            "radius": insertion.radius,
        });
        Ok((insertion, told))
    }
}

/// The codebook with these rules that lies uppermost over `model`, if one does, and the model beneath it.
fn uppermost(model: &dyn LanguageModel, rules: Rules) -> Result<(Codebook, &dyn LanguageModel)> {
    if let Some(overlaid) = model.overlaid()
        && overlaid.method.eq_ignore_ascii_case(GraceHparams::METHOD)
    {
        let (codebook, _) = Codebook::from_overlay(overlaid.overlay, model.spec())?;
        if codebook.rules() == rules {
            return Ok((codebook, overlaid.beneath));
        }
    }
    Ok((Codebook::new(rules), model))
}

impl EditMethod for Grace {
    fn name(&self) -> &'static str {
        GraceHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["eps", "edit_lr", "n_iter"]
    }

    fn prepare(&mut self, model: &dyn LanguageModel, _: &Session) -> Result<()> {
        let rules = self.hparams.rules(model.spec())?;
        if rules.stack == Stack::Decoder && rules.layer + 1 == model.spec().n_layers {
            tracing::warn!("the codebook stands beside the last layer, from which only an answer's first token can be changed");
        }
        Ok(())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        let rules = self.hparams.rules(model.spec())?;
        // Keys and values are those of the model without the codebook, so that they do not depend on what else is in it.
        let (mut merged, beneath) = uppermost(model, rules)?;
        let mut own = Codebook::new(rules);
        let mut all_told = Vec::with_capacity(requests.len());
        session.progress().begin("finding values", Some(requests.len() as u64));
        let outcome = requests.iter().try_for_each(|request| -> Result<()> {
            let (insertion, mut told) = self.insertion(beneath, request, rules, session)?;
            told["outcome"] = json!(merged.insert(insertion.clone()));
            own.insert(insertion);
            all_told.push(told);
            session.progress().step(1)?;
            Ok(())
        });
        session.progress().end();
        outcome?;
        let overlay = own.to_overlay(&sampled_fingerprint(beneath)?)?;
        Ok(Edit::of(self, model, requests, session.seed(), Value::Array(all_told), BTreeMap::new()).with_overlay(overlay))
    }

    fn changes_weights(&self) -> bool {
        false
    }

    fn lay_over(&self, edit: &Edit, model: Box<dyn LanguageModel>) -> Result<Box<dyn LanguageModel>> {
        let (codebook, made_for) = Codebook::from_overlay(self.overlay(edit)?, model.spec())?;
        let fingerprint = sampled_fingerprint(&*model)?;
        if fingerprint != made_for {
            tracing::warn!(
                "the edit of {} was made for {}, and {} has other weights: its keys may lie elsewhere",
                edit.method,
                edit.model,
                model.spec().name
            );
        }
        let (mut merged, beneath) = uppermost(&*model, codebook.rules())?;
        merged.merge(&codebook);
        let beneath = beneath.boxed_clone();
        match Lookup::new(&merged, &beneath.device()) {
            Some(lookup) => Ok(Box::new(EditedModel::new(beneath, self.name(), merged.to_overlay(&fingerprint)?, lookup))),
            None => Ok(beneath),
        }
    }

    fn forget(&self, edit: &Edit, forgotten: &[usize]) -> Result<Edit> {
        let mut edit = edit.clone();
        edit.overlay = Some(without(self.overlay(&edit)?, edit.requests.len(), forgotten)?);
        edit.drop_requests(forgotten);
        Ok(edit)
    }
}
