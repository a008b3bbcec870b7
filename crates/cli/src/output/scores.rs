//! The tables of an edit: continuations, scores, records.

use easyedit::eval::{MeanMetrics, MeanPair, Metrics, Record, Summary};
use serde::Serialize;

use super::{Align, Table, one_line, style};

/// More records than this are summed up only.
const MOST_RECORDS: usize = 20;

/// A prompt continued by the model before and after.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Continuation {
    /// What the prompt is to the edit: `edited`, `paraphrase` or `neighbour`.
    pub(crate) role: Role,
    pub(crate) prompt: String,
    pub(crate) before: String,
    pub(crate) after: String,
    /// Whether it came out as an edit should: changed to the target, or kept.
    pub(crate) as_wanted: bool,
}

/// What a prompt is to an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The prompt of the request.
    Edited,
    /// The same question in other words.
    Paraphrase,
    /// A question whose answer must stay.
    Neighbour,
}

impl Role {
    fn title(self) -> &'static str {
        match self {
            Self::Edited => "edited prompt",
            Self::Paraphrase => "paraphrases",
            Self::Neighbour => "neighbours (should stay as they are)",
        }
    }
}

/// What the model writes before and after, side by side.
pub(crate) fn continuation_table(continuations: &[Continuation]) -> String {
    let mut table = Table::new(&[("prompt", Align::Left), ("before", Align::Left), ("after", Align::Left), ("", Align::Left)]);
    table.keep(0);
    let mut role = None;
    for one in continuations {
        if role != Some(one.role) {
            table.section(one.role.title());
            role = Some(one.role);
        }
        let after = one_line(&one.after);
        let after = if one.role == Role::Neighbour { after } else { style(after).cyan().to_string() };
        table.row([one.prompt.clone(), one_line(&one.before), after, mark(one.as_wanted)]);
    }
    table.render()
}

fn mark(good: bool) -> String {
    if good { style("✔").green().to_string() } else { style("✘").red().to_string() }
}

/// Means before and after, by both ways of measuring, or by free decoding alone where nothing else was measured.
pub(crate) fn score_table(summary: &Summary) -> String {
    let (forced, free) = (&summary.mean_metrics, &summary.free_decoding);
    if forced.post.is_empty() {
        let mut table = Table::new(&[("", Align::Left), ("free decoding", Align::Right)]);
        for (name, of) in rows(free) {
            table.row([name, change(of(&free.pre), of(&free.post))]);
        }
        return table.render();
    }
    let mut table = Table::new(&[("", Align::Left), ("teacher-forced", Align::Right), ("free decoding", Align::Right)]);
    for (name, of) in rows(forced) {
        table.row([name, change(of(&forced.pre), of(&forced.post)), change(of(&free.pre), of(&free.post))]);
    }
    for (name, of) in rows(forced).into_iter().filter(|_| !forced.post_final.is_empty()) {
        table.row([format!("{name}, after the last edit"), score(of(&forced.post_final)), score(of(&free.post_final))]);
    }
    table.render()
}

/// `0.00 → 1.00`; locality has no score before the edit.
fn change(before: Option<f64>, after: Option<f64>) -> String {
    match before {
        Some(before) => format!("{} {}", style(format!("{before:.2} →")).dim(), score(after)),
        None => score(after),
    }
}

type Pick = Box<dyn Fn(&MeanMetrics) -> Option<f64>>;

/// The rows of a score table: what was measured after the edit.
fn rows(means: &MeanPair) -> Vec<(String, Pick)> {
    let mut rows: Vec<(String, Pick)> = Vec::new();
    if means.post.rewrite_acc.is_some() {
        rows.push(("reliability".into(), Box::new(|m| m.rewrite_acc)));
    }
    if means.post.rephrase_acc.is_some() {
        rows.push(("generalization".into(), Box::new(|m| m.rephrase_acc)));
    }
    for key in means.post.locality.keys() {
        let own = key.clone();
        rows.push((named("locality", key), Box::new(move |m| m.locality.get(&own).copied())));
    }
    for key in means.post.portability.keys() {
        let own = key.clone();
        rows.push((named("portability", key), Box::new(move |m| m.portability.get(&own).copied())));
    }
    rows
}

/// `locality` alone where the key says no more than that.
fn named(kind: &str, key: &str) -> String {
    let name = key.strip_suffix("_acc").unwrap_or(key);
    if name == kind || name == "neighborhood" { kind.to_owned() } else { format!("{kind}: {name}") }
}

/// One line per record, or none for long runs.
pub(crate) fn record_table(records: &[Record]) -> Option<String> {
    if records.len() < 2 || records.len() > MOST_RECORDS {
        return None;
    }
    let mut table = Table::new(&[
        ("case", Align::Right),
        ("prompt", Align::Left),
        ("target", Align::Left),
        ("reliability", Align::Right),
        ("generalization", Align::Right),
        ("locality", Align::Right),
        ("seconds", Align::Right),
    ]);
    for record in records {
        let request = &record.requested_rewrite;
        let scored = if record.post == Metrics::default() { &record.free_decoding.post } else { &record.post };
        let means = MeanMetrics::of([scored]);
        let locality: Vec<f64> = means.locality.values().copied().collect();
        let locality = (!locality.is_empty()).then(|| locality.iter().sum::<f64>() / locality.len() as f64);
        let scores = match &record.error {
            Some(_) => [style("failed").red().to_string(), String::new(), String::new()],
            None => [score(means.rewrite_acc), score(means.rephrase_acc), score(locality)],
        };
        let [reliability, generalization, locality] = scores;
        table.row([
            record.case_id.to_string(),
            request.filled_prompt(),
            request.target_new.clone(),
            reliability,
            generalization,
            locality,
            format!("{:.1}", record.time),
        ]);
    }
    Some(table.render())
}

/// A score from 0 to 1; green at 0.9, red below 0.5.
fn score(value: Option<f64>) -> String {
    match value {
        None => style("–").dim().to_string(),
        Some(value) => {
            let text = style(format!("{value:.2}"));
            match value {
                v if v >= 0.9 => text.green().to_string(),
                v if v < 0.5 => text.red().to_string(),
                _ => text.yellow().to_string(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuations_stand_under_their_roles() {
        let one = |role, prompt: &str, after: &str| Continuation {
            role,
            prompt: prompt.into(),
            before: " Paris\n".into(),
            after: after.into(),
            as_wanted: after.contains("Rome"),
        };
        let text = continuation_table(&[
            one(Role::Edited, "The Eiffel Tower is in", " Rome.\nIt"),
            one(Role::Neighbour, "The Louvre is in", " Paris."),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1] == "edited prompt" && lines[2].contains(" Rome.⏎It") && lines[2].ends_with('✔'), "{text}");
        assert!(lines[3].starts_with("neighbours") && lines[4].ends_with('✘'), "{text}");
    }

    #[test]
    fn only_what_was_measured_is_shown() {
        let mut summary = Summary::default();
        summary.mean_metrics.post.rewrite_acc = Some(1.0);
        summary.mean_metrics.pre.rewrite_acc = Some(0.25);
        let text = score_table(&summary);
        assert!(text.contains("reliability") && text.contains("0.25") && text.contains("1.00"), "{text}");
        assert!(!text.contains("locality"), "{text}");
    }
}
