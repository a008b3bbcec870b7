use std::path::Path;

use easyedit_core::{
    Error, GenerationConfig, LanguageModel, ModelSpec, Progress, Result, Sampling, generate, read_input_text, write_atomically,
};

use super::MomentConfig;
use super::provenance::{digest, folder};
use crate::model_fingerprint::sampled_fingerprint;

/// A text ends where the model ends it, or after this many tokens.
const TEXT_TOKENS: usize = 128;
/// No file of texts is larger: a hundred million tokens take some 600 MB.
const MAX_FILE_BYTES: u64 = 2 << 30;
/// Memory that the keys and values of attention may take, in bytes, if every head had its own.
const CACHE_BYTES: usize = 2 << 30;
/// Bounds of the number of texts written at once.
const TEXTS_AT_ONCE: std::ops::RangeInclusive<usize> = 8..=64;
/// Tokens are drawn from this many most probable ones: nearly all of the distribution, without its long tail of noise.
const TOP_K: usize = 1000;

/// Texts drawn from the model, from its opening token on, until there are `config.tokens` tokens (or
/// [`MomentConfig::default_tokens`]) or `config.samples` texts. The same seed gives the same texts; `cache` keeps them.
pub(super) fn self_written(
    model: &dyn LanguageModel,
    config: &MomentConfig,
    cache: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Vec<Vec<u32>>> {
    let wanted = config.tokens.unwrap_or_else(|| MomentConfig::default_tokens(model.spec()));
    let length = TEXT_TOKENS.min(config.document_tokens);
    let path = match cache {
        Some(cache) => {
            let recipe = format!("version 1, {} tokens in {} texts of {length}, seed {}", wanted, config.samples, config.seed);
            let key = digest(&format!("{recipe}, {}", sampled_fingerprint(model)?));
            Some(folder(cache).join(format!("self-written-{}.json", &key[..16])))
        }
        None => None,
    };
    if let Some(texts) = path.as_deref().and_then(|path| read(path, model.spec().vocab_size)) {
        return Ok(texts);
    }
    progress.begin("text written by the model (tokens)", Some(wanted as u64));
    let texts = write(model, config, wanted, length, progress);
    progress.end();
    let texts = texts?;
    if let Some(path) = path {
        let json = serde_json::to_string(&texts).map_err(|e| Error::format(&path, e.to_string()))?;
        write_atomically(&path, |file| file.write_all(json.as_bytes()))?;
    }
    Ok(texts)
}

fn write(model: &dyn LanguageModel, config: &MomentConfig, wanted: usize, length: usize, progress: &dyn Progress) -> Result<Vec<Vec<u32>>> {
    let opening = opening(model)?;
    let new_tokens = length.saturating_sub(opening.len()).max(1);
    let sampling = Sampling::Random { temperature: 1.0, top_k: Some(TOP_K), top_p: None };
    let at_once = texts_at_once(model.spec(), length);
    let mut texts: Vec<Vec<u32>> = Vec::new();
    let mut left = wanted;
    for round in 0.. {
        let many = at_once.min(config.samples - texts.len()).min(left.div_ceil(new_tokens + opening.len()));
        if many == 0 {
            break;
        }
        let seed = config.seed.wrapping_add(digest_of_round(round));
        let settings = GenerationConfig { max_new_tokens: new_tokens, sampling, seed, ignore_eos: false };
        for written in generate(model, &vec![opening.clone(); many], &settings)? {
            let mut ids = opening.clone();
            ids.extend(written.ids);
            ids.truncate(left);
            if ids.is_empty() {
                break;
            }
            left -= ids.len();
            progress.advance(ids.len() as u64);
            texts.push(ids);
        }
    }
    Ok(texts)
}

/// How many texts fit into [`CACHE_BYTES`]: keys and values in `f32` for every layer, before and after a step.
fn texts_at_once(spec: &ModelSpec, length: usize) -> usize {
    let per_text = 4 * 2 * 2 * spec.n_layers.saturating_mul(spec.d_model).saturating_mul(length).max(1);
    (CACHE_BYTES / per_text).clamp(*TEXTS_AT_ONCE.start(), *TEXTS_AT_ONCE.end())
}

/// Far apart for neighbouring rounds, because the rows of a round have seeds of their own.
fn digest_of_round(round: u64) -> u64 {
    round.wrapping_mul(0xD1B5_4A32_D192_ED03)
}

/// What a text begins with: the tokenizer's own opening (BOS), else the token that ends texts, which in training stands between them.
fn opening(model: &dyn LanguageModel) -> Result<Vec<u32>> {
    let tokenizer = model.tokenizer();
    let ids = tokenizer.encode("")?.ids;
    if !ids.is_empty() {
        return Ok(ids);
    }
    match tokenizer.eos().first() {
        Some(id) => Ok(vec![*id]),
        None => Ok(tokenizer.encode("The")?.ids),
    }
}

/// The kept texts, unless the file is absent or not what was written.
fn read(path: &Path, vocab_size: usize) -> Option<Vec<Vec<u32>>> {
    let texts: Vec<Vec<u32>> = serde_json::from_str(&read_input_text(path, MAX_FILE_BYTES).ok()?).ok()?;
    let sound = |text: &Vec<u32>| !text.is_empty() && text.iter().all(|id| (*id as usize) < vocab_size);
    (!texts.is_empty() && texts.iter().all(sound)).then_some(texts)
}
