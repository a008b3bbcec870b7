//! The method, pointed at the loopback and in no mood to wait.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use easyedit_core::{CheckedRequest, EditRequest};
use easyedit_ft_api::{FtApi, FtApiHparams, Result};

use crate::support::{KEY, Server};

/// Hyperparameters with milliseconds for seconds, and results below `folder`.
pub fn hparams(server: &Server, folder: &Path) -> FtApiHparams {
    FtApiHparams {
        base_url: Some(server.base_url()),
        results_dir: folder.to_owned(),
        poll_seconds: 0.002,
        job_timeout_seconds: 5.0,
        connect_timeout_seconds: 1.0,
        request_timeout_seconds: 2.0,
        max_retries: 2,
        retry_seconds: 0.002,
        max_retry_wait_seconds: 0.5,
        ..FtApiHparams::for_model("gpt-3.5-turbo")
    }
}

/// The method with the key in the environment and nothing else.
pub fn method(hparams: FtApiHparams) -> FtApi {
    with_variables(hparams, &[]).unwrap()
}

/// The method with the key and more in the environment.
pub fn with_variables(hparams: FtApiHparams, more: &[(&str, &str)]) -> Result<FtApi> {
    FtApi::with_variables(hparams, 7, &|name| match name {
        "OPENAI_API_KEY" => Some(KEY.to_owned()),
        _ => more.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
    })
}

/// `n` facts.
pub fn requests(n: usize) -> Vec<CheckedRequest> {
    let request = |i| EditRequest { case_id: i, ..EditRequest::new(format!("City {i} lies in"), format!("City {i}"), format!("Land {i}")) };
    CheckedRequest::all((0..n).map(request)).unwrap()
}
