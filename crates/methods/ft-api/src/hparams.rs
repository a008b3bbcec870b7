use std::path::PathBuf;
use std::time::Duration;

use easyedit_core::{Hparams, number};
use serde::{Deserialize, Serialize};

use crate::{KeyVariable, ProxyAddress};

/// What the model is told to be, in training and when it is asked. EasyEdit trains a "factual chatbot that is also sarcastic" here; a
/// fact should not come with a character.
pub const DEFAULT_SYSTEM_PROMPT: &str =
    "Complete the sentence or answer the question. Give only the completion or the answer, in as few words as possible.";

/// Longest name part that the API accepts, in characters.
const MAX_SUFFIX: usize = 64;
/// Longest time that can be asked for: 30 days, in seconds.
const MAX_SECONDS: f64 = 2_592_000.0;

/// Hyperparameters of FT-Api. `model_name`, `api_key`, `results_dir` and `proxy` are EasyEdit's keys, the others are ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FtApiHparams {
    /// Always `FT-Api`.
    pub alg_name: String,
    /// Model that is fine-tuned, by the API's name.
    pub model_name: String,
    /// Environment variable that holds the key, written `$NAME`. Default `$OPENAI_API_KEY`. EasyEdit writes the key itself here, which is refused.
    #[serde(default)]
    pub api_key: KeyVariable,
    /// Folder below which training files and the state of jobs are kept, under `FT-Api`. Default `./results`.
    #[serde(default = "results_dir")]
    pub results_dir: PathBuf,
    /// HTTP proxy. Default: that of `HTTPS_PROXY`, `ALL_PROXY` or `HTTP_PROXY`, and `NO_PROXY`, in the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyAddress>,
    /// Where the API is, with its version. Default: `OPENAI_BASE_URL` in the environment, else OpenAI's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// First message of every conversation, in training and evaluation; empty for none. Default [`DEFAULT_SYSTEM_PROMPT`].
    #[serde(default = "system_prompt")]
    pub system_prompt: String,
    /// Passes over the training file. Default: the API's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_epochs: Option<u32>,
    /// Part of the new model's name, at most 64 characters. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// Seconds between two questions about a job. Default 10, as in EasyEdit.
    #[serde(default = "poll_seconds", deserialize_with = "number")]
    pub poll_seconds: f64,
    /// Seconds that a run waits for a job at most; the job itself goes on. Default 21600 (6 hours).
    #[serde(default = "job_timeout_seconds", deserialize_with = "number")]
    pub job_timeout_seconds: f64,
    /// Seconds that finding and reaching the API may take. Default 10.
    #[serde(default = "connect_timeout_seconds", deserialize_with = "number")]
    pub connect_timeout_seconds: f64,
    /// Seconds that one request may take, with its answer. Default 120.
    #[serde(default = "request_timeout_seconds", deserialize_with = "number")]
    pub request_timeout_seconds: f64,
    /// How often a request is tried again when the API is busy (429), broken (5xx) or out of reach. Default 6.
    #[serde(default = "max_retries")]
    pub max_retries: u32,
    /// Seconds before the first of these; each further one waits twice as long. Half of a wait is random, from the seed. Default 1.
    #[serde(default = "retry_seconds", deserialize_with = "number")]
    pub retry_seconds: f64,
    /// Longest such wait, in seconds; an API that asks for more is given up. Default 120.
    #[serde(default = "max_retry_wait_seconds", deserialize_with = "number")]
    pub max_retry_wait_seconds: f64,
    /// Tokens of an answer at most. Default 32.
    #[serde(default = "max_new_tokens")]
    pub max_new_tokens: u32,
    /// Questions that are asked at a time. Default 4.
    #[serde(default = "parallel_requests")]
    pub parallel_requests: usize,
    /// Whether the training file is deleted from the API when the model is there. Default false.
    #[serde(default)]
    pub delete_file: bool,
}

fn results_dir() -> PathBuf {
    PathBuf::from("./results")
}

fn system_prompt() -> String {
    DEFAULT_SYSTEM_PROMPT.to_owned()
}

fn poll_seconds() -> f64 {
    10.0
}

fn job_timeout_seconds() -> f64 {
    21_600.0
}

fn connect_timeout_seconds() -> f64 {
    10.0
}

fn request_timeout_seconds() -> f64 {
    120.0
}

fn max_retries() -> u32 {
    6
}

fn retry_seconds() -> f64 {
    1.0
}

fn max_retry_wait_seconds() -> f64 {
    120.0
}

fn max_new_tokens() -> u32 {
    32
}

fn parallel_requests() -> usize {
    4
}

