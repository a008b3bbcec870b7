use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::logits::most_probable;
use crate::matrix::tensor_values;
use crate::tokens::opening;
use crate::{Error, KvCache, LanguageModel, Pass, Predictor, Result, TokenBatch, TokenRow, TokenSlice};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampling {
    /// The most probable token; of equal ones the smallest id.
    #[default]
    Greedy,
    /// A token drawn from the model's distribution.
    Random {
        /// Logits are divided by it; above 0.
        temperature: f64,
        /// Only the `k` most probable tokens are drawn from.
        top_k: Option<usize>,
        /// Only the most probable tokens that together reach this probability are drawn from; in (0, 1].
        top_p: Option<f64>,
    },
}

/// Settings of [`generate`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Number of new tokens per prompt at most.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Seed of the draws; each row draws from a stream of its own, so a row's text does not depend on its neighbours.
    pub seed: u64,
    /// Go on after an end-of-text token.
    pub ignore_eos: bool,
}

impl GenerationConfig {
    /// Greedy decoding of up to `max_new_tokens` tokens.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, ..Self::default() }
    }

    /// The settings with which row `row` of a batch is continued alone as it is in the batch.
    #[must_use]
    pub fn of_row(self, row: usize) -> Self {
        Self { seed: self.seed ^ (row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15), ..self }
    }

    /// The source of the draws of a row that is continued alone, or of the first row of a batch.
    pub fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.seed)
    }
}

/// What was generated for one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The new tokens, an end-of-text token included if one came.
    pub ids: Vec<u32>,
}

impl Generation {
    /// The new text.
    ///
    /// # Errors
    ///
    /// If the tokenizer does not know an id.
    pub fn text(&self, predictor: &dyn Predictor) -> Result<String> {
        predictor.tokenizer().decode(&self.ids)
    }
}

