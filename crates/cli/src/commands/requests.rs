//! The facts to edit, from the flags or from a file, checked before any model is opened.

use anyhow::Result;
use easyedit::{CheckedRequest, EditRequest, EvaluationPrompt};

use crate::args::EditArguments;

/// Key under which `--locality` prompts are evaluated; the one of the datasets.
pub(super) const LOCALITY: &str = "neighborhood";

/// The requests of `edit`.
pub(super) fn requests(arguments: &EditArguments) -> Result<Vec<CheckedRequest>> {
    let requests = match (&arguments.requests, &arguments.prompt) {
        (Some(path), _) => easyedit::data::read_requests(path)?,
        (None, Some(prompt)) => vec![of_flags(arguments, prompt)],
        (None, None) => Vec::new(),
    };
    Ok(CheckedRequest::all(requests)?)
}

fn of_flags(arguments: &EditArguments, prompt: &str) -> EditRequest {
    let mut request = EditRequest {
        prompt: prompt.to_owned(),
        subject: arguments.subject.clone(),
        target_new: arguments.target.clone().unwrap_or_default(),
        rephrase_prompts: arguments.rephrase.iter().cloned().collect(),
        ..EditRequest::default()
    };
    if !arguments.locality.is_empty() {
        let prompts = arguments.locality.iter();
        let prompts = prompts.map(|(prompt, answer)| EvaluationPrompt::new(prompt.clone(), answer.clone()));
        request.locality.insert(LOCALITY.to_owned(), prompts.collect());
    }
    request
}
