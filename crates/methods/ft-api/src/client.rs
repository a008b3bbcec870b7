//! One HTTP request: sent, tried again where that may help, and read as JSON.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, InvalidHeaderValue};
use ureq::http::{self, Method, Request, Response, Uri};
use ureq::{Agent, Body, Proxy, ProxyProtocol};

use crate::backoff::{Backoff, Next, RetryPolicy, retry_after};
use crate::hparams::duration;
use crate::multipart::Form;
use crate::redaction::Redaction;
use crate::secret::ApiKey;
use crate::{Error, FtApiHparams, KeyVariable, ProxyAddress, Result};

/// Where OpenAI's API is.
const OPENAI: &str = "https://api.openai.com/v1";
/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 16 << 20;
/// Longest part of an answer that a message repeats, in characters.
const QUOTED: usize = 200;
/// How long an idle connection is kept. Shorter than what servers do, so that a request seldom meets a closed one.
const IDLE: Duration = Duration::from_secs(4);
/// The code of a 429 that no waiting mends.
const NO_QUOTA: &str = "insufficient_quota";

/// A request to the API.
#[derive(Debug)]
pub(crate) struct Call {
    method: Method,
    /// Behind the base URL, with the slash.
    path: String,
    body: Content,
    /// What it is for, as in "cannot {action}".
    action: String,
}

#[derive(Debug)]
enum Content {
    None,
    Some { content_type: String, bytes: Vec<u8> },
}

impl Call {
    pub(crate) fn get(path: String, action: String) -> Self {
        Self { method: Method::GET, path, body: Content::None, action }
    }

    pub(crate) fn delete(path: String, action: String) -> Self {
        Self { method: Method::DELETE, path, body: Content::None, action }
    }

    pub(crate) fn post(path: String, body: &Value, action: String) -> Self {
        let body = Content::Some { content_type: "application/json".into(), bytes: body.to_string().into_bytes() };
        Self { method: Method::POST, path, body, action }
    }

    pub(crate) fn upload(path: String, form: Form, action: String) -> Self {
        Self { method: Method::POST, path, body: Content::Some { content_type: form.content_type, bytes: form.body }, action }
    }
}

/// An attempt that failed.
struct Failure {
    message: String,
    kind: FailureKind,
}

enum FailureKind {
    /// Another attempt may help, after the wait that the API asked for.
    Passing(Option<Duration>),
    /// The API will not do it.
    Refused(u16),
    /// The answer is none, or the request cannot be sent.
    Final,
}

/// The API, with the key.
pub(crate) struct Client {
    agent: Agent,
    base: String,
    key: ApiKey,
    /// Everything that the API says goes through it, as soon as its bytes become text.
    redaction: Redaction,
    variable: KeyVariable,
    policy: RetryPolicy,
    seed: u64,
    /// Calls so far, so that the waits of each are drawn anew.
    calls: AtomicU64,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("base", &self.base).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Client {
    /// A client by the hyperparameters and the environment that `get` looks up.
    pub(crate) fn new(hparams: &FtApiHparams, seed: u64, get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let (name, base) = match (&hparams.base_url, set("OPENAI_BASE_URL")) {
            (Some(url), _) => ("base_url", url.clone()),
            (None, Some(url)) => ("OPENAI_BASE_URL", url),
            (None, None) => ("base_url", OPENAI.to_owned()),
        };
        let base = base_url(name, &base)?;
        let key = ApiKey::look_up(&hparams.api_key, get)?;
        let connect = Some(duration(hparams.connect_timeout_seconds));
        let request = Some(duration(hparams.request_timeout_seconds));
        let proxy = proxy(hparams.proxy.as_ref(), &set)?;
        let redaction = Redaction::new([key.secret()].into_iter().chain(proxy.as_ref().and_then(Proxy::password)));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy)
            .timeout_resolve(connect)
            .timeout_connect(connect)
            .timeout_per_call(request)
            .max_idle_age(IDLE)
            .user_agent(concat!("easyedit/", env!("CARGO_PKG_VERSION")))
            .build();
        let policy = RetryPolicy {
            max_retries: hparams.max_retries,
            first_wait: hparams.retry_seconds,
            longest_wait: hparams.max_retry_wait_seconds,
        };
        let variable = hparams.api_key.clone();
        Ok(Self { agent: config.new_agent(), base, key, redaction, variable, policy, seed, calls: AtomicU64::new(0) })
    }

    /// Where the API is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Sends a call, and again while that may help.
    pub(crate) fn send(&self, call: &Call) -> Result<Value> {
        self.send_unless(call, &mut || Ok(None))
    }

