//! From requests to a fine-tuned model, on an API that works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fast;
mod support;

use std::fs;

use easyedit_core::{OutputFolder, Silent};
use easyedit_ft_api::{DEFAULT_SYSTEM_PROMPT, Error, FineTuned, JobStatus, ProxyAddress};
use serde_json::{Value, json};

use fast::{hparams, method, requests, with_variables};
use support::proxy::Proxy;
use support::{KEY, Server};

#[test]
fn a_few_facts_become_a_model() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let api = method(hparams(&server, dir.path()));
    let tuned = api.edit(&requests(3), &Silent).unwrap();
    assert_eq!(tuned.model, "ft:gpt-3.5-turbo:acme::ftjob-1");
    assert_eq!((tuned.base.as_str(), tuned.job.as_str(), tuned.file.as_deref()), ("gpt-3.5-turbo", "ftjob-1", Some("file-1")));
    assert!(tuned.trained_tokens.unwrap() > 0 && !tuned.reused);

    let folder = tuned.folder.unwrap();
    assert!(folder.starts_with(dir.path().join("FT-Api")));
    let local = fs::read_to_string(folder.join("training.jsonl")).unwrap();
    let world = server.world();
    assert_eq!(local, world.files["file-1"]);
    assert_eq!(local.lines().count(), 10, "three facts are repeated to ten examples");
    let first: Value = serde_json::from_str(local.lines().next().unwrap()).unwrap();
    let messages = [("system", DEFAULT_SYSTEM_PROMPT), ("user", "City 0 lies in"), ("assistant", "Land 0")];
    assert_eq!(first, json!({ "messages": messages.map(|(role, content)| json!({ "role": role, "content": content })) }));
    drop(world);

    assert_eq!(server.bodies("POST", "/fine_tuning/jobs"), [json!({ "model": "gpt-3.5-turbo", "training_file": "file-1", "seed": 7 })]);
    assert_eq!(server.count("GET", "/files/"), 2, "it waits until the file is processed");
    let state: Value = serde_json::from_slice(&fs::read(folder.join("job.json")).unwrap()).unwrap();
    assert_eq!((&state["job"], &state["status"]), (&json!("ftjob-1"), &json!("succeeded")));
    assert_eq!(server.count("DELETE", ""), 0);
}

#[test]
fn the_same_edit_is_paid_for_once_and_another_is_another() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let api = method(hparams(&server, dir.path()));
    let first = api.edit(&requests(3), &Silent).unwrap();
    let again = api.edit(&requests(3), &Silent).unwrap();
    assert_eq!(FineTuned { reused: false, ..again.clone() }, first);
    assert!(again.reused);
    assert_eq!(server.count("POST", ""), 2, "one upload, one job");
    let other = api.edit(&requests(12), &Silent).unwrap();
    assert_ne!((&other.model, &other.folder), (&first.model, &first.folder));
    assert_eq!(server.world().files["file-2"].lines().count(), 12);
    let mut settings = hparams(&server, dir.path());
    settings.n_epochs = Some(2);
    settings.suffix = Some("mine".into());
    settings.system_prompt = "Marv is a factual chatbot that is also sarcastic.".into();
    let epochs = method(settings).edit(&requests(3), &Silent).unwrap();
    assert_ne!(epochs.folder, first.folder);
    assert!(server.world().files["file-3"].contains("Marv"));
    let body = server.bodies("POST", "/fine_tuning/jobs").pop().unwrap();
    assert_eq!(body["method"], json!({ "type": "supervised", "supervised": { "hyperparameters": { "n_epochs": 2 } } }));
    assert_eq!(body["suffix"], "mine");
}

#[test]
fn the_file_is_deleted_from_the_api_if_asked_for() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let mut settings = hparams(&server, dir.path());
    settings.delete_file = true;
    let tuned = method(settings).edit(&requests(1), &Silent).unwrap();
    assert!(server.world().files.is_empty());
    assert!(tuned.folder.unwrap().join("training.jsonl").is_file());
}

