//! A base model under a memory: who answers is decided once per row, from the prompt alone.

use easyedit_core::tokens::{TargetTokens, encode_prompt, encode_with_target};
use easyedit_core::{
    Error, ForwardChange, Generation, GenerationConfig, LanguageModel, Predictor, Progress, Result, Sampling, TargetScore, TokenSlice,
    Tokenizer,
};

use crate::mixture::{self, Mixed};
use crate::networks::vocabulary;
use crate::scoped::{Nearest, ScopedMemory};

/// Who answers a query in scope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Routing {
    /// The counterfactual model if the score is above the threshold; else the base model, bit for bit as without a memory.
    Hard {
        /// In (0, 1).
        threshold: f64,
    },
    /// Both, mixed by the score: log((1 − s) p_base + s p_counterfactual + ε).
    Soft,
}

/// A base model with a memory of edits beside it.
#[derive(Clone)]
pub struct RoutedPredictor {
    base: Box<dyn LanguageModel>,
    scope: ScopedMemory,
    routing: Routing,
    /// Whether both models have the same tokens, so that generated ones need not be encoded anew.
    same_vocabulary: bool,
}

impl std::fmt::Debug for RoutedPredictor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let base = &self.base.spec().name;
        f.debug_struct("RoutedPredictor").field("base", base).field("routing", &self.routing).field("scope", &self.scope).finish()
    }
}

impl RoutedPredictor {
    /// The model `base` with a memory.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a mixture of models whose vocabularies differ: probabilities of different tokens cannot be mixed.
    pub fn new(base: Box<dyn LanguageModel>, scope: ScopedMemory, routing: Routing) -> Result<Self> {
        let counterfactual = &scope.networks().counterfactual;
        let same_vocabulary = vocabulary(base.tokenizer()) == vocabulary(counterfactual.tokenizer())
            && base.decoder_start().is_some() == counterfactual.decoder_start().is_some();
        if routing == Routing::Soft && !same_vocabulary {
            return Err(Error::Unsupported {
                method: "SERAC".to_owned(),
                message: format!(
                    "cannot mix the probabilities of {} and {}, whose vocabularies differ; route instead (supervised: true, soft_weighting: false)",
                    base.spec().name,
                    counterfactual.spec().name
                ),
            });
        }
        Ok(Self { base, scope, routing, same_vocabulary })
    }

    /// The memory.
    pub fn scope(&self) -> &ScopedMemory {
        &self.scope
    }

    /// The nearest edit of each prompt, as the base model encodes prompts; `None` where nothing but the base model can answer.
    ///
    /// # Errors
    ///
    /// As [`ScopedMemory::nearest`].
    pub fn decide(&self, prompts: &[TokenSlice<'_>]) -> Result<Vec<(String, Option<Nearest>)>> {
        // Vectors in the place of tokens have no text.
        let text = |prompt: &TokenSlice<'_>| match prompt.inserts().next().is_none() {
            true => self.scope.text_of(&*self.base, *prompt),
            false => Ok(String::new()),
        };
        let texts = prompts.iter().map(text).collect::<Result<Vec<String>>>()?;
        let mut nearest = self.scope.nearest(&texts)?;
        if let Routing::Hard { threshold } = self.routing {
            nearest.iter_mut().for_each(|nearest| *nearest = nearest.filter(|found| found.score > threshold));
        }
        Ok(texts.into_iter().zip(nearest).collect())
    }

    /// What the counterfactual model reads for a query.
    fn context(&self, query: &str, nearest: Nearest) -> Result<String> {
        let entry = self.scope.entry(nearest).ok_or_else(|| Error::Batch("the memory has no such edit".into()))?;
        Ok(entry.context(query))
    }

    /// A row as the counterfactual model reads it.
    fn counterfactual_row(&self, query: &str, nearest: Nearest, row: &TargetTokens) -> Result<TargetTokens> {
        let counterfactual = &*self.scope.networks().counterfactual;
        let target = self.base.tokenizer().decode(row.target())?;
        let tokens = encode_with_target(counterfactual, &self.context(query, nearest)?, target.trim())?;
        let is_ended = row.target().last().is_some_and(|last| self.base.tokenizer().eos().contains(last));
        Ok(match counterfactual.tokenizer().eos().first() {
            Some(end) if is_ended => tokens.ending_in(*end),
            _ => tokens,
        })
    }

    /// The base model's tokens of what the counterfactual model has written behind a query.
    fn in_base_tokens(&self, query: &str, written: Generation, limit: usize) -> Result<Generation> {
        if self.same_vocabulary {
            return Ok(written);
        }
        let counterfactual = &*self.scope.networks().counterfactual;
        let text = counterfactual.tokenizer().decode(&written.ids)?;
        let mut ids = match text.trim().is_empty() {
            true => Vec::new(),
            false if self.base.decoder_start().is_some() => self.base.tokenizer().encode_bare(text.trim())?,
            false => encode_with_target(&*self.base, query, &text)?.target().to_vec(),
        };
        let is_ended = written.ids.last().is_some_and(|last| counterfactual.tokenizer().eos().contains(last));
        ids.extend(self.base.tokenizer().eos().first().filter(|_| is_ended));
        ids.truncate(limit);
        Ok(Generation { ids })
    }

