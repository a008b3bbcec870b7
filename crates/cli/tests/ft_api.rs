//! `easyedit edit --method FT-Api` against an API on the loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "../../methods/ft-api/tests/support/mod.rs"]
mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Sandbox};
use serde_json::{Value, json};
use support::echo::{Echo, forms, headers, told};
use support::proxy::Proxy;
use support::{Fault, KEY, Server};

const HPARAMS: &str = "alg_name: FT-Api\nmodel_name: gpt-3.5-turbo\napi_key: $OPENAI_API_KEY\nresults_dir: results\npoll_seconds: 0.005\n\
                       retry_seconds: 0.002\nmax_retries: 2\nrequest_timeout_seconds: 2\n";

const EIFFEL: &str = "The Eiffel Tower is located in the city of";
const KREMLIN: &str = "The Kremlin is located in the city of";

fn setting() -> (Server, Sandbox) {
    let server = Server::start(&[(EIFFEL, "Paris"), (KREMLIN, "Moscow")]);
    let sandbox = Sandbox::new();
    sandbox.write("api.yaml", HPARAMS);
    (server, sandbox)
}

fn run(server: &Server, sandbox: &Sandbox, more: &[&str]) -> Run {
    let url = server.base_url();
    sandbox.run_with(&[("OPENAI_API_KEY", KEY), ("OPENAI_BASE_URL", &url)], &[&arguments()[..], more].concat())
}

fn arguments() -> Vec<&'static str> {
    let mut all = vec!["edit", "--method", "FT-Api", "--model", "gpt-3.5-turbo", "--hparams", "api.yaml"];
    all.extend(["--prompt", EIFFEL, "--subject", "The Eiffel Tower", "--target", "Rome"]);
    all.extend(["--locality", "The Kremlin is located in the city of::Moscow"]);
    all
}

