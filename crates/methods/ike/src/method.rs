use std::collections::BTreeMap;

use easyedit_core::{
    CheckedRequest, Edit, EditMethod, EditedModel, Error, Hparams, LanguageModel, Matrix, Method, ModelSpec, Result, Session,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::context::{Context, Fact, InContext, Shown};
use crate::demonstration::{PROMPT, fact_line};
use crate::{DemonstrationIndex, IkeHparams, Selected, Selection, by_ratio, nearest};

/// The method: [`IkeHparams`], and the index of demonstrations once it is there.
#[derive(Debug)]
pub struct Ike {
    hparams: IkeHparams,
    index: Option<DemonstrationIndex>,
    warned: bool,
}

impl Method for Ike {
    type Hparams = IkeHparams;
    const SUMMARY: &'static str = "the fact and demonstrations in the context, no weight changed (Zheng et al. 2023)";

    fn new(hparams: IkeHparams) -> Self {
        Self { hparams, index: None, warned: false }
    }

    fn hparams_for(spec: &ModelSpec) -> IkeHparams {
        IkeHparams::for_spec(spec)
    }
}

impl Ike {
    /// The demonstrations for some facts, the nearest first. None is of a fact that is itself edited.
    fn demonstrations(&self, requests: &[CheckedRequest], facts: &[Fact], seed: u64) -> Result<Vec<Shown>> {
        let Some(index) = &self.index else { return Ok(Vec::new()) };
        let queries: Vec<String> = facts.iter().map(|fact| format!("{}{PROMPT}{}\n\n", fact_line(&fact.text()), fact.prompt)).collect();
        let texts: Vec<&str> = queries.iter().map(String::as_str).collect();
        let similarities = nearest_fact(&index.similarities(&texts)?);
        let prompts: Vec<&str> = requests.iter().map(CheckedRequest::prompt).collect();
        let is_allowed = |one: usize| !index.is_about(one, &prompts);
        let IkeHparams { k, ratio, selection, .. } = self.hparams;
        let selected: Vec<Selected> = match selection {
            Selection::Nearest => nearest(&similarities, k, is_allowed),
            Selection::Ratio => by_ratio(index.demonstrations(), &similarities, k, ratio, drawn(seed, &queries), is_allowed),
        };
        let shown = |one: Selected| Some(Shown { text: index.demonstrations().get(one.index)?.text.clone(), similarity: one.similarity });
        Ok(selected.into_iter().filter_map(shown).collect())
    }
}

/// Of every demonstration, how near it is to the fact it is nearest to.
fn nearest_fact(similarities: &Matrix) -> Vec<f32> {
    let [_, strings] = similarities.shape();
    let mut best = vec![f32::NEG_INFINITY; strings];
    for row in similarities.values().chunks(strings.max(1)) {
        best.iter_mut().zip(row).for_each(|(best, value)| *best = best.max(*value));
    }
    best
}

/// A seed of the run's and the facts', so that not all facts get their kinds in one order.
fn drawn(seed: u64, queries: &[String]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    queries.iter().for_each(|query| hash.update(query));
    hash.finalize().into()
}

/// What the model reads with a context laid over it, and the model beneath: an overlay of this method that lies there is merged with it.
fn merged(own: Context, model: &dyn LanguageModel) -> Result<(Context, Box<dyn LanguageModel>)> {
    match model.overlaid() {
        Some(lower) if lower.method == IkeHparams::METHOD => {
            Ok((Context::of_overlay(lower.overlay)?.then(own), lower.beneath.boxed_clone()))
        }
        _ => Ok((own, model.boxed_clone())),
    }
}

impl EditMethod for Ike {
    fn name(&self) -> &'static str {
        IkeHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["k"]
    }

    fn prepare(&mut self, model: &dyn LanguageModel, session: &Session) -> Result<()> {
        if self.index.is_some() {
            return Ok(());
        }
        self.index = DemonstrationIndex::open(&self.hparams, &model.device(), session)?;
        if self.index.is_none() && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                "there are no records to make demonstrations of (train_data, or --demonstrations FILE): the new fact stands alone before the question"
            );
        }
        Ok(())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        if requests.is_empty() {
            return Err(Error::Batch("there are no requests to edit".into()));
        }
        self.prepare(model, session)?;
        let facts: Vec<Fact> =
            requests.iter().map(|request| Fact { prompt: request.prompt().to_owned(), target: request.target_new().to_owned() }).collect();
        let demonstrations = self.demonstrations(requests, &facts, session.seed())?;
        let own = Context::new(&self.hparams, demonstrations, facts);
        let overlay = own.to_overlay()?;
        let (whole, beneath) = merged(own, model)?;
        let fitted = whole.fitted(&*beneath)?;
        let told = json!({ "demonstrations": fitted.used, "left_out": fitted.left_out, "context_tokens": fitted.tokens });
        Ok(Edit::of(self, model, requests, session.seed(), told, BTreeMap::new()).with_overlay(overlay))
    }

    fn changes_weights(&self) -> bool {
        false
    }

    fn lay_over(&self, edit: &Edit, model: Box<dyn LanguageModel>) -> Result<Box<dyn LanguageModel>> {
        let overlay = edit.overlay.as_ref().ok_or_else(|| Error::Unsupported {
            method: self.name().to_owned(),
            message: "the edit holds nothing to lay over a model".into(),
        })?;
        let (context, beneath) = merged(Context::of_overlay(overlay)?, &*model)?;
        let fitted = context.fitted(&*beneath)?;
        if fitted.left_out > 0 {
            tracing::warn!(
                "{} has room for {} of {} demonstrations; the farthest are left out",
                beneath.spec().name,
                fitted.used,
                fitted.used + fitted.left_out
            );
        }
        Ok(Box::new(EditedModel::new(beneath, self.name(), context.to_overlay()?, InContext { text: fitted.text })))
    }
}
