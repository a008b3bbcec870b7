//! An API that does not work, in every way there is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fast;
mod support;

use std::time::{Duration, Instant};

use easyedit_core::Silent;
use easyedit_ft_api::{Error, FtApi, FtApiHparams};
use tempfile::TempDir;

use fast::{hparams, method, requests};
use support::{Fault, KEY, Server};

/// An API, a folder for results, and the method.
fn setting(change: impl FnOnce(&mut FtApiHparams)) -> (Server, TempDir, FtApi) {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let mut settings = hparams(&server, dir.path());
    change(&mut settings);
    let api = method(settings);
    (server, dir, api)
}

fn fails(api: &FtApi) -> Error {
    api.edit(&requests(1), &Silent).unwrap_err()
}

#[track_caller]
fn holds(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(!text.contains(KEY), "{text}");
}

#[test]
fn a_busy_api_is_asked_again_when_it_says() {
    let (server, _dir, api) = setting(|_| {});
    let busy = Fault::Status(429, r#"{"error":{"message":"Rate limit reached"}}"#, vec![("Retry-After", "0.2".into())]);
    server.plan("POST", "/files", 1, busy);
    let begun = Instant::now();
    api.edit(&requests(1), &Silent).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    assert_eq!(server.count("POST", "/files"), 2);
}

#[test]
fn an_api_that_asks_for_too_much_patience_is_given_up_at_once() {
    let (server, _dir, api) = setting(|_| {});
    server.plan("POST", "/files", 9, Fault::Status(429, "{}", vec![("Retry-After", "3600".into())]));
    let begun = Instant::now();
    holds(&fails(&api), &["upload", "429", "3600 s", "max_retry_wait_seconds"]);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(server.count("POST", "/files"), 1);
}

#[test]
fn no_quota_is_not_waited_for() {
    let (server, _dir, api) = setting(|_| {});
    let body = r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    server.plan("POST", "/files", 9, Fault::Status(429, body, vec![]));
    let error = fails(&api);
    assert!(matches!(error, Error::Refused { status: 429, .. }));
    holds(&error, &["quota"]);
    assert_eq!(server.count("POST", "/files"), 1);
}

#[test]
fn a_broken_api_is_tried_as_often_as_set() {
    let (server, _dir, api) = setting(|_| {});
    server.plan("POST", "/files", 2, Fault::Status(500, "<html>oops</html>", vec![]));
    api.edit(&requests(1), &Silent).unwrap();
    assert_eq!(server.count("POST", "/files"), 3);
    server.plan("POST", "/files", 99, Fault::Status(503, "overloaded", vec![]));
    let error = api.edit(&requests(2), &Silent).unwrap_err();
    assert!(matches!(error, Error::GaveUp { attempts: 3, .. }), "{error:?}");
    holds(&error, &["upload the training file", "3 attempts", "503", "overloaded"]);
}

#[test]
fn a_refusal_is_told_at_once_in_the_apis_words() {
    let (server, _dir, api) = setting(|settings| settings.model_name = "gpt-9".into());
    holds(&fails(&api), &["start the fine-tuning of gpt-9", "404", "does not exist or cannot be fine-tuned"]);
    assert_eq!(server.count("POST", "/fine_tuning/jobs"), 1);
}

#[test]
fn a_wrong_key_is_told_without_the_key_even_if_the_api_repeats_it() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let wrong = "sk-wrong-0815";
    let api = FtApi::with_variables(hparams(&server, dir.path()), 0, &|name| (name == "OPENAI_API_KEY").then(|| wrong.to_owned()));
    let error = fails(&api.unwrap());
    holds(&error, &["401", "Incorrect API key", "[hidden key]", "$OPENAI_API_KEY"]);
    assert!(!format!("{error} {error:?}").contains(wrong), "{error:?}");
    assert_eq!(server.count("POST", ""), 1);
}

#[test]
fn an_api_that_does_not_answer_is_given_up() {
    let (server, _dir, api) = setting(|settings| {
        settings.request_timeout_seconds = 0.1;
        settings.max_retries = 1;
    });
    server.plan("POST", "/files", 9, Fault::Slow(Duration::from_millis(600)));
    let begun = Instant::now();
    let error = fails(&api);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    holds(&error, &["upload", "2 attempts", "no answer in time"]);
}

#[test]
fn an_api_that_is_not_there_is_given_up() {
    let (server, _dir, api) = setting(|_| {});
    drop(server);
    holds(&fails(&api), &["upload", "3 attempts", "the connection failed"]);
}

#[test]
fn an_answer_that_is_cut_off_is_asked_for_again() {
    let (server, _dir, api) = setting(|_| {});
    server.plan("POST", "/files", 1, Fault::CutBody);
    server.plan("GET", "/files", 1, Fault::CutBefore);
    server.plan("GET", "/fine_tuning/jobs/ftjob-1", 1, Fault::CutBody);
    api.edit(&requests(1), &Silent).unwrap();
    assert_eq!(server.world().jobs.len(), 1);
}

#[test]
fn a_job_whose_creation_is_not_answered_is_not_created_twice() {
    for fault in [Fault::CutBody, Fault::CutAfter] {
        let (server, _dir, api) = setting(|_| {});
        server.plan("POST", "/fine_tuning/jobs", 1, fault.clone());
        let tuned = api.edit(&requests(1), &Silent).unwrap();
        assert_eq!(tuned.job, "ftjob-1");
        assert_eq!(server.count("POST", "/fine_tuning/jobs"), 1, "{fault:?}: the job is found, not made again");
    }
    let (server, _dir, api) = setting(|_| {});
    server.plan("POST", "/fine_tuning/jobs", 1, Fault::CutBefore);
    api.edit(&requests(1), &Silent).unwrap();
    assert_eq!((server.count("POST", "/fine_tuning/jobs"), server.world().jobs.len()), (2, 1));
}

