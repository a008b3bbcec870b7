use easyedit_core::CheckedRequest;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Examples that the API asks for at least.
pub const MIN_EXAMPLES: usize = 10;

/// The requests as a training file: JSON lines, a conversation each.
///
/// The API wants ten examples at least. Fewer requests are repeated in their order until there are exactly ten, as EasyEdit does; ten or more stand
/// once each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingFile {
    text: String,
    examples: usize,
}

impl TrainingFile {
    /// The file for `requests`; `system_prompt` is the first message of each conversation, unless it is blank.
    ///
    /// # Errors
    ///
    /// If there is no request.
    pub fn new(requests: &[CheckedRequest], system_prompt: &str) -> Result<Self> {
        if requests.is_empty() {
            return Err(Error::Core(easyedit_core::Error::Batch("there are no requests to train on".into())));
        }
        let examples = requests.len().max(MIN_EXAMPLES);
        let mut text = String::new();
        for request in requests.iter().cycle().take(examples) {
            let mut messages = conversation(system_prompt, request.prompt());
            messages.push(json!({ "role": "assistant", "content": request.target_new().trim() }));
            text.push_str(&json!({ "messages": messages }).to_string());
            text.push('\n');
        }
        Ok(Self { text, examples })
    }

    /// The JSON lines.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Number of lines.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// SHA-256 over the lines and everything else that a training depends on, in hexadecimal.
    pub(crate) fn fingerprint(&self, settings: &Value) -> String {
        let mut hash = Sha256::new();
        hash.update(settings.to_string());
        hash.update([0]);
        hash.update(&self.text);
        hex(&hash.finalize())
    }
}

/// The messages before an answer.
pub(crate) fn conversation(system_prompt: &str, prompt: &str) -> Vec<Value> {
    let mut messages = Vec::with_capacity(3);
    if !system_prompt.trim().is_empty() {
        messages.push(json!({ "role": "system", "content": system_prompt }));
    }
    messages.push(json!({ "role": "user", "content": prompt }));
    messages
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use easyedit_core::EditRequest;

    use super::*;

    fn requests(n: usize) -> Vec<CheckedRequest> {
        let request = |i| EditRequest::new("{} lies in", format!("City {i}"), format!(" Land\n{i}"));
        CheckedRequest::all((0..n).map(request)).unwrap()
    }

    #[test]
    fn fewer_than_ten_requests_are_repeated_to_exactly_ten_and_more_stand_once() {
        for (n, examples) in [(1, 10), (3, 10), (10, 10), (13, 13)] {
            let file = TrainingFile::new(&requests(n), "Be brief.").unwrap();
            let lines: Vec<Value> = file.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!((lines.len(), file.examples()), (examples, examples));
            for (i, line) in lines.iter().enumerate() {
                let i = i % n;
                assert_eq!(
                    line["messages"],
                    json!([
                        { "role": "system", "content": "Be brief." },
                        { "role": "user", "content": format!("City {i} lies in") },
                        { "role": "assistant", "content": format!("Land\n{i}") },
                    ])
                );
            }
        }
    }

    #[test]
    fn no_system_prompt_is_no_message() {
        let file = TrainingFile::new(&requests(1), " ").unwrap();
        assert!(!file.text().contains("system"));
    }

    #[test]
    fn the_fingerprint_is_of_all_that_a_training_depends_on() {
        let file = TrainingFile::new(&requests(2), "").unwrap();
        let other = TrainingFile::new(&requests(3), "").unwrap();
        let print = |file: &TrainingFile, model: &str| file.fingerprint(&json!({ "model": model }));
        assert_eq!(print(&file, "a"), print(&file.clone(), "a"));
        assert_ne!(print(&file, "a"), print(&file, "b"));
        assert_ne!(print(&file, "a"), print(&other, "a"));
        assert!(TrainingFile::new(&[], "").is_err());
    }
}
