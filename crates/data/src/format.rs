use serde::Serialize;
use serde_json::{Map, Value};

/// What a file of a dataset holds, by the keys of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `prompt` and `target_new`: EasyEdit's request dicts, its flat CounterFact, KnowEdit. Or `target` in the place of `target_new`.
    Requests,
    /// `requested_rewrite`: the original CounterFact, and the sets of EasyEdit's archive made of it.
    CounterFact,
    /// Several `requested_rewrite`, and `questions` that need all of them: MQuAKE.
    Mquake,
    /// `src` and `alt`: zsRE.
    Zsre,
    /// `src`, `alt` and `image`: E-VQA and E-IC.
    Pictures,
    /// `text` and `labels`: KnowEdit's WikiBio.
    WikiBio,
    /// `attribute`: ROME's facts for causal tracing.
    Known,
    /// `prompt_templates` and `samples`: a relation of LRE, with its subjects and objects.
    Relation,
    /// `prompts` and `target_new` as lists: the arguments of EasyEdit's `edit`.
    Columns,
    /// `goal`, `sol1` and `sol2`: PIQA.
    Piqa,
    /// `question` and `answer`: Natural Questions, and other pools of questions.
    Questions,
    /// `text` or `Text` alone: documents.
    Texts,
}

impl Format {
    /// The format of a record; `None` if it is none of these.
    pub(crate) fn of(record: &Map<String, Value>) -> Option<Self> {
        let has = |key: &str| record.contains_key(key);
        let is_list = |key: &str| record.get(key).is_some_and(Value::is_array);
        Some(if has("requested_rewrite") {
            if has("questions") && is_list("requested_rewrite") { Self::Mquake } else { Self::CounterFact }
        } else if has("src") && has("alt") {
            if has("image") { Self::Pictures } else { Self::Zsre }
        } else if is_list("prompts") && has("target_new") {
            Self::Columns
        } else if has("samples") && has("prompt_templates") {
            Self::Relation
        } else if has("text") && has("labels") {
            Self::WikiBio
        } else if has("attribute") && !has("target_new") {
            Self::Known
        } else if has("goal") && has("sol1") {
            Self::Piqa
        } else if has("prompt") || has("target_new") {
            Self::Requests
        } else if has("question") || has("questions") {
            Self::Questions
        } else if has("text") || has("Text") {
            Self::Texts
        } else {
            return None;
        })
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests (EasyEdit, flat CounterFact, KnowEdit)",
            Self::CounterFact => "CounterFact",
            Self::Mquake => "MQuAKE",
            Self::Zsre => "zsRE",
            Self::Pictures => "E-VQA or E-IC",
            Self::WikiBio => "WikiBio",
            Self::Known => "facts for causal tracing",
            Self::Relation => "a relation with its subjects",
            Self::Columns => "EasyEdit's lists of arguments",
            Self::Piqa => "PIQA",
            Self::Questions => "questions with answers",
            Self::Texts => "texts",
        }
    }

    /// Why records of this format are no facts to edit; `None` for those that are.
    pub fn no_facts(self) -> Option<&'static str> {
        match self {
            Self::Pictures => Some("asks about pictures; a model of texts cannot be edited with it"),
            Self::Piqa => Some("holds choices between two solutions, which are asked before and after an edit"),
            Self::Questions => Some("holds questions to ask before and after an edit, and no new answers"),
            Self::Texts => Some("holds texts; give it as a corpus"),
            _ => None,
        }
    }
}