/// [`Predictor::generate`] of a model, with the keys and values of earlier tokens cached. An encoder-decoder reads the prompts with its encoder,
/// and the new tokens are the decoder's.
///
/// # Errors
///
/// As [`Predictor::generate`].
pub fn generate(model: &dyn LanguageModel, prompts: &[TokenSlice<'_>], config: &GenerationConfig) -> Result<Vec<Generation>> {
    let mut rows: Vec<Row> =
        prompts.iter().enumerate().map(|(index, _)| Row { index, ids: Vec::new(), rng: config.of_row(index).rng() }).collect();
    let mut done: Vec<Option<Generation>> = vec![None; prompts.len()];
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let longest = |rows: &[TokenRow]| rows.iter().map(TokenRow::len).max().unwrap_or(0);
    let longest_prompt = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    let (sources, mut next): (Vec<_>, Vec<_>) = prompts.iter().map(|prompt| opening(model, prompt.to_row())).unzip();
    let limit = model.spec().max_positions;
    if longest(&sources) > limit || longest(&next).saturating_add(config.max_new_tokens) > limit {
        return Err(Error::Batch(format!(
            "a prompt of {} tokens and {} new ones exceed the {limit} positions of {}; ask for fewer new tokens",
            longest_prompt,
            config.max_new_tokens,
            model.spec().name
        )));
    }
    let mut cache: Option<KvCache> = None;
    for _ in 0..config.max_new_tokens {
        let batch = TokenBatch::new(&next)?;
        let last = batch.last_indices();
        let device = model.device();
        let mut pass = match cache.take() {
            Some(cache) => Pass::after(batch, cache, &device)?,
            None => model.start(&sources, batch)?,
        }
        .keeping();
        let hidden = model.hidden(&mut pass, &mut ())?;
        let logits = model.logits(hidden, &last)?;
        let [_, vocab] = logits.dims();
        let values = tensor_values(&logits)?;
        let mut going = Vec::new();
        for (position, row) in rows.iter_mut().enumerate() {
            let id = choose(&values[position * vocab..(position + 1) * vocab], config.sampling, &mut row.rng)?;
            row.ids.push(id);
            if config.ignore_eos || !model.tokenizer().eos().contains(&id) {
                going.push(position);
            }
        }
        let kept = pass.into_cache()?;
        if going.len() < rows.len() {
            for (position, row) in rows.iter_mut().enumerate() {
                if !going.contains(&position) {
                    done[row.index] = Some(Generation { ids: std::mem::take(&mut row.ids) });
                }
            }
            if going.is_empty() {
                rows.clear();
                break;
            }
            cache = Some(kept.select_rows(&going, &device)?);
            let mut position = 0;
            rows.retain(|_| {
                position += 1;
                going.contains(&(position - 1))
            });
        } else {
            cache = Some(kept);
        }
        next = rows.iter().map(|row| row.ids.last().copied().into_iter().collect::<Vec<u32>>().into()).collect();
    }
    for row in rows {
        done[row.index] = Some(Generation { ids: row.ids });
    }
    Ok(done.into_iter().map(|g| g.unwrap_or(Generation { ids: Vec::new() })).collect())
}

struct Row {
    index: usize,
    ids: Vec<u32>,
    rng: ChaCha8Rng,
}

/// The next token, by the logits of a position.
///
/// # Errors
///
/// [`Error::NotFinite`] if a logit is NaN; [`Error::Batch`] if there is none, or the temperature is not above 0.
pub fn choose(logits: &[f32], sampling: Sampling, rng: &mut ChaCha8Rng) -> Result<u32> {
    let (best, _) = most_probable(logits)?;
    let Sampling::Random { temperature, top_k, top_p } = sampling else {
        return Ok(best);
    };
    if temperature.is_nan() || temperature <= 0.0 {
        return Err(Error::Batch(format!("temperature {temperature} is not above 0")));
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let k = top_k.unwrap_or(logits.len()).clamp(1, logits.len());
    let by_logit = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k - 1, by_logit);
        order.truncate(k);
    }
    order.sort_unstable_by(by_logit);
    let top = f64::from(logits[order[0]]);
    let mut weights: Vec<f64> = order.iter().map(|id| ((f64::from(logits[*id]) - top) / temperature).exp()).collect();
    if let Some(p) = top_p {
        let total: f64 = weights.iter().sum();
        let mut reached = 0.0;
        let keep = weights.iter().position(|w| {
            reached += w / total;
            reached >= p
        });
        weights.truncate(keep.map_or(weights.len(), |k| k + 1));
    }
    let total: f64 = weights.iter().sum();
    let mut draw = rng.random::<f64>() * total;
    for (weight, id) in weights.iter().zip(&order) {
        draw -= weight;
        if draw <= 0.0 {
            return Ok(*id as u32);
        }
    }
    Ok(order[weights.len() - 1] as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(logits: &[f32], sampling: Sampling, seed: u64) -> u32 {
        choose(logits, sampling, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap()
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(pick(&[0.0, 2.0, 2.0, 1.0], Sampling::Greedy, 0), 1);
    }

    #[test]
    fn top_k_and_top_p_limit_the_choice() {
        let logits = [0.0, 3.0, 2.0, -5.0];
        for seed in 0..200 {
            let k = Sampling::Random { temperature: 5.0, top_k: Some(2), top_p: None };
            assert!([1, 2].contains(&pick(&logits, k, seed)));
            let p = Sampling::Random { temperature: 1.0, top_k: None, top_p: Some(0.5) };
            assert_eq!(pick(&logits, p, seed), 1);
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let sampling = Sampling::Random { temperature: 1.0, top_k: None, top_p: None };
        let ones = (0..2000).filter(|seed| pick(&[0.0, 3f32.ln()], sampling, *seed) == 1).count();
        assert!((1400..1600).contains(&ones), "odds of 3 to 1, drew {ones} of 2000");
    }

    #[test]
    fn damaged_logits_and_bad_settings_are_errors() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        assert!(choose(&[f32::NAN, 0.0], Sampling::Greedy, &mut rng).is_err());
        let cold = Sampling::Random { temperature: 0.0, top_k: None, top_p: None };
        assert!(choose(&[1.0, 0.0], cold, &mut rng).is_err());
    }
}
