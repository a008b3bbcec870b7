//! `rank_pattern` and `alpha_pattern`: values for some modules, found by the ends of their names.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Patterns beyond this number are not believed.
const MAX_PATTERNS: usize = 100_000;

/// Values by module. As in `peft`, a key is a regular expression for the end of a module's name, from the beginning or behind a dot; the first that
/// fits counts.
#[derive(Debug, Default)]
pub(crate) struct Patterns(Vec<(Regex, f64)>);

impl Patterns {
    /// The patterns under `key` of the adapter's configuration, all of whose values are numbers above 0.
    pub(crate) fn read(config: &Map<String, Value>, key: &str, path: &Path) -> Result<Self> {
        let map = match config.get(key) {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::Object(map)) => map,
            Some(other) => return Err(Error::format(path, format!("{key} is {other}, not a map from modules to numbers"))),
        };
        if map.len() > MAX_PATTERNS {
            return Err(Error::format(path, format!("{key} has {} entries, more than any model has modules", map.len())));
        }
        let one = |(pattern, value): (&String, &Value)| {
            let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
            let number = number.ok_or_else(|| Error::format(path, format!("{key} of {pattern} is {value}, not a number above 0")))?;
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .map_err(|e| Error::format(path, format!("{key} has the pattern {pattern:?}, which cannot be read: {e}")))?;
            Ok((regex, number))
        };
        Ok(Self(map.iter().map(one).collect::<Result<_>>()?))
    }

    /// The value for `module`, if a pattern fits.
    pub(crate) fn get(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Patterns> {
        Patterns::read(json!({ "rank_pattern": value }).as_object().unwrap(), "rank_pattern", Path::new("c.json"))
    }

    #[test]
    fn the_first_pattern_that_fits_the_end_counts() {
        let patterns = read(json!({"mlp.c_proj": 3, "h\\.[01]\\.attn\\.c_attn": 4, "c_attn": 5, "transformer.h.2.mlp.c_fc": 6})).unwrap();
        for (module, want) in [
            ("transformer.h.0.mlp.c_proj", Some(3.0)),
            ("transformer.h.1.attn.c_attn", Some(4.0)),
            ("transformer.h.2.attn.c_attn", Some(5.0)),
            ("transformer.h.2.mlp.c_fc", Some(6.0)),
            ("transformer.h.12.mlp.c_fc", None),
            ("transformer.h.2.xmlp.c_fc", None),
            ("c_attn", Some(5.0)),
            ("c_attn.more", None),
        ] {
            assert_eq!(patterns.get(module), want, "{module}");
        }
    }

    #[test]
    fn broken_patterns_are_errors() {
        for (value, part) in [
            (json!([1]), "not a map"),
            (json!({"a": 0}), "above 0"),
            (json!({"a": "x"}), "above 0"),
            (json!({"(": 1}), "cannot be read"),
            (json!({"(a{1000}){1000}{1000}": 1}), "cannot be read"),
        ] {
            let message = read(value).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("c.json"), "{message}");
        }
        assert!(read(Value::Null).unwrap().get("a").is_none());
    }
}
