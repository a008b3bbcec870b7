//! What the API knows and does: files, jobs, models.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::KEY;
use super::echo::Echo;
use super::http::Asked;

const MODEL: &str = "gpt-3.5-turbo";

/// A fine-tuning job.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: String,
    pub file: String,
    pub polls: usize,
    pub cancelled: bool,
}

#[derive(Default)]
pub struct World {
    /// Training files by id.
    pub files: BTreeMap<String, String>,
    pub jobs: Vec<Job>,
    /// Answers of the base model by prompt.
    pub answers: BTreeMap<String, String>,
    /// Answers that a fine-tuned model gives besides those it was trained on.
    pub learned: BTreeMap<String, String>,
    /// States of a job, one for each time that it is asked about; the last stays.
    pub states: Vec<&'static str>,
    /// States of a file likewise.
    pub file_states: Vec<&'static str>,
    /// Whether answers repeat the key.
    pub echo: Option<Echo>,
    /// How often files were asked about.
    pub file_polls: usize,
}

impl World {
    pub fn new(answers: &[(&str, &str)]) -> Self {
        Self {
            answers: table(answers),
            states: vec!["validating_files", "queued", "running", "succeeded"],
            file_states: vec!["uploaded", "processed"],
            ..Self::default()
        }
    }

    /// What a fine-tuned model will know besides.
    pub fn learn(&mut self, answers: &[(&str, &str)]) {
        self.learned = table(answers);
    }

    pub fn act(&mut self, asked: &Asked) -> (u16, Value) {
        if asked.authorization != format!("Bearer {KEY}") {
            // Some APIs repeat the key that they do not take.
            let given = asked.authorization.trim_start_matches("Bearer ");
            return error(401, &format!("Incorrect API key provided: {given}."));
        }
        let (path, _query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (asked.method.as_str(), parts.as_slice()) {
            ("POST", ["files"]) => self.upload(asked),
            ("GET", ["files", id]) => match self.files.contains_key(*id) {
                true => {
                    let status = at(&self.file_states, self.file_polls);
                    self.file_polls += 1;
                    (200, json!({ "id": id, "object": "file", "status": status, "status_details": "line 1 is odd" }))
                }
                false => error(404, &format!("No such File object: {id}")),
            },
            ("DELETE", ["files", id]) => match self.files.remove(*id) {
                Some(_) => (200, json!({ "id": id, "object": "file", "deleted": true })),
                None => error(404, &format!("No such File object: {id}")),
            },
            ("POST", ["fine_tuning", "jobs"]) => self.create(asked),
            ("GET", ["fine_tuning", "jobs"]) => {
                let jobs: Vec<Value> = self.jobs.iter().rev().map(|job| self.job(job)).collect();
                (200, json!({ "object": "list", "data": jobs, "has_more": false }))
            }
            ("GET" | "POST", ["fine_tuning", "jobs", id, rest @ ..]) => {
                let Some(index) = self.jobs.iter().position(|job| job.id == *id) else {
                    return error(404, &format!("Could not find fine tune: {id}"));
                };
                match (asked.method.as_str(), rest) {
                    ("GET", []) => {
                        let told = self.job(&self.jobs[index]);
                        self.jobs[index].polls += 1;
                        (200, told)
                    }
                    ("POST", ["cancel"]) => {
                        self.jobs[index].cancelled = true;
                        (200, self.job(&self.jobs[index]))
                    }
                    ("GET", ["events"]) => {
                        let event = json!({ "object": "fine_tuning.job.event", "level": "info", "message": "Step 1/10", "created_at": 1 });
                        (200, json!({ "object": "list", "data": [event] }))
                    }
                    _ => error(404, "no such endpoint"),
                }
            }
            ("POST", ["chat", "completions"]) => self.chat(asked),
            _ => error(404, &format!("Invalid URL ({} {})", asked.method, asked.path)),
        }
    }

    fn upload(&mut self, asked: &Asked) -> (u16, Value) {
        let Some(boundary) = asked.content_type.strip_prefix("multipart/form-data; boundary=") else {
            return error(400, "no multipart form");
        };
        let body = String::from_utf8(asked.body.clone()).unwrap();
        let Some(inner) = body.strip_suffix(&format!("\r\n--{boundary}--\r\n")) else { return error(400, "the form does not end") };
        let mut parts = BTreeMap::new();
        for part in format!("\r\n{inner}").split(&format!("\r\n--{boundary}\r\n")).skip(1) {
            let (head, content) = part.split_once("\r\n\r\n").unwrap();
            let name = head.split("name=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            if name == "file" && !head.contains("filename=\"") {
                return error(400, "the file has no name");
            }
            parts.insert(name.to_owned(), content.to_owned());
        }
        if parts.get("purpose").map(String::as_str) != Some("fine-tune") {
            return error(400, "'purpose' is not fine-tune");
        }
        let Some(text) = parts.remove("file") else { return error(400, "'file' is a required property") };
        if let Err(message) = examples(&text) {
            return error(400, &message);
        }
        let id = format!("file-{}", self.files.len() + 1);
        self.files.insert(id.clone(), text);
        (200, json!({ "id": id, "object": "file", "purpose": "fine-tune", "status": self.file_states[0] }))
    }

    fn create(&mut self, asked: &Asked) -> (u16, Value) {
        let body: Value = serde_json::from_slice(&asked.body).unwrap();
        if body["model"] != MODEL {
            return error(404, &format!("The model {} does not exist or cannot be fine-tuned", body["model"]));
        }
        let file = body["training_file"].as_str().unwrap_or_default();
        let Some(text) = self.files.get(file) else { return error(400, &format!("invalid training_file: {file}")) };
        let count = examples(text).unwrap().len();
        if count < 10 {
            return error(400, &format!("Training file has {count} example(s), but must have at least 10 examples"));
        }
        let job = Job { id: format!("ftjob-{}", self.jobs.len() + 1), file: file.to_owned(), polls: 0, cancelled: false };
        self.jobs.push(job.clone());
        (200, self.job(&job))
    }

    fn status(&self, job: &Job) -> &'static str {
        if job.cancelled { "cancelled" } else { at(&self.states, job.polls) }
    }

