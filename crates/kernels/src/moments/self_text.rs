use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::{
    Artefact, ArtefactLabel, ArtefactTensor, Error, GenerationConfig, LanguageModel, ModelSpec, Progress, Result, Sampling, generate_while,
    keep_in_cache, tidy_cache_folder,
};

use super::MomentConfig;
use super::provenance::{digest, folder};
use crate::model_fingerprint::sampled_fingerprint;

/// The kind of artefact.
const KIND: &str = "self-written-text/2";
/// Its tensors: all token ids, and how many of them each text has.
const IDS: &str = "ids";
const LENGTHS: &str = "lengths";
/// A text ends where the model ends it, or after this many tokens.
const TEXT_TOKENS: usize = 128;
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
    let kept = match cache {
        Some(cache) => {
            let recipe = format!("version 1, {} tokens in {} texts of {length}, seed {}", wanted, config.samples, config.seed);
            let identity = format!("{recipe}, {}", sampled_fingerprint(model)?);
            let path = folder(cache).join(format!("self-written-{}.safetensors", &digest(&identity)[..16]));
            tidy_cache_folder(&folder(cache));
            Some((cache, path, identity))
        }
        None => None,
    };
    if let Some((_, path, identity)) = &kept {
        match read(path, identity, wanted) {
            Ok(Some(texts)) => return Ok(texts),
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}; the model writes its text again"),
        }
    }
    progress.begin("text written by the model (tokens)", Some(wanted as u64));
    let texts = write(model, config, wanted, length, progress);
    progress.end();
    let texts = texts?;
    if let Some((cache, path, identity)) = kept {
        keep_in_cache(cache, || keep(&path, &identity, &texts))?;
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
        for written in generate_while(model, &vec![opening.clone(); many], &settings, progress)? {
            let mut ids = opening.clone();
            ids.extend(written.ids);
            ids.truncate(left);
            if ids.is_empty() {
                break;
            }
            left -= ids.len();
            progress.step(ids.len() as u64)?;
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

fn keep(path: &Path, identity: &str, texts: &[Vec<u32>]) -> Result<()> {
    let lengths: Vec<u32> = texts.iter().map(|text| text.len() as u32).collect();
    let ids = texts.concat();
    let tensors = [(IDS, &ids), (LENGTHS, &lengths)].map(|(name, numbers)| (name.to_owned(), ArtefactTensor::of_u32(numbers)));
    Artefact::write(path, ArtefactLabel::new(KIND, &identity, &())?, BTreeMap::from(tensors))
}

/// The kept texts; `None` if there are none.
fn read(path: &Path, identity: &str, tokens: usize) -> Result<Option<Vec<Vec<u32>>>> {
    // An id for each token, and at most one length.
    let Some(mut file) = Artefact::read(path, KIND, &identity, (tokens as u64).saturating_mul(8))? else { return Ok(None) };
    let (ids, lengths) = (file.u32(IDS)?, file.u32(LENGTHS)?);
    let mut left = ids.as_slice();
    let texts = lengths.into_iter().map(|length| {
        let (text, rest) = left.split_at_checked(length as usize).ok_or_else(|| Error::format(path, "has texts longer than its ids"))?;
        left = rest;
        Ok(text.to_vec())
    });
    texts.collect::<Result<_>>().map(Some)
}
