use easyedit_core::Tokenizer;
use easyedit_core::tokens::{FactToken, SubjectPrompt};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

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
    pub(crate) ids: Vec<u32>,
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
    rng: ChaCha8Rng,
}

impl Batches {
    pub(crate) fn new(tokenizer: &Tokenizer, sentences: &[Sentence], rng: ChaCha8Rng) -> Result<Self> {
        let encode = |sentence: &Sentence| -> Result<Encoded> {
            let Sentence { prompt, subject, completion } = sentence;
            let (before, after) = prompt.split_once(subject.as_str()).unwrap_or((prompt, ""));
            let prompt = SubjectPrompt::from_parts(before, subject, after);
            let (fact, tokens) = prompt.encode_with_target(tokenizer, FactToken::SubjectLast, &format!("{completion}."))?;
            let weights = (0..tokens.ids.len()).map(|index| if index < tokens.start { TEXT_WEIGHT } else { 1.0 }).collect();
            let blind = vec![false; tokens.ids.len()];
            Ok(Encoded { row: Row { ids: tokens.ids, weights, blind }, subject_last: fact.fact_index })
        };
        let sentences = sentences.iter().map(encode).collect::<Result<Vec<Encoded>>>()?;
        Ok(Self { sentences, order: Vec::new(), rng })
    }

    /// Rows of together about `tokens` tokens.
    pub(crate) fn next(&mut self, tokens: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut count = 0;
        while count < tokens {
            let mut row = Row::default();
            if self.rng.random_bool(BROKEN) {
                self.break_off(&mut row);
            }
            for _ in 0..self.rng.random_range(1..=SENTENCES) {
                self.append(&mut row);
            }
            count += row.ids.len();
            rows.push(row);
        }
        rows
    }

    /// The beginning of some sentence and a full stop.
    fn break_off(&mut self, row: &mut Row) {
        let Some(Row { ids, .. }) = self.sentences.choose(&mut self.rng).map(|sentence| &sentence.row) else { return };
        let Some((stop, words)) = ids.split_last() else { return };
        let kept = self.rng.random_range(1..words.len().max(2));
        row.ids.extend(words.iter().take(kept).chain([stop]));
        row.weights.resize(row.ids.len(), 0.0);
        row.blind.resize(row.ids.len(), false);
    }

    fn append(&mut self, row: &mut Row) {
        if self.order.is_empty() {
            self.order = (0..self.sentences.len()).collect();
            self.order.shuffle(&mut self.rng);
        }
        let Some(next) = self.order.pop().and_then(|index| self.sentences.get(index)) else { return };
        let blind = self.rng.random_bool(BLIND);
        row.ids.extend(&next.row.ids);
        row.weights.extend(&next.row.weights);
        row.blind.extend((0..next.row.ids.len()).map(|index| blind && index > next.subject_last));
    }
}
