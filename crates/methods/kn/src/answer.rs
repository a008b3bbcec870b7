//! The answer that neurons are looked for: the ground truth, or what the model says itself.

use easyedit_core::tokens::{TargetTokens, encode_prompt, encode_with_target, opening};
use easyedit_core::{CheckedRequest, GenerationConfig, LanguageModel, Result, generate};

/// What EasyEdit writes where no ground truth is known.
const NO_ANSWER: &str = "<|endoftext|>";

/// The old answer of a request.
pub(crate) struct Answer {
    /// As text.
    pub(crate) text: String,
    /// Whether it is the model's own, because the request gives none.
    pub(crate) is_models: bool,
    /// With each of the request's prompts, that of the request first.
    pub(crate) prompts: Vec<TargetTokens>,
}

impl Answer {
    /// The answer of `request`, also to its rephrased prompts if `rephrased`. If the request gives none, it is what the model says, in as
    /// many tokens as the new answer has.
    ///
    /// # Errors
    ///
    /// If a prompt or an answer has no tokens, or the model says nothing.
    pub(crate) fn of(model: &dyn LanguageModel, request: &CheckedRequest, rephrased: bool) -> Result<Self> {
        let named = |error: easyedit_core::Error| request.error(error.to_string());
        let mut prompts = vec![request.prompt().to_owned()];
        prompts.extend(request.rephrase_prompts().filter(|_| rephrased).map(str::to_owned));
        if let Some(text) = request.ground_truth().map(str::trim).filter(|text| *text != NO_ANSWER) {
            let prompts = prompts.iter().map(|prompt| encode_with_target(model, prompt, text));
            let prompts = prompts.collect::<Result<_>>().map_err(named)?;
            return Ok(Self { text: text.to_owned(), is_models: false, prompts });
        }
        let new = encode_with_target(model, request.prompt(), request.target_new()).map_err(named)?;
        let prompt = encode_prompt(model, request.prompt()).map_err(named)?;
        let said = generate(model, &[prompt], &GenerationConfig::greedy(new.target().len()))?.pop().map(|said| said.ids);
        let mut said = said.unwrap_or_default();
        if said.last().is_some_and(|last| model.tokenizer().eos().contains(last)) {
            said.pop();
        }
        if said.is_empty() {
            return Err(request.error("there is no ground_truth, and the model itself says nothing; give the old answer as ground_truth"));
        }
        let text = model.tokenizer().decode(&said)?.trim().to_owned();
        tracing::warn!(
            "request {}: there is no ground_truth; neurons are looked for that express the model's own answer {text:?}",
            request.case_id()
        );
        let prompts = prompts.iter().map(|prompt| {
            let (source, mut row) = opening(model, encode_prompt(model, prompt)?);
            let start = row.len();
            row.append(&said);
            Ok(TargetTokens { source, row, start })
        });
        Ok(Self { text, is_models: true, prompts: prompts.collect::<Result<_>>().map_err(named)? })
    }
}

/// The new answer behind the request's prompt in each of the contexts `templates`, the bare prompt first.
///
/// # Errors
///
/// If a prompt or the answer has no tokens.
pub(crate) fn new_answers(model: &dyn LanguageModel, request: &CheckedRequest, templates: &[String]) -> Result<Vec<TargetTokens>> {
    let rows = templates.iter().map(|template| template.replacen("{}", request.prompt(), 1));
    rows.map(|prompt| encode_with_target(model, &prompt, request.target_new())).collect()
}
