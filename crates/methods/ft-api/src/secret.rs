//! Values that must not be seen: the key, and a proxy's user and password.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{Error, Result};

/// Variable that is looked up where the hyperparameters name none.
const DEFAULT_VARIABLE: &str = "OPENAI_API_KEY";

/// What EasyEdit's own file holds in place of a key.
const PLACEHOLDER: &str = "YOUR_OPENAI_KEY";

/// What stands in a message where a key stood.
pub(crate) const HIDDEN: &str = "[hidden key]";

/// Name of the environment variable that holds the API's key.
///
/// Hyperparameters write it as `$NAME` (`${NAME}` and `env:NAME` are read too). A key itself is refused there: files are shared, copied
/// into reports and committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyVariable(String);

impl KeyVariable {
    /// The variable called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if that is no name of a variable; the text is not repeated, for it may be a key.
    pub fn new(name: &str) -> Result<Self> {
        let mut letters = name.chars();
        let begins = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if begins && letters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Ok(Self(name.to_owned()));
        }
        Err(Error::setting("api_key", "is no name of an environment variable"))
    }

    /// Name of the variable.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Default for KeyVariable {
    fn default() -> Self {
        Self(DEFAULT_VARIABLE.to_owned())
    }
}

impl Serialize for KeyVariable {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("${}", self.0))
    }
}

impl<'de> Deserialize<'de> for KeyVariable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // Serde's own message for a wrong type repeats the value, which may be a key.
        let refused = || {
            serde::de::Error::custom(format!(
                "a key has no place in a file: put it into the environment variable {DEFAULT_VARIABLE} and write \
                 `api_key: ${DEFAULT_VARIABLE}`, or leave the line out"
            ))
        };
        let text = match Value::deserialize(deserializer).map_err(|_| refused())? {
            Value::Null => return Ok(Self::default()),
            Value::String(text) => text,
            _ => return Err(refused()),
        };
        let text = text.trim();
        if text.is_empty() || text == PLACEHOLDER {
            return Ok(Self::default());
        }
        let braced = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let name = braced.or_else(|| text.strip_prefix('$')).or_else(|| text.strip_prefix("env:"));
        name.and_then(|name| Self::new(name).ok()).ok_or_else(refused)
    }
}

/// The API's key. It is shown nowhere.
#[derive(Clone)]
pub(crate) struct ApiKey(String);

impl ApiKey {
    /// Looks the key up with `get`.
    pub(crate) fn look_up(variable: &KeyVariable, get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let missing = || Error::NoKey { variable: variable.name().to_owned() };
        let key = get(variable.name()).map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).ok_or_else(missing)?;
        if !key.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Error::setting(variable.name(), "holds characters that no key has; was more than the key copied?"));
        }
        Ok(Self(key))
    }

    /// What the header `Authorization` says.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// The key itself, for [`Redaction`](crate::redaction::Redaction).
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// Address of an HTTP proxy, `http://[user:password@]host:port`. Shown and written without user and password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ProxyAddress(String);

impl ProxyAddress {
    /// The proxy at `address`; it is checked when a client is made.
    pub fn new(address: impl Into<String>) -> Self {
        Self(address.into())
    }

    /// The address with user and password.
    pub(crate) fn address(&self) -> &str {
        self.0.trim()
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        if scheme.is_empty() { f.write_str(host) } else { write!(f, "{scheme}://{host}") }
    }
}

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyAddress({self})")
    }
}

impl Serialize for ProxyAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_name_a_variable_but_hold_no_key() {
        for (text, name) in [
            (r#""$MY_KEY""#, "MY_KEY"),
            (r#""${MY_KEY}""#, "MY_KEY"),
            (r#""env:MY_KEY""#, "MY_KEY"),
            (r#""""#, DEFAULT_VARIABLE),
            ("null", DEFAULT_VARIABLE),
            (r#""YOUR_OPENAI_KEY""#, DEFAULT_VARIABLE),
        ] {
            assert_eq!(serde_json::from_str::<KeyVariable>(text).unwrap().name(), name, "{text}");
        }
        for secret in [r#""sk-proj-4711secret""#, r#""$sk-4711secret""#, "4711", r#"["4711"]"#, r#""${4711}""#] {
            let error = serde_json::from_str::<KeyVariable>(secret).unwrap_err().to_string();
            assert!(error.contains("OPENAI_API_KEY") && !error.contains("4711"), "{error}");
        }
        assert_eq!(serde_json::to_string(&KeyVariable::default()).unwrap(), r#""$OPENAI_API_KEY""#);
    }

    #[test]
    fn secrets_are_not_shown() {
        let key = ApiKey::look_up(&KeyVariable::default(), &|_| Some(" sk-4711\n".into())).unwrap();
        assert_eq!(format!("{key:?}"), HIDDEN);
        assert_eq!(key.bearer(), "Bearer sk-4711");
        let broken = ApiKey::look_up(&KeyVariable::default(), &|_| Some("sk-4711 # mine".into())).unwrap_err().to_string();
        assert!(!broken.contains("4711"), "{broken}");
        let proxy = ProxyAddress::new("http://me:4711@host:80");
        assert_eq!(format!("{proxy} {proxy:?}"), "http://host:80 ProxyAddress(http://host:80)");
        assert_eq!(serde_json::to_string(&proxy).unwrap(), r#""http://host:80""#);
    }
}
