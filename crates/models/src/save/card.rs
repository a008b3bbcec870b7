use std::fmt::Write as _;

use easyedit_core::{Edit, EditRequest};

use super::history::{EditRecord, Record, remove};
use super::provenance::PROVENANCE_FILE;
use super::{SavedTensor, What};
use crate::{Checkpoint, Result};

/// The model card.
pub(super) const CARD_FILE: &str = "README.md";
/// Requests listed for one edit; all of them are in [`PROVENANCE_FILE`].
const MAX_LISTED: usize = 100;

/// Stands before the card that the model had.
const EARLIER_CARD: &str = "\n---\n\nThe card of the model before these edits:\n\n";
/// Stands in the first lines of every card of ours.
const WRITTEN_BY: &str = ", written by easyedit ";
/// The tags of an edited model, in the front matter of a card of ours.
const TAGS: &str = "tags:\n- model-editing\n- easyedit\n";

/// The text of the model card; an earlier card stays, below ours, with its front matter on top where the Hub looks for it.
///
/// # Errors
///
/// If the source's own record cannot be read.
pub(super) fn model_card(source: &Checkpoint, what: What<'_>, tensors: &[SavedTensor], earlier: Option<&[u8]>) -> Result<Vec<u8>> {
    let earlier = earlier.map(|bytes| String::from_utf8_lossy(bytes).replace("\r\n", "\n")).unwrap_or_default();
    let (front, body) = split_front_matter(&earlier);
    let mut card = match front {
        Some(front) => front.to_owned(),
        None => new_front_matter(source.name()),
    };
    let body = match what {
        What::Applied(edits) => {
            card.push('\n');
            describe(&mut card, source, edits, tensors);
            body
        }
        What::Reverted(edits) => {
            let record = Record::read(source)?.unwrap_or_default();
            let mut others = record.edits();
            let gone: Vec<EditRecord> = edits.iter().map(EditRecord::of).collect();
            remove(&mut others, &gone);
            if others.is_empty() {
                card = card.replacen(TAGS, "", 1);
            }
            card.push('\n');
            let name = if record.origin().is_empty() { source.name() } else { record.origin() };
            describe_reverted(&mut card, name, &gone, &others, tensors);
            without_our_cards(body)
        }
    };
    if !body.trim().is_empty() {
        card.push_str(EARLIER_CARD);
        card.push_str(body.trim());
        card.push('\n');
    }
    Ok(card.into_bytes())
}

/// The card that the model had before any of ours.
fn without_our_cards(mut body: &str) -> &str {
    while body.lines().filter(|line| !line.is_empty()).take(2).any(|line| line.contains(WRITTEN_BY)) {
        body = body.split_once(EARLIER_CARD).map_or("", |(_, earlier)| earlier);
    }
    body
}

/// Takes the block between two `---` lines off the top.
fn split_front_matter(text: &str) -> (Option<&str>, &str) {
    let Some(rest) = text.strip_prefix("---\n") else { return (None, text) };
    match rest.find("\n---\n") {
        Some(end) => {
            let (front, body) = text.split_at("---\n".len() + end + "\n---\n".len());
            (Some(front), body)
        }
        None => (None, text),
    }
}

fn new_front_matter(name: &str) -> String {
    // Only a Hub id means something to the Hub.
    let is_hub_id = name.matches('/').count() == 1 && name.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.".contains(c));
    let base = if is_hub_id { format!("base_model: {name}\n") } else { String::new() };
    format!("---\nlibrary_name: transformers\n{base}{TAGS}---\n")
}

// Writing to a string cannot fail.
fn describe(card: &mut String, source: &Checkpoint, edits: &[Edit], tensors: &[SavedTensor]) {
    let name = text(source.name());
    let facts: usize = edits.iter().map(|edit| edit.requests.len()).sum();
    let _ = writeln!(
        card,
        "# {name}, edited\n\n{name} with {}{WRITTEN_BY}{}.",
        count(facts, "fact changed inside its weights", "facts changed inside its weights"),
        env!("CARGO_PKG_VERSION")
    );
    if edits.is_empty() {
        card.push_str("\nNo edit was recorded.\n");
    }
    for (number, edit) in edits.iter().enumerate() {
        let _ = writeln!(card, "\n## Edit {}: {}\n", number + 1, text(&edit.method));
        let _ = writeln!(card, "Made for {} ({}), seed {}.\n", text(&edit.model), text(&edit.family), edit.seed);
        card.push_str("| Prompt | Subject | Answer before | New answer |\n| --- | --- | --- | --- |\n");
        for request in edit.requests.iter().take(MAX_LISTED) {
            request_row(card, request);
        }
        if edit.requests.len() > MAX_LISTED {
            let _ = writeln!(card, "\n{} more requests are in `{PROVENANCE_FILE}`.", edit.requests.len() - MAX_LISTED);
        }
        let _ = writeln!(card, "\nHyperparameters:\n\n```json\n{:#}\n```", edit.hparams);
    }
    describe_tensors(card, "Changed tensors", tensors);
    let _ = writeln!(
        card,
        "\n## Reverting\n\nOnly the tensors listed above differ from the original model; `{PROVENANCE_FILE}` has their fingerprints \
         before and after. To go back, use {name} itself, or copy these tensors from it. An edit saved as `*.edit.safetensors` \
         holds the changes alone: `easyedit inspect` shows it, and `easyedit apply` puts it on the original model again."
    );
}

