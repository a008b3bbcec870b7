use easyedit_core::tokens::{FactToken, SubjectPrompt, encode_with_target};
use easyedit_core::{LanguageModel, TokenRow};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::tokenizer::END_ID;
use crate::{Result, Sentence};

/// Sentences in one row at most.
const SENTENCES: usize = 3;
/// How much a token that is not part of an answer counts in the loss, in answers' tokens.
const TEXT_WEIGHT: f32 = 0.3;
/// Share of the sentences whose tokens after the subject do without the attention of the first layers.
const BLIND: f64 = 0.9;

/// Share of the rows that begin with a sentence broken off: what stands before a text should not matter, whatever it is.
const BROKEN: f64 = 0.3;

/// Tokens to train on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// What an encoder reads; empty for a decoder-only model.
    pub(crate) source: TokenRow,
    pub(crate) tokens: TokenRow,
    /// How much the prediction of each token counts; the first is not used, because nothing predicts it.
    pub(crate) weights: Vec<f32>,
    /// Tokens that do without the attention of the first layers.
    pub(crate) blind: Vec<bool>,
}

struct Encoded {
    row: Row,
    /// Index of the subject's last token.
    subject_last: usize,
}

/// Encoded sentences, dealt out in rows of a few sentences in an order that changes with each round.
pub(crate) struct Batches {
    sentences: Vec<Encoded>,
    order: Vec<usize>,
    /// Whether several sentences can share a row: not where an encoder reads one and the decoder answers it.
    running_text: bool,
    rng: ChaCha8Rng,
}

impl Batches {
    pub(crate) fn new(model: &dyn LanguageModel, sentences: &[Sentence], rng: ChaCha8Rng) -> Result<Self> {
        let running_text = model.spec().encoder.is_none();
        let encode = if running_text { encode_text } else { encode_answer };
        let sentences = sentences.iter().map(|sentence| encode(model, sentence)).collect::<Result<Vec<Encoded>>>()?;
        Ok(Self { sentences, order: Vec::new(), running_text, rng })
    }

    /// Rows of together about `tokens` tokens.
    pub(crate) fn next(&mut self, tokens: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut count = 0;
        while count < tokens {
            let mut row = Row::default();
            if self.running_text && self.rng.random_bool(BROKEN) {
                self.break_off(&mut row);
            }
            for _ in 0..if self.running_text { self.rng.random_range(1..=SENTENCES) } else { 1 } {
                self.append(&mut row);
            }
            count += row.source.len() + row.tokens.len();
            rows.push(row);
        }
        rows
    }

    /// The beginning of some sentence and a full stop.
    fn break_off(&mut self, row: &mut Row) {
        let Some(Row { tokens, .. }) = self.sentences.choose(&mut self.rng).map(|sentence| &sentence.row) else { return };
        let Some(words) = tokens.len().checked_sub(1) else { return };
        let kept = self.rng.random_range(1..words.max(2)).min(words);
        row.tokens.append(tokens.prefix(kept));
        row.tokens.append(tokens.suffix(words));
        row.weights.resize(row.tokens.len(), 0.0);
        row.blind.resize(row.tokens.len(), false);
    }

    fn append(&mut self, row: &mut Row) {
        if self.order.is_empty() {
            self.order = (0..self.sentences.len()).collect();
            self.order.shuffle(&mut self.rng);
        }
        let Some(next) = self.order.pop().and_then(|index| self.sentences.get(index)) else { return };
        let blind = self.rng.random_bool(BLIND);
        row.source.append(&next.row.source);
        row.tokens.append(&next.row.tokens);
        row.weights.extend(&next.row.weights);
        row.blind.extend((0..next.row.tokens.len()).map(|index| blind && index > next.subject_last));
    }
}

/// A sentence of running text, for a decoder-only model.
fn encode_text(model: &dyn LanguageModel, sentence: &Sentence) -> Result<Encoded> {
    let Sentence { prompt, subject, completion } = sentence;
    let (before, after) = prompt.split_once(subject.as_str()).unwrap_or((prompt, ""));
    let prompt = SubjectPrompt::from_parts(before, subject, after);
    let (fact, tokens) = prompt.encode_with_target(model.tokenizer(), FactToken::SubjectLast, &format!("{completion}."))?;
    let weights = (0..tokens.row.len()).map(|index| if index < tokens.start { TEXT_WEIGHT } else { 1.0 }).collect();
    let blind = vec![false; tokens.row.len()];
    Ok(Encoded { row: Row { source: TokenRow::default(), tokens: tokens.row, weights, blind }, subject_last: fact.fact_index })
}

/// The prompt for the encoder, and the answer and the end of the text for the decoder.
fn encode_answer(model: &dyn LanguageModel, sentence: &Sentence) -> Result<Encoded> {
    let tokens = encode_with_target(model, &sentence.prompt, &sentence.completion)?.ending_in(END_ID);
    let (weights, blind) = (vec![1.0; tokens.row.len()], vec![false; tokens.row.len()]);
    let subject_last = tokens.row.len();
    Ok(Encoded { row: Row { source: tokens.source, tokens: tokens.row, weights, blind }, subject_last })
}