    /// Sends a call that must not be done twice: before each further attempt, `done` tells whether an earlier one came through after all,
    /// and with which answer.
    pub(crate) fn send_unless(&self, call: &Call, done: &mut dyn FnMut() -> Result<Option<Value>>) -> Result<Value> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut backoff = Backoff::new(self.policy, self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        loop {
            let failure = match self.attempt(call) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let attempts = backoff.attempts();
            let Failure { message, kind } = failure;
            let action = call.action.clone();
            let asked = match kind {
                FailureKind::Passing(asked) => asked,
                FailureKind::Refused(status) => return Err(Error::Refused { action, status, message }),
                FailureKind::Final => return Err(Error::Answer { action, message }),
            };
            match backoff.next(asked) {
                Next::Exhausted => return Err(Error::GaveUp { action, attempts, message }),
                Next::TooLong(asked) => {
                    let seconds = asked.as_secs_f64();
                    let longest = self.policy.longest_wait;
                    let message = format!("{message} (it asks to wait {seconds:.0} s, max_retry_wait_seconds is {longest})");
                    return Err(Error::GaveUp { action, attempts, message });
                }
                Next::Wait(wait) => {
                    tracing::info!("attempt {attempts} to {action} failed, the next in {:.1} s: {message}", wait.as_secs_f64());
                    std::thread::sleep(wait);
                }
            }
            if let Some(answer) = done()? {
                return Ok(answer);
            }
        }
    }

    /// Sends a call once; for questions that do not matter enough to wait for.
    pub(crate) fn try_once(&self, call: &Call) -> Option<Value> {
        self.attempt(call).ok()
    }

    fn attempt(&self, call: &Call) -> Result<Value, Failure> {
        let broken = |error: ureq::Error| of_transport(&error, &self.redaction);
        let answer = self.exchange(call).map_err(broken)?;
        let status = answer.status();
        let asked = retry_after(answer.headers(), SystemTime::now());
        let bytes = answer.into_body().into_with_config().limit(MAX_ANSWER).read_to_vec();
        if status.is_success() {
            let text = self.redaction.text(&bytes.map_err(broken)?);
            return serde_json::from_str(&text).map_err(|error| Failure {
                message: format!("the answer is no JSON ({error}): {:?}", quoted(&text)),
                kind: FailureKind::Final,
            });
        }
        let (mut message, code) = told(&self.redaction.text(&bytes.unwrap_or_default()));
        let kind = match status.as_u16() {
            429 if code.as_deref() != Some(NO_QUOTA) => FailureKind::Passing(asked),
            500.. => FailureKind::Passing(asked),
            other => FailureKind::Refused(other),
        };
        match kind {
            FailureKind::Refused(401) => message.push_str(&format!(" (the key is that of ${})", self.variable.name())),
            FailureKind::Refused(300..=399) => message.push_str(" (the API is elsewhere: check base_url)"),
            FailureKind::Passing(_) => message = format!("the API answered with status {}: {message}", status.as_u16()),
            _ => {}
        }
        Err(Failure { message, kind })
    }

    fn exchange(&self, call: &Call) -> Result<Response<Body>, ureq::Error> {
        let mut key = HeaderValue::from_str(&self.key.bearer()).map_err(invalid_header)?;
        key.set_sensitive(true);
        let request = Request::builder().method(call.method.clone()).uri(format!("{}{}", self.base, call.path)).header(AUTHORIZATION, key);
        match &call.body {
            Content::None => self.agent.run(request.body(())?),
            Content::Some { content_type, bytes } => {
                self.agent.run(request.header(CONTENT_TYPE, content_type.as_str()).body(bytes.as_slice())?)
            }
        }
    }
}

fn invalid_header(error: InvalidHeaderValue) -> ureq::Error {
    http::Error::from(error).into()
}

/// The base URL without a slash at its end.
fn base_url(name: &str, text: &str) -> Result<String> {
    let wrong = |message: &str| Error::setting(name, format!("{message}; give an address like {OPENAI}"));
    let uri: Uri = text.trim().parse().map_err(|_| wrong("is no address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(wrong("has no http:// or https:// and host"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong("holds a user or a password, which have no place in it"));
    }
    if uri.query().is_some() {
        return Err(wrong("holds a query"));
    }
    let host = uri.host().unwrap_or_default();
    if uri.scheme_str() == Some("http") && !matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
        tracing::warn!("{name} is not encrypted: the key can be read on the way to {host}; use https:// if the API has it");
    }
    Ok(text.trim().trim_end_matches('/').to_owned())
}

