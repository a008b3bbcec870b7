use easyedit_core::tokens::SubjectPrompt;
use easyedit_core::{EditRequest, LanguageModel, Result};
use easyedit_kernels::{FactRow, ValueTargets};

use crate::RomeHparams;

/// The batch of contexts that a fact is optimised in: the prompt in every template, followed by the target, and last the subject
/// alone, whose meaning shall stay.
pub(crate) struct Contexts {
    /// One row per template, then the row of the subject alone.
    pub(crate) rows: Vec<FactRow>,
    /// What the loss reads.
    pub(crate) targets: ValueTargets,
    /// Number of templates.
    pub(crate) templates: usize,
    /// The fact token as text.
    pub(crate) fact_token: String,
    /// How often the subject occurs in the prompt.
    pub(crate) occurrences: usize,
}

impl Contexts {
    pub(crate) fn of(model: &dyn LanguageModel, request: &EditRequest, templates: &[String], hparams: &RomeHparams) -> Result<Self> {
        let tokenizer = model.tokenizer();
        let prompt = SubjectPrompt::of(request)?;
        let mut rows = Vec::with_capacity(templates.len() + 1);
        let mut predictions = Vec::with_capacity(templates.len() + 1);
        let mut fact_token = String::new();
        for template in templates {
            let (fact, target) = prompt.in_context(template).encode_with_target(tokenizer, hparams.fact_token, &request.target_new)?;
            if rows.is_empty() {
                fact_token = tokenizer.decode(&fact.ids[fact.fact_index..=fact.fact_index])?;
            }
            predictions.push(target.predicting().zip(target.target().iter().copied()).collect());
            rows.push(FactRow { ids: target.input().to_vec(), fact_index: fact.fact_index });
        }
        let mut essence = SubjectPrompt::from_parts("", prompt.subject(), " is a").encode(tokenizer, hparams.fact_token)?;
        // Only the distribution at the fact token is read: what follows cannot reach it.
        essence.ids.truncate(essence.fact_index + 1);
        rows.push(essence.into());
        predictions.push(Vec::new());
        let targets = ValueTargets { predictions, keep: Some(templates.len()) };
        Ok(Self { rows, targets, templates: templates.len(), fact_token, occurrences: prompt.occurrences })
    }
}