/// Every file of the sandbox, as text.
fn files(sandbox: &Sandbox) -> String {
    let texts = sandbox.listing().into_iter().filter_map(|path| std::fs::read(path).ok());
    texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

#[test]
fn a_fact_is_taught_to_a_model_behind_an_api() {
    let (server, sandbox) = setting();
    let done = run(&server, &sandbox, &["--report", "report.jsonl", "-vv"]).success();
    let text = done.stdout();
    for part in
        ["gpt-3.5-turbo → ft:gpt-3.5-turbo:acme::ftjob-1", "ftjob-1", "tokens trained", "Paris", "Rome", "reliability", "0.00 → 1.00"]
    {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(!text.contains("teacher-forced  ") && text.contains("teacher-forced scores need logits"), "{text}");
    let report = std::fs::read_to_string(sandbox.path("report.jsonl")).unwrap();
    let lines: Vec<Value> = report.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["free_decoding"]["post"]["rewrite_acc"], json!([1.0]));
    assert_eq!(lines[1]["summary"]["edited_model"], "ft:gpt-3.5-turbo:acme::ftjob-1");

    let again = run(&server, &sandbox, &["--json"]).success();
    let value = again.json();
    assert_eq!((&value["fine_tuned"]["reused"], &value["fine_tuned"]["job"]), (&json!(true), &json!("ftjob-1")));
    assert_eq!(value["continuations"].as_array().unwrap().len(), 2);
    assert_eq!(server.world().jobs.len(), 1);

    let seen = [text, done.stderr(), again.stdout(), again.stderr(), files(&sandbox)].concat();
    assert!(!seen.contains(KEY), "{seen}");
    assert!(seen.contains("has begun"), "the log tells of the job: {seen}");
}

#[test]
fn facts_of_a_file_are_taught_together() {
    let (server, sandbox) = setting();
    let facts: Vec<Value> =
        (0..12).map(|i| json!({ "case_id": i, "prompt": format!("City {i} lies in"), "subject": format!("City {i}"), "target_new": format!("Land {i}") })).collect();
    sandbox.write("facts.json", &json!(facts).to_string());
    let url = server.base_url();
    let variables = [("OPENAI_API_KEY", KEY), ("OPENAI_BASE_URL", url.as_str())];
    // The built-in file of the model is found by its name; its polls are slow, so the job is done at once here.
    server.world().states = vec!["succeeded"];
    server.world().file_states = vec!["processed"];
    let arguments = ["edit", "--method", "ft_api", "--model", "gpt-3.5-turbo", "--requests", "facts.json", "--mode", "batch"];
    let text = sandbox.run_with(&variables, &arguments).success().stdout();
    assert!(text.contains("built-in FT-Api/gpt-3.5-turbo.yaml") && text.contains("facts     12, trained on together"), "{text}");
    assert!(text.contains("Land 11"), "{text}");
    assert_eq!(server.world().files["file-1"].lines().count(), 12);
}

#[test]
fn a_key_in_a_file_is_refused_and_a_missing_one_told() {
    let (server, sandbox) = setting();
    sandbox.write("api.yaml", &HPARAMS.replace("$OPENAI_API_KEY", KEY));
    let refused = run(&server, &sandbox, &[]);
    assert!(!refused.stderr().contains(KEY));
    refused.fails(1, &["api.yaml", "api_key", "has no place in a file", "OPENAI_API_KEY"]);
    sandbox.write("api.yaml", HPARAMS);
    sandbox.run(&arguments()).fails(1, &["OPENAI_API_KEY is not set"]);
    assert_eq!(server.count("POST", ""), 0);
}

#[test]
fn flags_that_mean_nothing_here_are_refused() {
    let (server, sandbox) = setting();
    for (flags, parts) in [
        (&["--out", "x", "--save", "checkpoint"][..], ["--save", "stays at the API"]),
        (&["--out", "x"], ["--out", "results_dir"]),
        (&["--corpus", "self"], ["--corpus", "no statistics"]),
        (&["--mode", "sequential"], ["--mode sequential", "batch"]),
        (&["--device", "cuda"], ["--device", "nothing is computed here"]),
    ] {
        run(&server, &sandbox, flags).fails(2, &parts);
    }
    assert_eq!(server.count("POST", ""), 0);
    assert!(!sandbox.path("x").exists());
}

#[test]
fn a_job_that_fails_is_an_error_and_leaves_no_report() {
    let (server, sandbox) = setting();
    server.world().states = vec!["running", "failed"];
    run(&server, &sandbox, &["--report", "report.jsonl"]).fails(1, &["ftjob-1 failed", "The examples break the rules"]);
    assert!(!sandbox.listing().iter().any(|path| path.to_string_lossy().contains("report")));
}

#[test]
fn a_killed_run_is_taken_up_and_not_paid_for_twice() {
    let (server, sandbox) = setting();
    server.world().states = vec!["running"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_easyedit"))
        .current_dir(sandbox.path(""))
        .env_clear()
        .env("OPENAI_API_KEY", KEY)
        .env("OPENAI_BASE_URL", server.base_url())
        .args(arguments())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while server.count("GET", "/fine_tuning/jobs/ftjob-1") < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the job does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    server.world().states = vec!["succeeded"];
    let value = run(&server, &sandbox, &["--json"]).success().json();
    assert_eq!(value["fine_tuned"]["job"], "ftjob-1");
    assert_eq!((server.count("POST", "/files"), server.count("POST", "/fine_tuning/jobs")), (1, 1));
}

/// A run against an API that repeats the key; all that it says and writes.
fn seen_of(server: &Server, more: &[&str], sandbox: &Sandbox) -> String {
    let url = server.base_url();
    let variables = [("OPENAI_API_KEY", KEY), ("OPENAI_BASE_URL", url.as_str()), ("EASYEDIT_LOG", "trace")];
    let done = sandbox.run_with(&variables, &[&arguments()[..], &["--report", "report.jsonl"], more].concat());
    [done.stdout(), done.stderr(), files(sandbox)].concat()
}

/// The beginning of what was seen, for a message.
fn shown(seen: &str) -> String {
    seen.chars().take(3000).collect()
}

/// No form of the key is in `seen`, nor a piece of one.
#[track_caller]
fn holds_no_key(seen: &str, case: &str) {
    let lower = seen.to_lowercase();
    for form in forms() {
        let form = form.to_lowercase();
        let piece = form.len() * 12 / KEY.len();
        let found = (0..=form.len() - piece).find(|start| lower.contains(&form[*start..start + piece]));
        assert_eq!(found, None, "{case}: {form} is in:\n{}", shown(seen));
    }
    assert!(seen.contains("[hidden key]"), "{case}: the key was repeated: {}", shown(seen));
}

#[test]
fn a_key_that_the_api_repeats_in_every_answer_is_nowhere() {
    for (echo, states) in [
        (Echo::Texts, vec!["running", "succeeded"]),
        (Echo::Texts, vec!["running", "failed"]),
        (Echo::Everything, vec!["running", "succeeded"]),
    ] {
        for more in [&["-vv"][..], &["--json"]] {
            let (server, sandbox) = setting();
            server.world().echo = Some(echo);
            server.world().states = states.clone();
            let seen = seen_of(&server, more, &sandbox);
            let case = format!("{echo:?} {states:?} {more:?}");
            holds_no_key(&seen, &case);
            let made = seen.contains("ft:gpt-3.5-turbo:acme::ftjob-1");
            assert_eq!(made, echo == Echo::Texts && states[1] == "succeeded", "{case}: {}", shown(&seen));
        }
    }
}

#[test]
fn a_key_that_the_api_repeats_in_an_error_is_nowhere_wherever_it_is_cut() {
    let leaked = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let html = |before: usize| leaked(format!("<html>{}{}", "x".repeat(before), told()));
    let json = leaked(json!({ "error": { "message": told(), "code": KEY, "type": KEY } }).to_string());
    let bare = leaked(json!({ "error": told() }).to_string());
    let bodies = [json, bare, html(0), html(170), leaked(format!("{{\"error\": \"{}", told()))];
    for (path, bodies) in [("/files", &bodies[..]), ("/fine_tuning/jobs", &bodies[3..]), ("/chat/completions", &bodies[3..])] {
        for body in bodies.iter().copied() {
            for status in [200, 302, 401, 500] {
                let (server, sandbox) = setting();
                server.plan("POST", path, 99, Fault::Status(status, body, headers()));
                let seen = seen_of(&server, &["-vv"], &sandbox);
                let case = format!("{status} of {path}: {body}");
                // Of a long page the beginning is told, where the key need not be.
                holds_no_key(&format!("{seen}[hidden key]"), &case);
                assert!(seen.contains(&status.to_string()) || status == 200, "{case}: {}", shown(&seen));
            }
        }
    }
}

#[test]
fn the_proxy_of_the_environment_is_used() {
    let (server, sandbox) = setting();
    let proxy = Proxy::start();
    let (url, address) = (server.base_url(), format!("http://{}", proxy.address));
    let variables = [("OPENAI_API_KEY", KEY), ("OPENAI_BASE_URL", url.as_str()), ("HTTPS_PROXY", address.as_str())];
    sandbox.run_with(&variables, &arguments()).success();
    assert!(proxy.asked.lock().unwrap().iter().all(|(line, _)| line.starts_with("CONNECT 127.0.0.1:")));
    assert!(!proxy.asked.lock().unwrap().is_empty());
}

#[test]
fn the_method_is_listed() {
    let (_server, sandbox) = setting();
    let methods = sandbox.run(&["methods"]).success().stdout();
    assert!(methods.contains("FT-Api") && methods.contains("OPENAI_API_KEY"), "{methods}");
}
