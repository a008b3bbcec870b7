//! What an edit holds, and the text a model reads for it.

use std::borrow::Cow;

use easyedit_core::tokens::{encode_prompt, join_target};
use easyedit_core::{Error, ForwardChange, Hparams, LanguageModel, Overlay, Result};
use serde::{Deserialize, Serialize};

use crate::demonstration::{PROMPT, fact_line, shown_with};
use crate::{IkeHparams, Selection};

/// Newest layout of the overlay's data.
const VERSION: u32 = 1;
/// What is left free if `reserve` is not given, at most.
const RESERVE: usize = 128;

/// Demonstrations and new facts, of one edit or of several that were merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Context {
    version: u32,
    /// How the demonstrations stand: the nearest first, or last.
    selection: Selection,
    /// Number of demonstrations at most.
    k: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reserve: Option<usize>,
    /// The nearest first.
    demonstrations: Vec<Shown>,
    /// Later ones win.
    facts: Vec<Fact>,
}

/// A demonstration and how near it is to the facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) text: String,
    pub(crate) similarity: f32,
}

/// A prompt, and how it is to be completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fact {
    pub(crate) prompt: String,
    pub(crate) target: String,
}

impl Fact {
    pub(crate) fn text(&self) -> String {
        join_target(&self.prompt, &self.target)
    }
}

/// A context that a model has room for.
pub(crate) struct Fitted {
    /// All that stands before the question.
    pub(crate) text: String,
    pub(crate) tokens: usize,
    pub(crate) used: usize,
    pub(crate) left_out: usize,
}

impl Context {
    pub(crate) fn new(hparams: &IkeHparams, demonstrations: Vec<Shown>, facts: Vec<Fact>) -> Self {
        let empty = Self {
            version: VERSION,
            selection: hparams.selection,
            k: hparams.k,
            reserve: hparams.reserve,
            demonstrations: Vec::new(),
            facts: Vec::new(),
        };
        let own = Self { demonstrations, facts, ..empty.clone() };
        // Two requests may be about one prompt.
        empty.then(own)
    }

    /// # Errors
    ///
    /// [`Error::Unsupported`] if the overlay's data are not this method's.
    pub(crate) fn of_overlay(overlay: &Overlay) -> Result<Self> {
        let fail = |message: String| Error::Unsupported { method: IkeHparams::METHOD.to_owned(), message };
        let version = overlay.data.get("version").and_then(serde_json::Value::as_u64);
        if version.is_some_and(|version| version > u64::from(VERSION)) {
            return Err(fail(format!("the edit's overlay is of version {version:?}, newer than this program reads; update easyedit")));
        }
        let context: Self = serde_json::from_value(overlay.data.clone())
            .map_err(|e| fail(format!("the edit's overlay holds no demonstrations and facts: {e}")))?;
        if context.facts.is_empty() {
            return Err(fail("the edit's overlay holds no fact".into()));
        }
        Ok(context)
    }

    pub(crate) fn to_overlay(&self) -> Result<Overlay> {
        let data = serde_json::to_value(self).map_err(Error::other)?;
        Ok(Overlay { data, ..Overlay::default() })
    }

    /// One context of this and a later one: a later fact about a prompt takes the place of an earlier one, and of all demonstrations the
    /// nearest are kept.
    pub(crate) fn then(self, later: Self) -> Self {
        let mut merged = Self { demonstrations: Vec::new(), facts: Vec::new(), ..later.clone() };
        for fact in self.facts.into_iter().chain(later.facts) {
            merged.facts.retain(|earlier| earlier.prompt != fact.prompt);
            merged.facts.push(fact);
        }
        for shown in self.demonstrations.into_iter().chain(later.demonstrations) {
            match merged.demonstrations.iter_mut().find(|known| known.text == shown.text) {
                Some(known) => known.similarity = known.similarity.max(shown.similarity),
                None => merged.demonstrations.push(shown),
            }
        }
        merged.demonstrations.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        merged.demonstrations.truncate(merged.k);
        merged
    }

    /// What stands before a question with the `used` nearest demonstrations: these, the facts' own, which repeat them, and the facts. A fact
    /// alone is not repeated: there is nothing to be shown the form of.
    pub(crate) fn text(&self, used: usize) -> String {
        let nearest = self.demonstrations.iter().take(used).map(|shown| shown.text.as_str());
        let mut text: String = match self.selection {
            Selection::Nearest => nearest.collect(),
            Selection::Ratio => nearest.rev().collect(),
        };
        let facts: Vec<String> = self.facts.iter().map(Fact::text).collect();
        if used > 0 {
            facts.iter().for_each(|fact| text.push_str(&shown_with(fact, fact)));
        }
        facts.iter().for_each(|fact| text.push_str(&fact_line(fact)));
        text
    }

    /// The text with as many demonstrations as the model has room for, the farthest left out first.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if not even the facts fit.
    pub(crate) fn fitted(&self, model: &dyn LanguageModel) -> Result<Fitted> {
        let positions = model.spec().max_positions;
        let reserve = self.reserve.unwrap_or_else(|| RESERVE.min(positions / 4));
        let room = positions.saturating_sub(reserve);
        let tokens = |used: usize| Ok::<_, Error>(encode_prompt(model, &format!("{}{PROMPT}", self.text(used)))?.len());
        let all = self.demonstrations.len();
        // Most often all fit. Otherwise the largest number that does, between one that fits and one that does not.
        let (mut used, mut length) = (all, tokens(all)?);
        if length > room {
            let (mut fits, mut too_many) = (0, all);
            let least = tokens(0)?;
            if least > room {
                return Err(Error::Unsupported {
                    method: IkeHparams::METHOD.to_owned(),
                    message: format!(
                        "the new facts ({}) alone have {least} tokens; {} has {positions} positions, of which {reserve} are kept free (reserve); edit fewer facts, or set a smaller reserve",
                        self.facts.len(),
                        model.spec().name
                    ),
                });
            }
            length = least;
            while too_many - fits > 1 {
                let middle = fits + (too_many - fits) / 2;
                let long = tokens(middle)?;
                if long <= room {
                    (fits, length) = (middle, long);
                } else {
                    too_many = middle;
                }
            }
            used = fits;
        }
        Ok(Fitted { text: self.text(used), tokens: length, used, left_out: all - used })
    }
}

/// Every prompt is read behind a text.
#[derive(Debug)]
pub(crate) struct InContext {
    pub(crate) text: String,
}

impl ForwardChange for InContext {
    fn prompt_text<'a>(&self, prompt: &'a str) -> Cow<'a, str> {
        Cow::Owned(format!("{}{PROMPT}{prompt}", self.text))
    }
}
