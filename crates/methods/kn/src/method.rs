use std::collections::BTreeMap;

use easyedit_core::{CheckedRequest, Edit, EditMethod, EditedModel, Error, Hparams, LanguageModel, Method, ModelSpec, Result, Session};
use easyedit_kernels::{TemplateConfig, context_templates};
use serde_json::{Value, json};

use crate::answer::{Answer, new_answers};
use crate::attribution::attribute;
use crate::embedding_change::{Changes, changes_of_columns};
use crate::hparams::KnHparams;
use crate::line_search::{Found, Reached, smallest_factor};
use crate::neurons::{Neuron, coarse, refined};
use crate::patch::{Patch, PatchData};

/// The method: [`KnHparams`].
#[derive(Debug)]
pub struct Kn {
    hparams: KnHparams,
    /// Contexts in which a new answer is to be said; none before they are written.
    templates: Vec<String>,
}

impl Method for Kn {
    type Hparams = KnHparams;
    const SUMMARY: &'static str = "knowledge neurons: found by integrated gradients, edited, suppressed or enhanced (Dai et al. 2022)";

    fn new(hparams: KnHparams) -> Self {
        Self { hparams, templates: Vec::new() }
    }

    fn hparams_for(spec: &ModelSpec) -> KnHparams {
        KnHparams::for_spec(spec)
    }
}

impl Kn {
    /// The neurons that express the old answer of `request`, and what there is to tell about them.
    fn neurons(&self, model: &dyn LanguageModel, request: &CheckedRequest, session: &Session) -> Result<(Answer, Vec<Neuron>, Value)> {
        let answer = Answer::of(model, request, self.hparams.refine)?;
        let mut sets = Vec::with_capacity(answer.prompts.len());
        let mut probabilities = Vec::with_capacity(answer.prompts.len());
        for tokens in &answer.prompts {
            let attribution =
                attribute(model, tokens, self.hparams.steps, session.progress()).map_err(|error| request.error(error.to_string()))?;
            sets.push(coarse(&attribution, self.hparams.adaptive_threshold));
            probabilities.push(attribution.probabilities);
        }
        let found: Vec<usize> = sets.iter().map(Vec::len).collect();
        let mut neurons = match sets.len() {
            1 => sets.pop().unwrap_or_default(),
            _ => refined(&sets, self.hparams.p),
        };
        neurons.truncate(self.hparams.max_neurons.unwrap_or(usize::MAX));
        if neurons.is_empty() {
            return Err(request.error(format!(
                "no neuron raises the probability of {:?}; give the answer the model gives as ground_truth, or lower p",
                answer.text
            )));
        }
        let told = json!({
            "case_id": request.case_id(),
            "answer": answer.text,
            "answer_from": if answer.is_models { "the model" } else { "ground_truth" },
            "probabilities": probabilities,
            "found_by_prompt": found,
            "neurons": neurons,
        });
        Ok((answer, neurons, told))
    }

    /// Adds the change for `request` to `changes`, as large as its new answer needs. Tells what came of it.
    fn change(
        &self,
        model: &dyn LanguageModel,
        request: &CheckedRequest,
        (answer, neurons): (&Answer, &[Neuron]),
        changes: &mut Changes,
    ) -> Result<Found> {
        let named = |error: Error| request.error(error.to_string());
        let rows = new_answers(model, request, &self.templates).map_err(named)?;
        let (Some(old), Some(new)) = (answer.prompts.first(), rows.first()) else { return Err(request.error("there is no prompt")) };
        let columns = changes_of_columns(model, request, neurons, [old, new], &self.hparams)?;
        let reached = |factor: f64| Reached::by(&*changes.with(model, neurons, &columns, factor)?.applied(model)?, &rows);
        let found = match self.hparams.line_search {
            true => smallest_factor(self.hparams.margin, reached)?,
            false => {
                let reached = reached(1.0)?;
                Found { factor: 1.0, reached, works: reached.predicted >= 1.0, passes: 1 }
            }
        };
        if !found.works {
            tracing::warn!(
                "request {}: no factor of lambda_1 and lambda_2 that was tried makes the model say {:?}; the best is {:.4}, with which {:.0} % of its \
                 tokens are predicted; raise max_neurons or lower adaptive_threshold",
                request.case_id(),
                request.target_new(),
                found.factor,
                100.0 * found.reached.predicted
            );
        }
        *changes = changes.with(model, neurons, &columns, found.factor)?;
        Ok(found)
    }

