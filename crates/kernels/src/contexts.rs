use easyedit_core::tokens::{FactToken, SubjectPrompt};
use easyedit_core::{CheckedRequest, LanguageModel, Result};

use crate::{FactRow, ValueTargets};

/// The batch of contexts that a fact is optimised in: the prompt in every template, followed by the target, and last the subject
/// alone, whose meaning shall stay.
#[derive(Clone, Debug)]
pub struct Contexts {
    /// `case_id` of the request.
    pub case_id: usize,
    /// One row per template, then the row of the subject alone.
    pub rows: Vec<FactRow>,
    /// What the loss reads.
    pub targets: ValueTargets,
    /// Number of templates.
    pub templates: usize,
    /// The fact token as text.
    pub fact_token: String,
    /// How often the subject occurs in the prompt.
    pub occurrences: usize,
}

impl Contexts {
    /// The contexts of a request in `templates`, of which the first is the bare prompt's `"{}"`.
    ///
    /// # Errors
    ///
    /// If the request has no subject, or the tokenizer refuses a text.
    pub fn of(model: &dyn LanguageModel, request: &CheckedRequest, templates: &[String], fact_token: FactToken) -> Result<Self> {
        let tokenizer = model.tokenizer();
        let prompt = request.subject()?;
        let mut rows = Vec::with_capacity(templates.len() + 1);
        let mut predictions = Vec::with_capacity(templates.len() + 1);
        let mut fact_text = String::new();
        for template in templates {
            let (fact, target) = prompt.in_context(template).encode_with_target(tokenizer, fact_token, request.target_new())?;
            if rows.is_empty() {
                fact_text = tokenizer.decode(fact.row.suffix(fact.fact_index).prefix(1).ids())?;
            }
            predictions.push(target.predicting().zip(target.target().iter().copied()).collect());
            rows.push(FactRow { row: target.input().to_row(), fact_index: fact.fact_index });
        }
        let mut essence = SubjectPrompt::from_parts("", prompt.subject(), " is a").encode(tokenizer, fact_token)?;
        // Only the distribution at the fact token is read: what follows cannot reach it.
        essence.row = essence.row.prefix(essence.fact_index + 1).to_row();
        rows.push(essence.into());
        predictions.push(Vec::new());
        let targets = ValueTargets { predictions, keep: Some(templates.len()) };
        Ok(Self {
            case_id: request.case_id(),
            rows,
            targets,
            templates: templates.len(),
            fact_token: fact_text,
            occurrences: prompt.occurrences,
        })
    }
}
