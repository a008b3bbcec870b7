//! Prompts out of scope that are easily mistaken.

use easyedit_kernels::WordVectors;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::examples::Question;
use crate::{HardNegatives, SeracHparams};

/// Tries to find a prompt of another fact by chance.
const TRIES: usize = 20;

/// A prompt that may be a negative.
#[derive(Clone, Debug)]
pub(crate) struct PoolPrompt {
    pub(crate) question: Question,
    /// The prompt of the fact it is about: it is in scope there.
    pub(crate) fact: String,
}

/// All prompts of a set, by nearness.
///
/// # Source
///
/// The distractors of SERAC's original code: of the prompts ranked by cosine the nearest are passed over, and the next are drawn with weights
/// exp(cosine / temperature). Here the cosine is that of TF-IDF vectors.
#[derive(Debug)]
pub(crate) struct Pool {
    prompts: Vec<PoolPrompt>,
    /// `None` without hard negatives.
    vectors: Option<WordVectors>,
    exclude: usize,
    neighbors: usize,
    temperature: f64,
}

impl Pool {
    pub(crate) fn new(prompts: Vec<PoolPrompt>, hparams: &SeracHparams) -> Self {
        let texts = prompts.iter().map(|one| one.question.prompt.as_str());
        let vectors = (hparams.hard_neg == HardNegatives::Words).then(|| WordVectors::of(texts));
        let SeracHparams { hard_neg_exclude: exclude, hard_neg_neighbors: neighbors, hard_neg_temp: temperature, .. } = *hparams;
        Self { prompts, vectors, exclude, neighbors, temperature }
    }

    /// A prompt near to that of a fact, and of another fact.
    pub(crate) fn hard(&self, fact: &str, rng: &mut ChaCha8Rng) -> Option<Question> {
        let similarities = self.vectors.as_ref()?.similarities(fact, self.prompts.len());
        let others = self.prompts.iter().zip(similarities).filter(|(prompt, _)| prompt.fact != fact);
        let mut ranked: Vec<(&PoolPrompt, f32)> = others.collect();
        let wanted = self.neighbors.min(ranked.len());
        if wanted < ranked.len() && wanted > 0 {
            ranked.select_nth_unstable_by(wanted - 1, |(a, x), (b, y)| {
                y.total_cmp(x).then_with(|| a.question.prompt.cmp(&b.question.prompt))
            });
            ranked.truncate(wanted);
        }
        ranked.sort_by(|(a, x), (b, y)| y.total_cmp(x).then_with(|| a.question.prompt.cmp(&b.question.prompt)));
        // In a small set everything is near: half of it is kept.
        let candidates = ranked.get(self.exclude.min(ranked.len() / 2)..)?;
        let weights: Vec<f64> = candidates.iter().map(|(_, cosine)| (f64::from(*cosine) / self.temperature).exp()).collect();
        let mut draw = rng.random::<f64>() * weights.iter().sum::<f64>();
        for ((prompt, _), weight) in candidates.iter().zip(weights) {
            draw -= weight;
            if draw <= 0.0 {
                return Some(prompt.question.clone());
            }
        }
        candidates.last().map(|(prompt, _)| prompt.question.clone())
    }

    /// Any prompt of another fact.
    pub(crate) fn any(&self, fact: &str, rng: &mut ChaCha8Rng) -> Option<Question> {
        (0..TRIES).find_map(|_| self.prompts.choose(rng).filter(|prompt| prompt.fact != fact)).map(|prompt| prompt.question.clone())
    }
}