impl Hparams for FtApiHparams {
    const METHOD: &'static str = "FT-Api";
    const KEYS: &'static [&'static str] = &[
        "alg_name",
        "model_name",
        "api_key",
        "results_dir",
        "proxy",
        "base_url",
        "system_prompt",
        "n_epochs",
        "suffix",
        "poll_seconds",
        "job_timeout_seconds",
        "connect_timeout_seconds",
        "request_timeout_seconds",
        "max_retries",
        "retry_seconds",
        "max_retry_wait_seconds",
        "max_new_tokens",
        "parallel_requests",
        "delete_file",
    ];

    fn check(&self) -> Result<(), String> {
        if self.model_name.trim().is_empty() {
            return Err("model_name is empty; name the model to fine-tune, e.g. gpt-3.5-turbo".into());
        }
        let seconds = [
            ("poll_seconds", self.poll_seconds),
            ("job_timeout_seconds", self.job_timeout_seconds),
            ("connect_timeout_seconds", self.connect_timeout_seconds),
            ("request_timeout_seconds", self.request_timeout_seconds),
            ("retry_seconds", self.retry_seconds),
            ("max_retry_wait_seconds", self.max_retry_wait_seconds),
        ];
        for (key, value) in seconds {
            if !(value > 0.0 && value <= MAX_SECONDS) {
                return Err(format!("{key} is {value}; it must be above 0 and at most {MAX_SECONDS} (30 days)"));
            }
        }
        let range = |key: &str, value: usize, low: usize, high: usize| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(format!("{key} is {value}; it must be from {low} to {high}")),
        };
        range("n_epochs", self.n_epochs.unwrap_or(1) as usize, 1, 50)?;
        range("max_retries", self.max_retries as usize, 0, 100)?;
        range("max_new_tokens", self.max_new_tokens as usize, 1, 4096)?;
        range("parallel_requests", self.parallel_requests, 1, 64)?;
        if let Some(suffix) = &self.suffix {
            range("the length of suffix", suffix.chars().count(), 1, MAX_SUFFIX)?;
        }
        Ok(())
    }
}

impl FtApiHparams {
    /// The defaults, for a model by the API's name.
    pub fn for_model(name: &str) -> Self {
        Self {
            alg_name: Self::METHOD.to_owned(),
            model_name: name.to_owned(),
            api_key: KeyVariable::default(),
            results_dir: results_dir(),
            proxy: None,
            base_url: None,
            system_prompt: system_prompt(),
            n_epochs: None,
            suffix: None,
            poll_seconds: poll_seconds(),
            job_timeout_seconds: job_timeout_seconds(),
            connect_timeout_seconds: connect_timeout_seconds(),
            request_timeout_seconds: request_timeout_seconds(),
            max_retries: max_retries(),
            retry_seconds: retry_seconds(),
            max_retry_wait_seconds: max_retry_wait_seconds(),
            max_new_tokens: max_new_tokens(),
            parallel_requests: parallel_requests(),
            delete_file: false,
        }
    }
}

/// A time that [`check`](Hparams::check) has seen, as a duration.
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use easyedit_core::HparamsDocument;

    use super::*;

    fn read(text: &str) -> Result<FtApiHparams, String> {
        HparamsDocument::parse(text, "mine.yaml").and_then(|d| d.read()).map_err(|e| e.to_string())
    }

    #[test]
    fn easyedits_own_file_is_read_and_defaults_are_as_documented() {
        let text =
            "alg_name: FT-Api\nmodel_name: gpt-3.5-turbo\napi_key: YOUR_OPENAI_KEY\nresults_dir: ./results\nproxy: http://127.0.0.1:7890";
        let mut read = read(text).unwrap();
        assert_eq!(read.proxy.take(), Some(ProxyAddress::new("http://127.0.0.1:7890")));
        assert_eq!(read, FtApiHparams::for_model("gpt-3.5-turbo"));
        let keys = serde_json::to_value(FtApiHparams {
            proxy: Some(ProxyAddress::new("http://p")),
            base_url: Some("http://b".into()),
            n_epochs: Some(1),
            suffix: Some("s".into()),
            ..read
        });
        let keys: Vec<String> = keys.unwrap().as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, FtApiHparams::KEYS);
    }

    #[test]
    fn values_that_cannot_be_used_are_named() {
        for (line, part) in [
            ("poll_seconds: 0", "poll_seconds"),
            ("job_timeout_seconds: .nan", "job_timeout_seconds"),
            ("request_timeout_seconds: 1e300", "request_timeout_seconds"),
            ("parallel_requests: 0", "parallel_requests"),
            ("n_epochs: 0", "n_epochs"),
            ("suffix: ''", "suffix"),
            ("api_key: sk-4711", "OPENAI_API_KEY"),
            ("api_key: 4711", "OPENAI_API_KEY"),
            ("openai_key: sk-4711", "openai_key"),
        ] {
            let error = read(&format!("alg_name: FT-Api\nmodel_name: gpt-3.5-turbo\n{line}")).unwrap_err();
            assert!(error.contains(part) && error.contains("mine.yaml") && !error.contains("4711"), "{line}: {error}");
        }
    }
}