    fn job(&self, job: &Job) -> Value {
        let status = self.status(job);
        let done = status == "succeeded";
        let tokens = self.files.get(&job.file).map(|text| text.split_whitespace().count());
        json!({
            "id": job.id,
            "object": "fine_tuning.job",
            "model": MODEL,
            "training_file": job.file,
            "status": status,
            "fine_tuned_model": done.then(|| name(job)),
            "trained_tokens": tokens.filter(|_| done),
            "error": match status {
                "failed" => json!({ "code": "invalid_training_file", "message": "The examples break the rules", "param": "training_file" }),
                _ => json!({ "code": null, "message": null, "param": null }),
            },
        })
    }

    fn chat(&self, asked: &Asked) -> (u16, Value) {
        let body: Value = serde_json::from_slice(&asked.body).unwrap();
        let model = body["model"].as_str().unwrap_or_default();
        let tuned = self.jobs.iter().find(|job| name(job) == model && self.status(job) == "succeeded");
        if model != MODEL && tuned.is_none() {
            return error(404, &format!("The model `{model}` does not exist"));
        }
        assert_eq!(body["temperature"], 0);
        let messages = body["messages"].as_array().unwrap();
        let prompt = messages.last().unwrap()["content"].as_str().unwrap();
        assert_eq!(messages.last().unwrap()["role"], "user");
        let trained = tuned.and_then(|job| examples(self.files.get(&job.file)?).ok()?.find(prompt));
        let learned = tuned.and_then(|_| self.learned.get(prompt).cloned());
        let text = trained.or(learned).or_else(|| self.answers.get(prompt).cloned());
        let content = text.unwrap_or_else(|| "I do not know.".to_owned());
        (
            200,
            json!({ "object": "chat.completion", "model": model, "choices": [{ "index": 0, "finish_reason": "stop",
            "message": { "role": "assistant", "content": content } }] }),
        )
    }
}

/// Name of the model that a job makes.
fn name(job: &Job) -> String {
    format!("ft:{MODEL}:acme::{}", job.id)
}

fn at(states: &[&'static str], index: usize) -> &'static str {
    states[index.min(states.len() - 1)]
}

/// Prompt and answer of each line.
fn examples(text: &str) -> Result<Examples, String> {
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let fail = |what: &str| format!("Invalid file format. Line {}: {what}", number + 1);
        let value: Value = serde_json::from_str(line).map_err(|_| fail("no JSON"))?;
        let messages = value["messages"].as_array().ok_or_else(|| fail("no messages"))?;
        let roles: Vec<&str> = messages.iter().filter_map(|message| message["role"].as_str()).collect();
        if roles != ["system", "user", "assistant"] && roles != ["user", "assistant"] {
            return Err(fail("roles"));
        }
        let content = |index: usize| messages[index]["content"].as_str().map(str::to_owned).ok_or_else(|| fail("no content"));
        lines.push((content(roles.len() - 2)?, content(roles.len() - 1)?));
    }
    Ok(Examples(lines))
}

struct Examples(Vec<(String, String)>);

impl Examples {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn find(self, prompt: &str) -> Option<String> {
        self.0.into_iter().find(|(user, _)| user == prompt).map(|(_, answer)| answer)
    }
}

fn table(answers: &[(&str, &str)]) -> BTreeMap<String, String> {
    answers.iter().map(|(prompt, answer)| ((*prompt).to_owned(), (*answer).to_owned())).collect()
}

fn error(status: u16, message: &str) -> (u16, Value) {
    (status, json!({ "error": { "message": message, "type": "invalid_request_error", "param": null, "code": null } }))
}
