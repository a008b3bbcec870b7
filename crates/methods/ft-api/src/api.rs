//! The endpoints of OpenAI's REST API that a fine-tuning needs.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::{Call, Client};
use crate::job::{Job, JobEvent};
use crate::multipart::Form;
use crate::secret::HIDDEN;
use crate::training::conversation;
use crate::{Error, FtApiHparams, Result};

/// The API takes seeds below 2^31.
const SEED_MASK: u64 = 0x7fff_ffff;
/// Jobs and events that are asked for at once.
const PAGE: usize = 100;

/// An uploaded file.
#[derive(Debug, Deserialize)]
pub(crate) struct RemoteFile {
    pub(crate) id: String,
    /// `uploaded`, `processed` or `error`; some APIs leave it out.
    #[serde(default)]
    pub(crate) status: Option<String>,
    #[serde(default)]
    pub(crate) status_details: Option<String>,
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
}

#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    seed: u64,
}

impl Api {
    pub(crate) fn new(client: Client, seed: u64) -> Self {
        Self { client, seed: seed & SEED_MASK }
    }

    pub(crate) fn base(&self) -> &str {
        self.client.base()
    }

    /// `POST /files`
    pub(crate) fn upload(&self, name: &str, content: &[u8]) -> Result<RemoteFile> {
        let action = "upload the training file".to_owned();
        let form = Form::new("fine-tune", name, content);
        let file: RemoteFile = read(self.client.send(&Call::upload("/files".into(), form, action.clone()))?, &action)?;
        usable("the file's id", &file.id, &action)?;
        Ok(file)
    }

    /// `GET /files/{id}`
    pub(crate) fn file(&self, id: &str) -> Result<RemoteFile> {
        let action = format!("look at the file {id}");
        read(self.client.send(&Call::get(format!("/files/{}", checked(id)?), action.clone()))?, &action)
    }

    /// `DELETE /files/{id}`
    pub(crate) fn delete_file(&self, id: &str) -> Result<()> {
        self.client.send(&Call::delete(format!("/files/{}", checked(id)?), format!("delete the file {id}"))).map(|_| ())
    }

    /// `POST /fine_tuning/jobs`, once: when an attempt fails, the job may have been created all the same, so it is looked for.
    pub(crate) fn create_job(&self, file: &str, hparams: &FtApiHparams) -> Result<Job> {
        let action = format!("start the fine-tuning of {}", hparams.model_name);
        let mut body = json!({ "model": hparams.model_name, "training_file": file, "seed": self.seed });
        if let Some(object) = body.as_object_mut() {
            if let Some(suffix) = &hparams.suffix {
                object.insert("suffix".into(), json!(suffix));
            }
            if let Some(n_epochs) = hparams.n_epochs {
                let method = json!({ "type": "supervised", "supervised": { "hyperparameters": { "n_epochs": n_epochs } } });
                object.insert("method".into(), method);
            }
        }
        let call = Call::post("/fine_tuning/jobs".into(), &body, action.clone());
        job(self.client.send_unless(&call, &mut || self.find(file))?, &action)
    }

    /// A job on this training file that is under way or done.
    pub(crate) fn job_of_file(&self, file: &str) -> Result<Option<Job>> {
        self.find(file)?.map(|found| job(found, "read the list of jobs")).transpose()
    }

    fn find(&self, file: &str) -> Result<Option<Value>> {
        let action = "read the list of jobs";
        let answer = self.client.send(&Call::get(format!("/fine_tuning/jobs?limit={PAGE}"), action.to_owned()))?;
        let page: Page<Value> = read(answer, action)?;
        let ours = |job: &Value| {
            job.get("training_file").and_then(Value::as_str) == Some(file) && Job::deserialize(job).is_ok_and(|job| !job.status.is_lost())
        };
        Ok(page.data.into_iter().find(ours))
    }

    /// `GET /fine_tuning/jobs/{id}`
    pub(crate) fn job(&self, id: &str) -> Result<Job> {
        let action = format!("look at the fine-tuning job {id}");
        job(self.client.send(&Call::get(format!("/fine_tuning/jobs/{}", checked(id)?), action.clone()))?, &action)
    }