/// The proxy of the hyperparameters, or else the environment's.
fn proxy(own: Option<&ProxyAddress>, set: &dyn Fn(&str) -> Option<String>) -> Result<Option<Proxy>> {
    const VARIABLES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];
    let (name, address, exceptions) = match own.map(ProxyAddress::address).filter(|address| !address.is_empty()) {
        Some(address) => ("proxy", address.to_owned(), None),
        None => {
            let found = VARIABLES.iter().find_map(|name| Some((*name, set(name)?)));
            let Some((name, address)) = found else { return Ok(None) };
            (name, address, set("NO_PROXY").or_else(|| set("no_proxy")))
        }
    };
    // The address may hold a password, so no message repeats it.
    let wrong = || Error::setting(name, "is no address of a proxy; give one like http://127.0.0.1:7890");
    let given = Proxy::new(&address).map_err(|_| wrong())?;
    if !matches!(given.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
        return Err(Error::setting(name, "is a SOCKS proxy, which is not supported; give the address of its HTTP port"));
    }
    let Some(exceptions) = exceptions else { return Ok(Some(given)) };
    let mut built = Proxy::builder(given.protocol()).host(given.host()).port(given.port());
    if let Some(user) = given.username() {
        built = built.username(user);
    }
    if let Some(password) = given.password() {
        built = built.password(password);
    }
    let built = exceptions.split(',').fold(built, |built, exception| built.no_proxy(exception.trim()));
    built.build().map(Some).map_err(|_| wrong())
}

/// What the client tells about a connection. What a proxy or a server said in it may be anything.
fn of_transport(error: &ureq::Error, redaction: &Redaction) -> Failure {
    use ureq::Error as Transport;
    let passing = matches!(
        error,
        Transport::Io(_)
            | Transport::Timeout(_)
            | Transport::HostNotFound
            | Transport::ConnectionFailed
            | Transport::Protocol(_)
            | Transport::ConnectProxyFailed(_)
            | Transport::BodyStalled
    );
    let message = match error {
        Transport::Io(error) => format!("the connection failed: {error}"),
        Transport::Timeout(what) => format!("no answer in time ({what})"),
        Transport::HostNotFound => "the host is not found".to_owned(),
        Transport::BodyExceedsLimit(limit) => format!("the answer has more than {limit} bytes"),
        other => format!("the connection failed: {other}"),
    };
    let message = redaction.text(message.as_bytes());
    Failure { message, kind: if passing { FailureKind::Passing(None) } else { FailureKind::Final } }
}

/// Message and code of an answer that is an error: `{"error": {"message": ..., "code": ...}}`, or whatever else was sent.
fn told(text: &str) -> (String, Option<String>) {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let error = json.get("error").unwrap_or(&json);
    let field = |key: &str| error.get(key).and_then(Value::as_str).map(str::to_owned);
    let message = field("message").or_else(|| error.as_str().map(str::to_owned));
    let message = message.unwrap_or_else(|| match text.trim() {
        "" => "without a message".to_owned(),
        other => format!("{:?}", quoted(other)),
    });
    (message, field("code").or_else(|| field("type")))
}

fn quoted(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTED).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_an_address_and_nothing_more() {
        assert_eq!(base_url("base_url", " https://api.example.com/v1/ ").unwrap(), "https://api.example.com/v1");
        for wrong in ["", "api.example.com/v1", "ftp://host/v1", "https://me:4711@host/v1", "https://host/v1?key=4711", "https://"] {
            let error = base_url("OPENAI_BASE_URL", wrong).unwrap_err().to_string();
            assert!(error.contains("OPENAI_BASE_URL") && !error.contains("4711"), "{error}");
        }
    }

    #[test]
    fn the_own_proxy_comes_before_the_environments() {
        let set = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://me:4711@there:81".to_owned()),
            "NO_PROXY" => Some("localhost, .example.com".to_owned()),
            _ => None,
        };
        let own = ProxyAddress::new("http://here:80");
        assert_eq!(proxy(Some(&own), &set).unwrap().unwrap().host(), "here");
        let found = proxy(None, &set).unwrap().unwrap();
        assert_eq!((found.host(), found.port(), found.password()), ("there", 81, Some("4711")));
        assert!(found.is_no_proxy(&"https://api.example.com".parse().unwrap()));
        assert!(!found.is_no_proxy(&"https://api.openai.com".parse().unwrap()));
        assert!(proxy(None, &|_| None).unwrap().is_none());
        for wrong in ["socks5://me:4711@host:1", "://4711", "gopher://4711"] {
            let error = proxy(Some(&ProxyAddress::new(wrong)), &set).unwrap_err().to_string();
            assert!(error.contains("proxy") && !error.contains("4711"), "{error}");
        }
    }

    #[test]
    fn whatever_an_api_says_becomes_a_message() {
        let read = told;
        assert_eq!(read(r#"{"error":{"message":"no","code":"x"}}"#), ("no".into(), Some("x".into())));
        assert_eq!(read(r#"{"error":"no"}"#), ("no".into(), None));
        assert_eq!(read(r#"{"message":"no","type":"y"}"#), ("no".into(), Some("y".into())));
        assert_eq!(read("<html>").0, "\"<html>\"");
        assert_eq!(read("").0, "without a message");
        assert!(read(&"x".repeat(1000)).0.len() < 300);
    }
}
