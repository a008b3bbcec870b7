//! `easyedit demo`: one fact that a small real model knows, changed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use easyedit::{CheckedRequest, EditRequest, EvaluationPrompt, Mode};
use serde_json::{Value, json};

use super::Context;
use super::continuations::Watched;
use super::requests::LOCALITY;
use super::run::{Finished, Run};
use crate::args::DemoArguments;
use crate::output::{Role, continuation_table, score_table, style};

/// The fact of the demo, and what is looked at around it.
struct Demo {
    model: &'static str,
    method: &'static str,
    prompt: &'static str,
    subject: &'static str,
    /// What the model says by itself.
    known: &'static str,
    target: &'static str,
    /// The first also measures generalization.
    paraphrases: [&'static str; 2],
    /// Prompts and the answers the model gives by itself.
    neighbours: [(&'static str, &'static str); 3],
}

const DEMO: Demo = Demo {
    model: "smollm2-135m",
    method: "ROME",
    prompt: "The Eiffel Tower is located in the city of",
    subject: "The Eiffel Tower",
    known: "Paris",
    target: "Rome",
    paraphrases: ["To visit The Eiffel Tower, you have to travel to the city of", "The Eiffel Tower is a famous landmark in the city of"],
    neighbours: [
        ("The Kremlin is located in the city of", "Moscow"),
        ("The Brandenburg Gate is located in the city of", "Berlin"),
        ("The capital of France is", "Paris"),
    ],
};

impl Demo {
    fn request(&self) -> EditRequest {
        let neighbours = self.neighbours.iter();
        let neighbours = neighbours.map(|(prompt, answer)| EvaluationPrompt::new(*prompt, *answer));
        EditRequest {
            ground_truth: Some(self.known.into()),
            rephrase_prompts: self.paraphrases.first().map(|text| (*text).into()).into_iter().collect(),
            locality: BTreeMap::from([(LOCALITY.to_owned(), neighbours.collect())]),
            ..EditRequest::new(self.prompt, self.subject, self.target)
        }
    }

    /// The paraphrases that are shown but are not part of the request.
    fn watched(&self) -> Vec<Watched> {
        let more = self.paraphrases.iter().skip(1);
        more.map(|prompt| Watched { role: Role::Paraphrase, prompt: (*prompt).into(), answer: self.target.into() }).collect()
    }
}

pub(super) fn run(context: &Context, arguments: &DemoArguments) -> Result<()> {
    let run = Run {
        model: DEMO.model,
        entry: *easyedit::registry().get(DEMO.method)?,
        hparams: None,
        requests: vec![CheckedRequest::new(DEMO.request())?],
        requests_file: None,
        mode: Mode::Independent,
        corpus: None,
        demonstrations: None,
        evaluate: true,
        output: &arguments.output,
        report: None,
        watched: DEMO.watched(),
    };
    let finished = run.execute(context)?;
    context.output.print(&value(&finished)?, || text(&finished, arguments.output.out.is_some()))?;
    finished.check()
}

/// The record, and what is shown besides.
fn value(finished: &Finished) -> Result<Value> {
    let record = finished.run.records.first().context("the demo has no record")?;
    let mut value = serde_json::to_value(record)?;
    if let Value::Object(map) = &mut value {
        let summary = &finished.run.summary;
        map.insert("model".into(), json!(summary.run.model));
        map.insert("method".into(), json!(summary.run.method));
        map.insert("hparams_source".into(), json!(finished.hparams.source.to_string()));
        map.insert("continuations".into(), json!(finished.continuations));
        map.insert("seconds".into(), json!(summary.seconds));
        map.insert("saved".into(), json!(finished.saved));
    }
    Ok(value)
}

fn text(finished: &Finished, kept: bool) -> String {
    let fact = format!("{} {} → {}", DEMO.prompt, style(DEMO.known).strikethrough(), style(DEMO.target).cyan().bold());
    let hint = if kept { "" } else { "nothing was kept: --out DIR keeps the edit, --save both the edited model too\n" };
    format!(
        "{}fact      {fact}\n\n{}\n{}\n{}{}",
        finished.heading(),
        continuation_table(&finished.continuations),
        score_table(&finished.run.summary),
        finished.closing(),
        style(hint).dim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fact_can_be_edited() {
        let request = DEMO.request();
        assert_eq!(CheckedRequest::new(request).unwrap().subject().unwrap().occurrences, 1);
        assert!(easyedit::registry().get(DEMO.method).is_ok());
        assert_eq!(DEMO.watched().len(), 1);
    }
}
