//! Which tokens are the subject, and which the target: the one place that decides.
//!
//! Both questions are answered from the tokenizer's byte offsets on the full text, never by counting the tokens of a piece: byte-pair
//! merges and SentencePiece's leading space make a piece's tokens differ from its tokens inside a sentence.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::subject::{PLACEHOLDER, fill, occurrences};
use crate::{Encoding, Predictor, Result, TokenRow, TokenSlice, Tokenizer};

/// Token at which a fact is read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactToken {
    /// The last token of the subject.
    #[default]
    SubjectLast,
    /// The first token of the subject.
    SubjectFirst,
    /// The token after the subject; the subject's last token if nothing follows.
    SubjectFirstAfterLast,
    /// The last token of the prompt.
    Last,
}

/// A prompt split around its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectPrompt {
    before: String,
    subject: String,
    after: String,
    /// How often the subject occurs in the prompt; the last occurrence is the one used.
    pub occurrences: usize,
}

impl SubjectPrompt {
    /// Splits a prompt at its only `{}`, where the subject is filled in. Without one, it is split at the last occurrence of the subject as a whole
    /// word.
    ///
    /// # Errors
    ///
    /// Why the subject has no place in the prompt.
    pub fn find(prompt: &str, subject: &str) -> Result<Self, String> {
        let split = |text: &str, range: Range<usize>, occurrences: usize| Self {
            before: text[..range.start].to_owned(),
            subject: subject.to_owned(),
            after: text[range.end..].to_owned(),
            occurrences,
        };
        if let Some((filled, range)) = fill(prompt, subject) {
            return Ok(split(&filled, range, 1));
        }
        let found = occurrences(prompt, subject);
        if let Some(last) = found.last() {
            return Ok(split(prompt, last.clone(), found.len()));
        }
        let places = prompt.matches(PLACEHOLDER).count();
        Err(if places > 1 {
            format!("the prompt {prompt:?} has {places} places {PLACEHOLDER} for the subject; a template has one")
        } else if prompt.contains(subject) {
            format!("the subject {subject:?} occurs only inside longer words of the prompt {prompt:?}; mark its place with {PLACEHOLDER}")
        } else {
            format!("the subject {subject:?} does not occur in the prompt {prompt:?}")
        })
    }

    /// A prompt made of its parts, for texts that are not requests.
    pub fn from_parts(before: &str, subject: &str, after: &str) -> Self {
        Self { before: before.to_owned(), subject: subject.to_owned(), after: after.to_owned(), occurrences: 1 }
    }

    /// The subject.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The whole prompt.
    pub fn text(&self) -> String {
        [self.before.as_str(), &self.subject, &self.after].concat()
    }

    /// Byte range of the subject in [`text`](Self::text).
    pub fn subject_range(&self) -> Range<usize> {
        self.before.len()..self.before.len() + self.subject.len()
    }

    /// The prompt inside a context template such as `"The first of the. {}"`; a template without `{}` comes before the prompt.
    pub fn in_context(&self, template: &str) -> Self {
        let (head, tail) = template.split_once("{}").unwrap_or((template, ""));
        Self {
            before: format!("{head}{}", self.before),
            subject: self.subject.clone(),
            after: format!("{}{tail}", self.after),
            occurrences: self.occurrences,
        }
    }

    /// Encodes the prompt and finds its fact token.
    ///
    /// # Errors
    ///
    /// If the tokenizer refuses the text, or no token overlaps the subject.
    pub fn encode(&self, tokenizer: &Tokenizer, fact_token: FactToken) -> Result<FactPrompt> {
        let encoding = tokenizer.encode(&self.text())?;
        let prompt_tokens = encoding.ids.len();
        self.locate(encoding, prompt_tokens, fact_token)
    }

    /// Encodes the prompt followed by `target`, and finds the fact token and the target's tokens: for decoder-only models, in which both
    /// are in one sequence.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode) and [`encode_with_target`].
    pub fn encode_with_target(&self, tokenizer: &Tokenizer, fact_token: FactToken, target: &str) -> Result<(FactPrompt, TargetTokens)> {
        let text = self.text();
        let joint = tokenizer.encode(&join_target(&text, target))?;
        let target = target_of(tokenizer, &text, target, joint.clone())?;
        let prompt = self.locate(joint, target.start, fact_token)?;
        Ok((prompt, target))
    }

    fn locate(&self, encoding: Encoding, prompt_tokens: usize, fact_token: FactToken) -> Result<FactPrompt> {
        let subject = self.subject_range();
        let inside = |span: &Range<usize>| span.start < subject.end && span.end > subject.start && !span.is_empty();
        let first = encoding.spans[..prompt_tokens].iter().position(inside);
        let last = encoding.spans[..prompt_tokens].iter().rposition(inside);
        let (Some(first), Some(last)) = (first, last) else {
            return Err(crate::Error::Tokenizer(format!("no token of {:?} stands for the subject {:?}", self.text(), self.subject)));
        };
        let fact_index = match fact_token {
            FactToken::SubjectLast => last,
            FactToken::SubjectFirst => first,
            FactToken::SubjectFirstAfterLast => (last + 1).min(prompt_tokens - 1),
            FactToken::Last => prompt_tokens - 1,
        };
        Ok(FactPrompt { row: encoding.ids.into(), prompt_tokens, subject: first..last + 1, fact_index })
    }
}