#[test]
fn a_run_that_ends_before_it_hears_of_its_job_finds_it_the_next_time() {
    let (server, _dir, api) = setting(|settings| settings.max_retries = 0);
    server.plan("POST", "/fine_tuning/jobs", 1, Fault::CutAfter);
    holds(&fails(&api), &["start the fine-tuning", "1 attempt:"]);
    let tuned = api.edit(&requests(1), &Silent).unwrap();
    assert_eq!(tuned.job, "ftjob-1");
    assert_eq!((server.count("POST", "/files"), server.count("POST", "/fine_tuning/jobs")), (1, 1));
}

#[test]
fn answers_that_are_none_are_errors_at_once() {
    for (body, part) in
        [("{\"id\": \"fi", "no JSON"), ("<html>welcome</html>", "welcome"), ("{\"object\": \"file\"}", "id"), ("[]", "not as the API")]
    {
        let (server, _dir, api) = setting(|_| {});
        server.plan("POST", "/files", 9, Fault::Body(body));
        let error = fails(&api);
        assert!(matches!(error, Error::Answer { .. }), "{error:?}");
        holds(&error, &["upload the training file", part]);
        assert_eq!(server.count("POST", "/files"), 1);
    }
}

#[test]
fn a_failed_job_is_told_with_its_reason_and_the_next_run_begins_anew() {
    let (server, _dir, api) = setting(|_| {});
    server.world().states = vec!["validating_files", "running", "failed"];
    let error = fails(&api);
    assert!(matches!(error, Error::Job { .. }), "{error:?}");
    holds(&error, &["ftjob-1", "failed", "The examples break the rules (training_file)"]);
    server.world().states = vec!["running", "succeeded"];
    assert_eq!(api.edit(&requests(1), &Silent).unwrap().job, "ftjob-2");
}

#[test]
fn a_cancelled_job_is_told() {
    let (server, _dir, api) = setting(|_| {});
    server.world().states = vec!["queued", "cancelled"];
    holds(&fails(&api), &["ftjob-1", "cancelled"]);
}

#[test]
fn a_job_that_takes_too_long_is_named_and_waited_for_again() {
    let (server, _dir, api) = setting(|settings| settings.job_timeout_seconds = 0.1);
    server.world().states = vec!["validating_files", "running", "paused", "running"];
    let error = fails(&api);
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    holds(&error, &["ftjob-1", "still running", "FtApi::resume(\"ftjob-1\")"]);
    server.world().states = vec!["succeeded"];
    let tuned = api.edit(&requests(1), &Silent).unwrap();
    assert_eq!((tuned.job.as_str(), tuned.reused), ("ftjob-1", false));
    assert_eq!(server.count("POST", ""), 2, "one upload, one job");
}

#[test]
fn an_api_that_goes_away_while_a_job_runs_leaves_the_way_back() {
    let (server, _dir, api) = setting(|_| {});
    server.plan("GET", "/fine_tuning/jobs/ftjob-1", 6, Fault::Status(502, "bad gateway", vec![]));
    let error = fails(&api);
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    holds(&error, &["ftjob-1", "502", "goes on at the API", "FtApi::resume"]);
    let holding = api.edit(&requests(1), &Silent);
    assert!(holding.is_err());
    assert_eq!(api.edit(&requests(1), &Silent).unwrap().job, "ftjob-1");
    assert_eq!(server.world().jobs.len(), 1);
}

#[test]
fn a_file_that_the_api_cannot_use_or_never_reads_is_told() {
    let (server, _dir, api) = setting(|settings| settings.job_timeout_seconds = 0.1);
    server.world().file_states = vec!["uploaded", "error"];
    holds(&fails(&api), &["file-1", "line 1 is odd"]);
    server.world().file_states = vec!["error", "uploaded"];
    server.world().file_polls = 0;
    holds(&fails(&api), &["file-2", "not processed"]);
}

#[test]
fn a_file_that_is_gone_is_uploaded_again_and_a_job_that_is_gone_is_told() {
    let (server, dir, api) = setting(|settings| settings.max_retries = 0);
    server.plan("POST", "/fine_tuning/jobs", 1, Fault::Status(500, "", vec![]));
    fails(&api);
    server.world().files.clear();
    server.world().states = vec!["running", "failed", "running"];
    holds(&fails(&api), &["ftjob-1", "failed"]);
    assert_eq!(server.count("POST", "/files"), 2);
    server.world().states = vec!["running"];
    let mut short = api.hparams().clone();
    short.job_timeout_seconds = 0.05;
    let short = method(short);
    holds(&fails(&short), &["ftjob-2", "still running"]);
    server.world().jobs.clear();
    holds(&fails(&short), &["job.json", "knows no job ftjob-2", "paid for again"]);
    assert!(dir.path().join("FT-Api").is_dir());
}

#[test]
fn a_success_without_a_model_is_an_error() {
    let (server, _dir, api) = setting(|_| {});
    server.plan("GET", "/fine_tuning/jobs/ftjob-1", 1, Fault::Body(r#"{"id":"ftjob-1","status":"succeeded"}"#));
    holds(&fails(&api), &["ftjob-1", "names no fine-tuned model"]);
}

#[test]
fn the_deleting_of_a_file_may_fail() {
    let (server, _dir, api) = setting(|settings| settings.delete_file = true);
    server.plan("DELETE", "/files", 9, Fault::Status(500, "", vec![]));
    assert_eq!(api.edit(&requests(1), &Silent).unwrap().job, "ftjob-1");
}
