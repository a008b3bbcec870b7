use std::borrow::Cow;

use crate::tokens::TargetTokens;
use crate::{AsTokens, Generation, GenerationConfig, Progress, Result, Silent, TokenSlice, Tokenizer};

/// Something that continues texts, seen from outside: it is asked for predictions and says nothing about how it makes them.
///
/// Metrics, perplexity, generation and reports need no more than this. Every [`LanguageModel`](crate::LanguageModel) is one, and so is
/// whatever answers different prompts by different models.
pub trait Predictor: Send + Sync {
    /// Its name, for messages.
    fn name(&self) -> &str;

    /// The tokenizer of the rows it is asked with, and of the ids it generates.
    fn tokenizer(&self) -> &Tokenizer;

    /// Longest row it reads, in tokens.
    fn max_positions(&self) -> usize;

    /// The token that every row of the decoder begins with, if it is an encoder-decoder: prompts are then sources of their own, not the
    /// beginnings of rows.
    fn decoder_start(&self) -> Option<u32>;

    /// What it reads in place of `prompt`: the prompt itself, unless something puts it into a context.
    /// [`encode_prompt`](crate::tokens::encode_prompt) and [`encode_with_target`](crate::tokens::encode_with_target) ask for it.
    fn prompt_text<'a>(&self, prompt: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(prompt)
    }

    /// What it predicts at each token of the rows' targets, given all tokens before it: one [`TargetScore`] a row. Each row that is done is a
    /// step of `progress`.
    ///
    /// # Errors
    ///
    /// If a row is longer than [`max_positions`](Self::max_positions), or the logits are not finite.
    fn score(&self, rows: &[&TargetTokens], progress: &dyn Progress) -> Result<Vec<TargetScore>>;

    /// Continues prompts, all of them in one batch; [`encode_prompt`](crate::tokens::encode_prompt) encodes them. Before every token, `progress` is
    /// asked whether the work is to end.
    ///
    /// # Errors
    ///
    /// If a prompt is empty, is longer with its continuation than [`max_positions`](Self::max_positions), or the logits are not finite;
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    fn generate(&self, prompts: &[TokenSlice<'_>], config: &GenerationConfig, progress: &dyn Progress) -> Result<Vec<Generation>>;
}

/// What a [`Predictor`] makes of a target, token by token; all three lists have the target's length.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetScore {
    /// The target, in the tokens of what answered.
    pub target: Vec<u32>,
    /// The most probable token at each place; of equal ones the smallest id.
    pub predicted: Vec<u32>,
    /// Natural logarithm of the probability of each token of the target, at most 0.
    pub log_probs: Vec<f32>,
}

/// Continues prompts, all of them in one batch: [`Predictor::generate`] of whatever holds tokens.
///
/// # Errors
///
/// As [`Predictor::generate`].
pub fn generate<P: AsTokens>(predictor: &dyn Predictor, prompts: &[P], config: &GenerationConfig) -> Result<Vec<Generation>> {
    generate_while(predictor, prompts, config, &Silent)
}

/// As [`generate`], until `progress` says that the work is to end.
///
/// # Errors
///
/// As [`Predictor::generate`].
pub fn generate_while<P: AsTokens>(
    predictor: &dyn Predictor,
    prompts: &[P],
    config: &GenerationConfig,
    progress: &dyn Progress,
) -> Result<Vec<Generation>> {
    let prompts: Vec<TokenSlice<'_>> = prompts.iter().map(AsTokens::as_tokens).collect();
    predictor.generate(&prompts, config, progress)
}