/// An encoded prompt (and target, if one was appended) with its fact token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactPrompt {
    /// All tokens.
    pub row: TokenRow,
    /// How many of them are the prompt's.
    pub prompt_tokens: usize,
    /// Indices of the subject's tokens.
    pub subject: Range<usize>,
    /// Index of the fact token.
    pub fact_index: usize,
}

/// A prompt and its target as the token sequences a model runs.
///
/// A decoder-only model reads both as one sequence. In an encoder-decoder the encoder reads the prompt, and the decoder's row is the
/// model's start token followed by the target. [`input`](Self::input) and [`predicting`](Self::predicting) are true of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetTokens {
    /// The row an encoder reads; empty for a decoder-only model.
    pub source: TokenRow,
    /// The (decoder's) row: what comes before the target, and the target. A token that ends the text is not part of it.
    pub row: TokenRow,
    /// Index of the target's first token in `row`. At least 1.
    pub start: usize,
}

impl TargetTokens {
    /// The target's ids.
    pub fn target(&self) -> &[u32] {
        self.row.suffix(self.start).ids()
    }

    /// The prompt as [`generate`](crate::generate) takes it.
    pub fn prompt(&self) -> TokenSlice<'_> {
        if self.source.is_empty() { self.row.prefix(self.start) } else { self.source.as_slice() }
    }

    /// The sequence a model is run on to predict the target: all but the last token.
    pub fn input(&self) -> TokenSlice<'_> {
        self.row.prefix(self.row.len().saturating_sub(1))
    }

    /// Indices into [`input`](Self::input) whose logits predict the target's tokens.
    pub fn predicting(&self) -> Range<usize> {
        self.start - 1..self.row.len() - 1
    }

    /// Number of tokens of the longer of source and row: what a model's positions have to hold.
    pub fn longest(&self) -> usize {
        self.source.len().max(self.row.len())
    }

    /// The same with `id` as one more token of the target, e.g. the end of the text, which models learn but metrics do not count.
    #[must_use]
    pub fn ending_in(mut self, id: u32) -> Self {
        self.row.push(id);
        self
    }
}

/// The prompt and the target with one space between them, unless one stands there already.
pub fn join_target(prompt: &str, target: &str) -> String {
    if target.starts_with(char::is_whitespace) || prompt.ends_with(char::is_whitespace) || prompt.is_empty() {
        format!("{prompt}{target}")
    } else {
        format!("{prompt} {target}")
    }
}

/// A prompt as [`generate`](crate::generate) takes it: the start of a sequence, or, for an encoder, a whole one. It is encoded as the model
/// [reads](Predictor::prompt_text) it.
///
/// # Errors
///
/// [`Error::Tokenizer`](crate::Error::Tokenizer) if the tokenizer refuses the text.
pub fn encode_prompt(model: &dyn Predictor, prompt: &str) -> Result<TokenRow> {
    let prompt = model.prompt_text(prompt);
    match model.decoder_start() {
        Some(_) => Ok(model.tokenizer().encode_whole(&prompt)?.into()),
        None => Ok(model.tokenizer().encode(&prompt)?.ids.into()),
    }
}

/// What a model runs to continue a prompt: the source its encoder reads (empty for a decoder-only model), and the first tokens of the
/// row it continues.
pub fn opening(model: &dyn Predictor, prompt: TokenRow) -> (TokenRow, TokenRow) {
    match model.decoder_start() {
        Some(start) => (prompt, vec![start].into()),
        None => (TokenRow::default(), prompt),
    }
}

/// Encodes `prompt`, as the model [reads](Predictor::prompt_text) it, with `target` as its continuation.
///
/// For a decoder-only model the target's tokens are those of the joint text behind the longest prefix it shares with the prompt alone, so
/// no BOS and no lone space becomes part of the target. For an encoder-decoder they are those of the target alone, without special tokens.
///
/// # Errors
///
/// [`Error::Tokenizer`](crate::Error::Tokenizer) if the tokenizer refuses the text, or prompt or target has no token.
pub fn encode_with_target(model: &dyn Predictor, prompt: &str, target: &str) -> Result<TargetTokens> {
    let tokenizer = model.tokenizer();
    if model.decoder_start().is_none() {
        let prompt = &*model.prompt_text(prompt);
        let joint = tokenizer.encode(&join_target(prompt, target))?;
        return target_of(tokenizer, prompt, target, joint);
    }
    let (source, mut row) = opening(model, encode_prompt(model, prompt)?);
    let target_ids = tokenizer.encode_bare(target.trim())?;
    if source.is_empty() || prompt.is_empty() {
        return Err(crate::Error::Tokenizer(format!("the prompt before the target {target:?} has no tokens of its own")));
    }
    if target_ids.is_empty() {
        return Err(crate::Error::Tokenizer(format!("the target {target:?} adds no token to the prompt {prompt:?}")));
    }
    let start = row.len();
    row.append(target_ids);
    Ok(TargetTokens { source, row, start })
}

fn target_of(tokenizer: &Tokenizer, prompt: &str, target: &str, joint: Encoding) -> Result<TargetTokens> {
    let alone = if prompt.is_empty() { Vec::new() } else { tokenizer.encode(prompt)?.ids };
    let shared = alone.iter().zip(&joint.ids).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return Err(crate::Error::Tokenizer(format!("the prompt before the target {target:?} has no tokens of its own")));
    }
    if shared >= joint.ids.len() {
        return Err(crate::Error::Tokenizer(format!("the target {target:?} adds no token to the prompt {prompt:?}")));
    }
    Ok(TargetTokens { source: TokenRow::default(), row: joint.ids.into(), start: shared })
}
