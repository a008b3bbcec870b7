use easyedit_core::CheckedRequest;
use easyedit_core::tokens::join_target;
use serde::{Deserialize, Serialize};

/// What a demonstration shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The new fact is repeated.
    Copy,
    /// The new fact is told in other words.
    Update,
    /// Another fact stays as it was.
    Retain,
}

impl Kind {
    /// All kinds, in the order of the paper's ratio.
    pub const ALL: [Self; 3] = [Self::Copy, Self::Update, Self::Retain];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Update => "update",
            Self::Retain => "retain",
        }
    }
}

/// One demonstration, as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demonstration {
    /// `New Fact: ...`, `Prompt: ...`, and a blank line.
    pub text: String,
    /// What it shows.
    pub kind: Kind,
    /// Index of the record it is made of.
    pub record: usize,
}

/// The demonstrations of all records, those of one next to each other: copy, then update and retain if the record has a rephrased prompt and
/// a locality prompt.
pub fn demonstrations_of(records: &[CheckedRequest]) -> Vec<Demonstration> {
    let mut all = Vec::with_capacity(Kind::ALL.len() * records.len());
    for (record, request) in records.iter().enumerate() {
        let fact = join_target(request.prompt(), request.target_new());
        let mut add = |kind: Kind, shown: &str| all.push(Demonstration { text: shown_with(&fact, shown), kind, record });
        add(Kind::Copy, &fact);
        if let Some(rephrased) = request.rephrase_prompts().next() {
            add(Kind::Update, &join_target(rephrased, request.target_new()));
        }
        if let Some(other) = request.locality().values().flatten().next() {
            add(Kind::Retain, &join_target(&other.prompt, &other.ground_truth));
        }
    }
    all
}

/// A demonstration of `fact` followed by what is to be said then.
pub(crate) fn shown_with(fact: &str, shown: &str) -> String {
    format!("{}{}{shown}\n\n", fact_line(fact), PROMPT)
}

/// The line that states a new fact.
pub(crate) fn fact_line(fact: &str) -> String {
    format!("New Fact: {fact}\n")
}

/// What a question begins with.
pub(crate) const PROMPT: &str = "Prompt: ";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use easyedit_core::{EditRequest, EvaluationPrompt};

    use super::*;

    #[test]
    fn a_record_makes_up_to_three_strings_of_easyedits_form() {
        let near = EvaluationPrompt::new("The capital of Norway is", "Oslo");
        let whole = EditRequest {
            rephrase_prompts: vec!["France is ruled from".into()],
            locality: BTreeMap::from([("neighborhood".to_owned(), vec![near])]),
            ..EditRequest::new("The capital of {} is", "France", "Rome")
        };
        let bare = EditRequest { rephrase_prompts: vec![" ".into()], ..EditRequest::new("Ada speaks", "Ada", " Welsh") };
        let all = demonstrations_of(&CheckedRequest::all([whole, bare]).unwrap());
        let texts: Vec<&str> = all.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "New Fact: The capital of France is Rome\nPrompt: The capital of France is Rome\n\n",
                "New Fact: The capital of France is Rome\nPrompt: France is ruled from Rome\n\n",
                "New Fact: The capital of France is Rome\nPrompt: The capital of Norway is Oslo\n\n",
                "New Fact: Ada speaks Welsh\nPrompt: Ada speaks Welsh\n\n",
            ]
        );
        assert_eq!(all.iter().map(|one| one.kind).collect::<Vec<_>>(), [Kind::Copy, Kind::Update, Kind::Retain, Kind::Copy]);
        assert_eq!(all.iter().map(|one| one.record).collect::<Vec<_>>(), [0, 0, 0, 1]);
    }
}