    fn generate_routed(&self, query: &str, nearest: Nearest, config: &GenerationConfig) -> Result<Generation> {
        let counterfactual = &*self.scope.networks().counterfactual;
        let prompt = encode_prompt(counterfactual, &self.context(query, nearest)?)?;
        let written = counterfactual.generate(&[prompt.as_slice()], config)?.into_iter().next();
        self.in_base_tokens(query, written.unwrap_or(Generation { ids: Vec::new() }), config.max_new_tokens)
    }

    fn mixed<'a>(&'a self, nearest: Nearest) -> Mixed<'a> {
        Mixed { base: &*self.base, counterfactual: &*self.scope.networks().counterfactual, score: nearest.score }
    }
}

impl Predictor for RoutedPredictor {
    fn name(&self) -> &str {
        self.base.name()
    }

    fn tokenizer(&self) -> &Tokenizer {
        self.base.tokenizer()
    }

    fn max_positions(&self) -> usize {
        self.base.max_positions()
    }

    fn decoder_start(&self) -> Option<u32> {
        self.base.decoder_start()
    }

    fn score(&self, rows: &[&TargetTokens], progress: &dyn Progress) -> Result<Vec<TargetScore>> {
        let prompts: Vec<TokenSlice<'_>> = rows.iter().map(|row| row.prompt()).collect();
        let decided = self.decide(&prompts)?;
        let mut scored: Vec<Option<TargetScore>> = vec![None; rows.len()];
        let (mut base_places, mut base_rows) = (Vec::new(), Vec::new());
        let (mut other_places, mut other_rows) = (Vec::new(), Vec::new());
        for (place, (row, (query, nearest))) in rows.iter().zip(&decided).enumerate() {
            match (*nearest, self.routing) {
                (None, _) => {
                    base_places.push(place);
                    base_rows.push(*row);
                }
                (Some(nearest), Routing::Hard { .. }) => {
                    other_places.push(place);
                    other_rows.push(self.counterfactual_row(query, nearest, row)?);
                }
                (Some(nearest), Routing::Soft) => {
                    let other = self.counterfactual_row(query, nearest, row)?;
                    if let Some(place) = scored.get_mut(place) {
                        *place = Some(mixture::score(self.mixed(nearest), row, &other)?);
                    }
                    progress.step(1)?;
                }
            }
        }
        let base = if base_rows.is_empty() { Vec::new() } else { self.base.score(&base_rows, progress)? };
        let routed: Vec<&TargetTokens> = other_rows.iter().collect();
        let counterfactual = &self.scope.networks().counterfactual;
        let routed = if routed.is_empty() { Vec::new() } else { counterfactual.score(&routed, progress)? };
        for (place, score) in base_places.into_iter().zip(base).chain(other_places.into_iter().zip(routed)) {
            if let Some(found) = scored.get_mut(place) {
                *found = Some(score);
            }
        }
        Ok(scored.into_iter().flatten().collect())
    }

    fn generate(&self, prompts: &[TokenSlice<'_>], config: &GenerationConfig) -> Result<Vec<Generation>> {
        let decided = self.decide(prompts)?;
        let mut found: Vec<Option<Generation>> = vec![None; prompts.len()];
        let (mut places, mut base) = (Vec::new(), Vec::new());
        for (row, (prompt, (query, nearest))) in prompts.iter().zip(&decided).enumerate() {
            // A row that is drawn alone has the stream it has in its batch.
            let own = config.of_row(row);
            let generation = match (*nearest, self.routing) {
                (None, _) if config.sampling == Sampling::Greedy => {
                    places.push(row);
                    base.push(*prompt);
                    continue;
                }
                (None, _) => self.base.generate(&[*prompt], &own)?.into_iter().next(),
                (Some(nearest), Routing::Hard { .. }) => Some(self.generate_routed(query, nearest, &own)?),
                (Some(nearest), Routing::Soft) => {
                    let other = encode_prompt(&*self.scope.networks().counterfactual, &self.context(query, nearest)?)?;
                    Some(mixture::generate(self.mixed(nearest), prompt.to_row(), other, &own)?)
                }
            };
            if let Some(place) = found.get_mut(row) {
                *place = generation;
            }
        }
        for (row, generation) in places.into_iter().zip(self.base.generate(&base, config)?) {
            if let Some(place) = found.get_mut(row) {
                *place = Some(generation);
            }
        }
        Ok(found.into_iter().map(|generation| generation.unwrap_or(Generation { ids: Vec::new() })).collect())
    }
}

/// The overlay's change of a model: the memory answers in its place.
#[derive(Debug)]
pub(crate) struct MemoryBeside(pub(crate) RoutedPredictor);

impl ForwardChange for MemoryBeside {
    fn predictor(&self) -> Option<&dyn Predictor> {
        Some(&self.0)
    }
}
