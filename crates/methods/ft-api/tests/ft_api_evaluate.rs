//! Base and fine-tuned model, asked and scored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fast;
mod support;

use std::collections::BTreeMap;

use easyedit_core::{CheckedRequest, EditRequest, EvaluationPrompt, Silent};
use easyedit_ft_api::{DEFAULT_SYSTEM_PROMPT, Error};
use serde_json::json;

use fast::{hparams, method, requests};
use support::{Fault, KEY, Server};

const EIFFEL: &str = "The Eiffel Tower is located in the city of";
const REPHRASED: &str = "In which city is the Eiffel Tower?";
const KREMLIN: &str = "The Kremlin is located in the city of";
const ATOMIUM: &str = "The Atomium is located in the city of";
const SPOKEN: &str = "People around the Eiffel Tower speak";

/// An API whose base model knows where things are, and whose fine-tuned models have one side effect.
fn server() -> Server {
    let server = Server::start(&[
        (EIFFEL, "The Eiffel Tower is located in the city of Paris."),
        (REPHRASED, "Paris"),
        (KREMLIN, "Moscow, Russia"),
        (SPOKEN, "French"),
    ]);
    server.world().learn(&[(REPHRASED, "Rome."), (KREMLIN, "Moscow"), (ATOMIUM, "Rome")]);
    server
}

fn ask(prompt: &str, ground_truth: &str) -> EvaluationPrompt {
    EvaluationPrompt::new(prompt, ground_truth)
}

fn request() -> CheckedRequest {
    CheckedRequest::new(EditRequest {
        case_id: 3,
        rephrase_prompts: vec![REPHRASED.into()],
        locality: BTreeMap::from([("near".into(), vec![ask(KREMLIN, "Moscow"), ask(ATOMIUM, "Brussels")])]),
        portability: BTreeMap::from([("hop".into(), vec![ask(SPOKEN, "Italian")])]),
        ..EditRequest::new(EIFFEL, "The Eiffel Tower", "Rome")
    })
    .unwrap()
}

#[test]
fn a_run_asks_both_models_and_scores_what_they_say() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let api = method(hparams(&server, dir.path()));
    let run = api.run(&[request()], true, &Silent).unwrap();
    let record = serde_json::to_value(&run.records[0]).unwrap();
    assert_eq!((&record["pre"], &record["post"]), (&json!({}), &json!({})), "an API gives no teacher-forced scores");
    assert_eq!(
        record["free_decoding"],
        json!({
            "pre": { "rewrite_acc": [0.0], "rephrase_acc": [0.0], "portability": { "hop_acc": [0.0] } },
            "post": {
                "rewrite_acc": [1.0],
                "rephrase_acc": [1.0],
                "locality": { "near_acc": [1.0, 0.0] },
                "portability": { "hop_acc": [0.0] },
            },
        })
    );
    assert_eq!((record["case_id"].as_u64(), record["seed"].as_u64()), (Some(3), Some(7)));
    let summary = serde_json::to_value(&run.summary).unwrap();
    assert_eq!(summary["edited_model"], "ft:gpt-3.5-turbo:acme::ftjob-1");
    assert_eq!((&summary["method"], &summary["mode"], &summary["model"]), (&json!("FT-Api"), &json!("batch"), &json!("gpt-3.5-turbo")));
    assert_eq!(summary["free_decoding"]["post"]["locality"]["near_acc"], 0.5);
    assert_eq!(summary["hparams"]["api_key"], "$OPENAI_API_KEY");
    assert!(!format!("{summary} {record} {run:?}").contains(KEY));
    assert_eq!(run.exchanges[EIFFEL].before, "Paris.", "the repeated prompt is left out");
    assert_eq!(run.exchanges[ATOMIUM].after, "Rome");

    let asked = server.bodies("POST", "/chat/completions");
    assert_eq!(asked.len(), 10, "five prompts, each once to each model");
    let one = asked.iter().find(|body| body["messages"][1]["content"] == SPOKEN && body["model"] == "gpt-3.5-turbo").unwrap();
    assert_eq!(one["messages"][0], json!({ "role": "system", "content": DEFAULT_SYSTEM_PROMPT }));
    assert_eq!((&one["temperature"], &one["max_tokens"], &one["seed"]), (&json!(0), &json!(32), &json!(7)));
}

#[test]
fn the_scores_do_not_depend_on_how_many_questions_are_asked_at_a_time() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let requests = [request(), requests(1)[0].clone()];
    let runs = [1, 8].map(|parallel_requests| {
        let mut settings = hparams(&server, dir.path());
        settings.parallel_requests = parallel_requests;
        settings.retry_seconds = 0.001;
        server.plan("POST", "/chat", 2, Fault::CutBody);
        let api = method(settings);
        let tuned = api.edit(&requests, &Silent).unwrap();
        api.evaluate(&tuned, &requests, &Silent).unwrap()
    });
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0].records[1].free_decoding.post.rewrite_acc, [1.0]);
    assert_eq!(server.world().jobs.len(), 1);
}

#[test]
fn a_model_that_does_not_exist_is_found_before_anything_is_paid_for() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let mut unknown = hparams(&server, dir.path());
    unknown.model_name = "gpt-9".into();
    let error = method(unknown).run(&[request()], true, &Silent).unwrap_err();
    assert!(matches!(error, Error::Refused { status: 404, .. }) && error.to_string().contains("ask gpt-9"), "{error}");
    assert_eq!(server.count("POST", "/files"), 0);
}

#[test]
fn an_answer_without_text_is_a_wrong_answer_and_one_without_a_message_an_error() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let api = method(hparams(&server, dir.path()));
    let tuned = api.edit(&requests(1), &Silent).unwrap();
    server.plan("POST", "/chat", 2, Fault::Body(r#"{"choices":[{"message":{"content":null,"refusal":"I cannot say"}}]}"#));
    let evaluated = api.evaluate(&tuned, &requests(1), &Silent).unwrap();
    assert_eq!(evaluated.records[0].free_decoding.post.rewrite_acc, [0.0]);
    assert_eq!(evaluated.exchanges["City 0 lies in"].after, "I cannot say");
    server.plan("POST", "/chat", 1, Fault::Body(r#"{"choices":[]}"#));
    let error = api.evaluate(&tuned, &requests(1), &Silent).unwrap_err().to_string();
    assert!(error.contains("ask gpt-3.5-turbo") && error.contains("no message"), "{error}");
}

#[test]
fn a_model_that_was_deleted_since_is_told() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let api = method(hparams(&server, dir.path()));
    let first = api.edit(&[request()], &Silent).unwrap();
    server.world().jobs.clear();
    let error = api.run(&[request()], true, &Silent).unwrap_err().to_string();
    for part in ["job.json", first.model.as_str(), "does not exist", "paid for again"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn without_evaluation_nothing_is_asked() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let run = method(hparams(&server, dir.path())).run(&[request()], false, &Silent).unwrap();
    assert_eq!(server.count("POST", "/chat"), 0);
    assert!(run.exchanges.is_empty() && run.records[0].free_decoding.is_empty());
}
