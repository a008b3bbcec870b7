use easyedit_core::tokens::{TargetTokens, encode_with_target};
use easyedit_core::{CheckedRequest, LanguageModel, Result, TokenRow};

/// A text to learn from: what is run, and which tokens are to be predicted where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingRow {
    /// The row an encoder reads; empty for a decoder-only model.
    pub source: TokenRow,
    /// The (decoder's) row.
    pub row: TokenRow,
    /// Index into `row` of the token whose logits predict, and the id to predict; in rising order of the index.
    pub predictions: Vec<(usize, u32)>,
}

impl TrainingRow {
    /// Each token of the target is predicted behind those before it (teacher forcing); the prompt is not learned.
    pub fn teacher_forced(tokens: &TargetTokens) -> Self {
        let predictions = tokens.predicting().zip(tokens.target().iter().copied()).collect();
        Self { source: tokens.source.clone(), row: tokens.input().to_row(), predictions }
    }

    /// Every token of the target is predicted at the last token of the prompt, behind which nothing is run.
    pub fn prompt_last(tokens: &TargetTokens) -> Self {
        let last = tokens.start - 1;
        let predictions = tokens.target().iter().map(|id| (last, *id)).collect();
        Self { source: tokens.source.clone(), row: tokens.row.prefix(tokens.start).to_row(), predictions }
    }

    /// The prompt and new target of a request as tokens; with the token that ends a text behind them if `ended` and the tokenizer
    /// has one.
    ///
    /// # Errors
    ///
    /// [`Error::Request`](easyedit_core::Error::Request) if prompt or target has no token of its own.
    pub fn tokens_of(model: &dyn LanguageModel, request: &CheckedRequest, ended: bool) -> Result<TargetTokens> {
        let tokens = encode_with_target(model, request.prompt(), request.target_new().trim_end());
        let tokens = tokens.map_err(|error| request.error(error.to_string()))?;
        Ok(match model.tokenizer().eos().first() {
            Some(end) if ended => tokens.ending_in(*end),
            _ => tokens,
        })
    }
}