    /// Tells of each request of several how its answer is said with the changes of all of them, as later ones can undo earlier ones.
    fn tell_together(&self, model: &dyn LanguageModel, requests: &[CheckedRequest], changes: &Changes, told: &mut [Value]) -> Result<()> {
        let changed = changes.applied(model)?;
        let mut lost = 0;
        for (request, told) in requests.iter().zip(told) {
            let reached = Reached::by(&*changed, &new_answers(model, request, &self.templates)?)?;
            lost += usize::from(reached.predicted < 1.0);
            told["change"]["together"] = json!(reached);
        }
        if lost > 0 {
            tracing::warn!(
                "the changes of {} requests disturb one another: {lost} of the new answers are not said with all of them; edit fewer facts at once",
                requests.len()
            );
        }
        Ok(())
    }

    fn warn(&self, requests: &[CheckedRequest]) {
        if self.hparams.steps == 1 {
            tracing::warn!(
                "steps is 1: each attribution is one derivative, taken at the whole activation (EasyEdit takes it at 0); the paper's are 20"
            );
        }
        if self.hparams.refine && requests.iter().any(|request| request.rephrase_prompts().next().is_none()) {
            tracing::warn!("refine compares the neurons of several prompts, and a request without rephrase_prompt has one");
        }
    }
}

impl EditMethod for Kn {
    fn name(&self) -> &'static str {
        KnHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["lambda_2", "adaptive_threshold"]
    }

    fn prepare(&mut self, model: &dyn LanguageModel, session: &Session) -> Result<()> {
        let lengths = &self.hparams.context_template_length_params;
        if !self.changes_weights() || lengths.is_empty() {
            self.templates = vec!["{}".to_owned()];
        } else if self.templates.is_empty() {
            let config = TemplateConfig { lengths: lengths.clone(), seed: session.seed() };
            self.templates = context_templates(model, &config, session.cache(), session.progress())?;
        }
        Ok(())
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        self.prepare(model, session)?;
        self.warn(requests);
        let mut all_told = Vec::with_capacity(requests.len());
        let mut all_neurons = Vec::with_capacity(requests.len());
        let mut changes = Changes::default();
        for request in requests {
            let (answer, neurons, mut told) = self.neurons(model, request, session)?;
            if self.changes_weights() {
                told["change"] = json!(self.change(model, request, (&answer, &neurons), &mut changes)?);
            }
            all_told.push(told);
            all_neurons.push(neurons);
        }
        if self.changes_weights() && requests.len() > 1 {
            self.tell_together(model, requests, &changes, &mut all_told)?;
        }
        let edit = |deltas| Edit::of(self, model, requests, session.seed(), Value::Array(all_told), deltas);
        match self.changes_weights() {
            true => Ok(edit(changes.deltas(model)?)),
            false => Ok(edit(BTreeMap::new()).with_overlay(PatchData { mode: self.hparams.mode, neurons: all_neurons }.to_overlay()?)),
        }
    }

    fn changes_weights(&self) -> bool {
        self.hparams.mode.factor().is_none()
    }

    fn lay_over(&self, edit: &Edit, model: Box<dyn LanguageModel>) -> Result<Box<dyn LanguageModel>> {
        let overlay = edit.overlay.clone().ok_or_else(|| Error::Unsupported {
            method: self.name().to_owned(),
            message: "the edit changes weights and has nothing to lay over a model".into(),
        })?;
        let patch = Patch::new(&PatchData::read(&overlay)?, &*model)?;
        Ok(Box::new(EditedModel::new(model, self.name(), overlay, patch)))
    }

    fn forget(&self, edit: &Edit, forgotten: &[usize]) -> Result<Edit> {
        let Some(overlay) = &edit.overlay else {
            return Err(Error::Unsupported {
                method: self.name().to_owned(),
                message:
                    "made one change of its weights for all facts, which cannot be taken apart; edit the model again with the other facts"
                        .into(),
            });
        };
        let mut data = PatchData::read(overlay)?;
        let mut place = 0;
        data.neurons.retain(|_| {
            place += 1;
            !forgotten.contains(&(place - 1))
        });
        let mut edit = Edit { overlay: Some(data.to_overlay()?), ..edit.clone() };
        edit.drop_requests(forgotten);
        Ok(edit)
    }
}