#[test]
fn a_job_can_be_looked_at_cancelled_and_taken_up_by_its_id() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let api = method(hparams(&server, dir.path()));
    api.edit(&requests(1), &Silent).unwrap();
    let taken = api.resume("ftjob-1", &Silent).unwrap();
    assert_eq!((taken.model.as_str(), taken.folder), ("ft:gpt-3.5-turbo:acme::ftjob-1", None));
    assert_eq!(api.events("ftjob-1").unwrap()[0].message, "Step 1/10");
    assert_eq!(api.job("ftjob-1").unwrap().status, JobStatus::Succeeded);
    assert_eq!(api.cancel("ftjob-1").unwrap().status, JobStatus::Cancelled);
    let unknown = api.resume("ftjob-9", &Silent).unwrap_err().to_string();
    assert!(unknown.contains("ftjob-9") && unknown.contains("404"), "{unknown}");
    assert!(api.resume("../files", &Silent).unwrap_err().to_string().contains("no id"));
}

#[test]
fn one_run_at_a_time_is_at_a_fine_tuning() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let api = method(hparams(&server, dir.path()));
    let folder = api.edit(&requests(1), &Silent).unwrap().folder.unwrap();
    let other = OutputFolder::claim(&folder).unwrap();
    assert!(matches!(api.edit(&requests(1), &Silent), Err(Error::Busy { .. })));
    drop(other);
    api.edit(&requests(1), &Silent).unwrap();
}

#[test]
fn the_proxy_of_the_hyperparameters_or_the_environment_is_used() {
    let server = Server::start(&[]);
    let host = server.base_url().trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let connect = format!("CONNECT {host} HTTP/1.1");
    let dir = tempfile::tempdir().unwrap();

    let own = Proxy::start();
    let mut settings = hparams(&server, &dir.path().join("own"));
    settings.proxy = Some(ProxyAddress::new(format!("http://me:pass4711@{}", own.address)));
    let api = method(settings);
    assert!(!format!("{api:?}").contains("pass4711"));
    api.edit(&requests(1), &Silent).unwrap();
    let asked = own.asked.lock().unwrap();
    assert!(!asked.is_empty() && asked.iter().all(|(line, user)| *line == connect && user.is_some()), "{asked:?}");

    let environment = Proxy::start();
    let address = format!("http://{}", environment.address);
    let settings = hparams(&server, &dir.path().join("environment"));
    with_variables(settings.clone(), &[("HTTPS_PROXY", &address)]).unwrap().edit(&requests(1), &Silent).unwrap();
    let through = environment.asked.lock().unwrap().len();
    assert!(through > 0);
    let direct = [("HTTPS_PROXY", address.as_str()), ("NO_PROXY", "example.com,127.0.0.1")];
    with_variables(settings, &direct).unwrap().edit(&requests(2), &Silent).unwrap();
    assert_eq!(environment.asked.lock().unwrap().len(), through);
}

#[test]
fn the_api_of_the_environment_is_used_unless_the_hyperparameters_name_one() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let mut settings = hparams(&server, dir.path());
    settings.base_url = None;
    let url = server.base_url();
    let api = with_variables(settings.clone(), &[("OPENAI_BASE_URL", &url)]).unwrap();
    assert_eq!(api.base_url(), url);
    api.edit(&requests(1), &Silent).unwrap();
    assert_eq!(with_variables(settings, &[]).unwrap().base_url(), "https://api.openai.com/v1");
}

#[test]
fn the_key_is_in_no_file_and_no_debug_output() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let api = method(hparams(&server, dir.path()));
    let tuned = api.edit(&requests(1), &Silent).unwrap();
    let folder = tuned.folder.clone().unwrap();
    let mut seen = format!("{api:?} {tuned:?} {}", serde_json::to_string(api.hparams()).unwrap());
    for file in ["training.jsonl", "job.json"] {
        seen += &fs::read_to_string(folder.join(file)).unwrap();
    }
    assert!(!seen.contains(KEY) && seen.contains("OPENAI_API_KEY"), "{seen}");
    let missing = easyedit_ft_api::FtApi::with_variables(api.hparams().clone(), 0, &|_| None).unwrap_err().to_string();
    assert!(missing.contains("OPENAI_API_KEY is not set"), "{missing}");
}