    /// `POST /fine_tuning/jobs/{id}/cancel`
    pub(crate) fn cancel(&self, id: &str) -> Result<Job> {
        let action = format!("cancel the fine-tuning job {id}");
        let call = Call::post(format!("/fine_tuning/jobs/{}/cancel", checked(id)?), &json!({}), action.clone());
        job(self.client.send(&call)?, &action)
    }

    /// `GET /fine_tuning/jobs/{id}/events`: the last hundred, the newest first.
    pub(crate) fn events(&self, id: &str) -> Result<Vec<JobEvent>> {
        let action = format!("read the events of {id}");
        let answer = self.client.send(&Call::get(format!("/fine_tuning/jobs/{}/events?limit={PAGE}", checked(id)?), action.clone()))?;
        Ok(read::<Page<JobEvent>>(answer, &action)?.data)
    }

    /// The newest event, if the API tells it at the first attempt.
    pub(crate) fn last_event(&self, id: &str) -> Option<JobEvent> {
        let call = Call::get(format!("/fine_tuning/jobs/{}/events?limit=1", checked(id).ok()?), String::new());
        let page: Page<JobEvent> = Page::deserialize(self.client.try_once(&call)?).ok()?;
        page.data.into_iter().next()
    }

    /// `POST /chat/completions`: the likeliest answer to a prompt.
    pub(crate) fn chat(&self, model: &str, prompt: &str, hparams: &FtApiHparams) -> Result<String> {
        let action = format!("ask {model}");
        let body = json!({
            "model": model,
            "messages": conversation(&hparams.system_prompt, prompt),
            "temperature": 0,
            "seed": self.seed,
            "max_tokens": hparams.max_new_tokens,
        });
        let answer = self.client.send(&Call::post("/chat/completions".into(), &body, action.clone()))?;
        let message = answer.pointer("/choices/0/message").ok_or_else(|| Error::answer(&action, "the answer has no message"))?;
        match message.get("content") {
            Some(Value::String(text)) => Ok(text.clone()),
            // A refusal is an answer without content.
            None | Some(Value::Null) => Ok(message.get("refusal").and_then(Value::as_str).unwrap_or_default().to_owned()),
            Some(_) => Err(Error::answer(&action, "the answer's content is no text")),
        }
    }
}

fn read<T: DeserializeOwned>(answer: Value, action: &str) -> Result<T> {
    T::deserialize(answer).map_err(|error| Error::answer(action, format!("the answer is not as the API documents it: {error}")))
}

/// A job whose id and models can be kept and asked for.
fn job(answer: Value, action: &str) -> Result<Job> {
    let job: Job = read(answer, action)?;
    usable("the job's id", &job.id, action)?;
    for name in [&job.model, &job.fine_tuned_model, &job.training_file].into_iter().flatten() {
        if name.contains(HIDDEN) {
            return Err(Error::answer(action, format!("the API names {name}: a name that repeats the key is neither kept nor asked for")));
        }
    }
    Ok(job)
}

/// Refuses an id that no later request could name.
fn usable(what: &str, id: &str, action: &str) -> Result<()> {
    checked(id).map(|_| ()).map_err(|_| Error::answer(action, format!("{what} is {id:?}, which cannot stand in an address")))
}

/// An id that can stand in a path.
fn checked(id: &str) -> Result<&str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '.');
    let fine = !id.is_empty() && id.len() <= 200 && id.chars().all(fits) && id.chars().any(|c| c != '.');
    if fine { Ok(id) } else { Err(Error::setting("id", format!("{id:?} is no id of a job or a file"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_nowhere_else() {
        assert!(checked("ftjob-abc123").is_ok() && checked("file-abc_1.x:2").is_ok());
        for wrong in ["", "..", "a/b", "a?b", "a b", "é"] {
            assert!(checked(wrong).is_err(), "{wrong}");
        }
    }
}