fn describe_tensors(card: &mut String, title: &str, tensors: &[SavedTensor]) {
    if tensors.is_empty() {
        return;
    }
    let _ = writeln!(card, "\n## {title}\n\n| Tensor | Shape | Type | Change lost to rounding |\n| --- | --- | --- | --- |");
    for tensor in tensors {
        let _ = writeln!(card, "| `{}` | {:?} | {} | {:.3}% |", tensor.name, tensor.shape, tensor.dtype, 100.0 * tensor.rounding);
    }
}

/// `name` is that of the model before all edits, `others` are those that stay.
fn describe_reverted(card: &mut String, name: &str, gone: &[EditRecord], others: &[&EditRecord], tensors: &[SavedTensor]) {
    let name = text(name);
    let title = if others.is_empty() { "edits taken back" } else { "some edits taken back" };
    let edits = count(gone.len(), "edit taken back out of its weights", "edits taken back out of its weights");
    let _ = writeln!(card, "# {name}, {title}\n\n{name} with {edits}{WRITTEN_BY}{}.\n", env!("CARGO_PKG_VERSION"));
    for edit in gone.iter().take(MAX_LISTED) {
        let _ = writeln!(card, "- {}", text(&edit.title()));
    }
    if !others.is_empty() {
        let _ = writeln!(card, "\n## Edits that are still in it\n");
        for edit in others.iter().take(MAX_LISTED) {
            let _ = writeln!(card, "- {}", text(&edit.title()));
        }
    }
    describe_tensors(card, "Restored tensors", tensors);
    let _ =
        writeln!(card, "\n`{PROVENANCE_FILE}` has the fingerprints of these tensors before and after, and all edits with their requests.");
}

fn request_row(card: &mut String, request: &EditRequest) {
    let cell = |value: Option<&str>| value.map(text).unwrap_or_default();
    let _ = writeln!(
        card,
        "| {} | {} | {} | {} |",
        text(&request.filled_prompt()),
        cell(request.subject.as_deref()),
        cell(request.ground_truth.as_deref()),
        text(&request.target_new)
    );
}

fn count(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// `value` as plain text in one line of Markdown: a stranger's prompt must not become a table, a link or HTML.
fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '#' | '~' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter_is_taken_off_whole() {
        assert_eq!(split_front_matter("---\nlicense: mit\n---\nText\n---\n"), (Some("---\nlicense: mit\n---\n"), "Text\n---\n"));
        assert_eq!(split_front_matter("# No\n---\n"), (None, "# No\n---\n"));
        assert_eq!(split_front_matter("---\nnever closed"), (None, "---\nnever closed"));
    }

    #[test]
    fn the_model_s_own_card_is_found_below_all_of_ours() {
        let ours =
            |title: &str, below: &str| format!("\n# m, {title}\n\nm with 1 fact{WRITTEN_BY}0.1.0.\n\n## Edit 1{EARLIER_CARD}{below}");
        assert_eq!(without_our_cards(&ours("edited", &ours("edited", "# Tiny\nIts own.\n"))), "# Tiny\nIts own.\n");
        assert_eq!(without_our_cards("# m, edited\n\nm with 1 fact, written by easyedit 0.1.0.\n"), "");
        assert_eq!(without_our_cards("# Another\n"), "# Another\n");
    }

    #[test]
    fn prompts_stay_in_their_cell() {
        assert_eq!(text("a | b\n<script> [x](y) `c`"), "a \\| b &lt;script&gt; \\[x\\](y) \\`c\\`");
    }

    #[test]
    fn only_hub_ids_are_named_as_base_model() {
        assert!(new_front_matter("openai-community/gpt2").contains("base_model: openai-community/gpt2\n"));
        for local in ["gpt2", "a/b/c", "a/b\nlicense: x"] {
            assert!(!new_front_matter(local).contains("base_model"), "{local}");
        }
    }
}
