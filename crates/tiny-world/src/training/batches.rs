use easyedit_core::Tokenizer;
use easyedit_core::tokens::encode_with_target;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::Result;

/// Sentences in one row at most.
const SENTENCES: usize = 3;
/// How much a token that is not part of an answer counts in the loss, in answers' tokens.
const TEXT_WEIGHT: f32 = 0.3;

/// A row to train on: tokens, and how much the prediction of each counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) ids: Vec<u32>,
    /// One per token; the weight of the first is not used, because nothing predicts it.
    pub(crate) weights: Vec<f32>,
}

/// Encoded sentences, dealt out in rows of a few sentences in an order that changes with each round.
pub(crate) struct Batches {
    sentences: Vec<Row>,
    order: Vec<usize>,
    rng: ChaCha8Rng,
}

impl Batches {
    pub(crate) fn new(tokenizer: &Tokenizer, sentences: &[(String, String)], rng: ChaCha8Rng) -> Result<Self> {
        let encode = |(prompt, object): &(String, String)| -> Result<Row> {
            let tokens = encode_with_target(tokenizer, prompt, &format!("{object}."))?;
            let weight = |index: usize| if index < tokens.start { TEXT_WEIGHT } else { 1.0 };
            Ok(Row { weights: (0..tokens.ids.len()).map(weight).collect(), ids: tokens.ids })
        };
        let sentences = sentences.iter().map(encode).collect::<Result<Vec<Row>>>()?;
        Ok(Self { sentences, order: Vec::new(), rng })
    }

    /// Rows of together about `tokens` tokens.
    pub(crate) fn next(&mut self, tokens: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut count = 0;
        while count < tokens {
            let mut row = Row::default();
            for _ in 0..self.rng.random_range(1..=SENTENCES) {
                let sentence = self.draw();
                row.ids.extend(&sentence.ids);
                row.weights.extend(&sentence.weights);
            }
            count += row.ids.len();
            rows.push(row);
        }
        rows
    }

    fn draw(&mut self) -> Row {
        if self.order.is_empty() {
            self.order = (0..self.sentences.len()).collect();
            self.order.shuffle(&mut self.rng);
        }
        self.order.pop().and_then(|index| self.sentences.get(index)).cloned().unwrap_or_default()
    }
}
