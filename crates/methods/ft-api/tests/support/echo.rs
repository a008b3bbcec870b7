//! An API that repeats the key wherever it can.

use serde_json::Value;

use super::KEY;

/// Where the key is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// In every text but those that later requests name something by, in more fields, and in headers.
    Texts,
    /// In those, too: ids, names of models, states.
    Everything,
}

/// What a request names something by, and what decides how it goes on.
const NAMES: [&str; 5] = ["id", "training_file", "fine_tuned_model", "model", "status"];

/// What is null until a job is done.
const OF_THE_END: [&str; 2] = ["fine_tuned_model", "trained_tokens"];

/// The key as it is, and as servers encode it. No output may hold any of these, nor a piece of them.
pub fn forms() -> Vec<String> {
    let each = |one: fn(u8) -> String| KEY.bytes().map(one).collect::<String>();
    vec![
        KEY.to_owned(),
        KEY.to_uppercase(),
        each(|byte| format!("%{byte:02X}")),
        each(|byte| format!("\\u{byte:04x}")),
        each(|byte| format!("&#{byte};")),
        each(|byte| format!("{byte:02x}")),
        base64(&format!("Bearer {KEY}")),
        base64(&format!(":{KEY}")),
    ]
}

/// Repeats the key in the texts of an answer.
pub fn repeat(echo: Echo, answer: &mut Value) {
    match answer {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                if echo == Echo::Texts && NAMES.contains(&name.as_str()) {
                    continue;
                }
                repeat(echo, value);
                if value.is_null() && !OF_THE_END.contains(&name.as_str()) {
                    *value = told().into();
                }
            }
            map.insert("request".into(), told().into());
            map.insert(KEY.into(), KEY.into());
        }
        Value::Array(values) => values.iter_mut().for_each(|value| repeat(echo, value)),
        Value::String(text) => text.push_str(&told()),
        _ => {}
    }
}

/// All forms in one text.
pub fn told() -> String {
    format!(" (you sent {})", forms().join(" "))
}

/// Headers with the key.
pub fn headers() -> Vec<(&'static str, String)> {
    vec![
        ("x-request-id", KEY.to_owned()),
        ("x-authorization", format!("Bearer {KEY}")),
        ("www-authenticate", format!("Bearer realm=\"{KEY}\"")),
        ("set-cookie", format!("key={}", base64(KEY))),
        ("location", format!("http://127.0.0.1:9/{KEY}")),
    ]
}

fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters = text.as_bytes().chunks(3).flat_map(|chunk| {
        let bits = chunk.iter().fold(0usize, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        (0..4).map(move |at| if at <= chunk.len() { char::from(LETTERS[bits >> (18 - 6 * at) & 63]) } else { '=' })
    });
    letters.collect()
}
