use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::{
    Artefact, ArtefactLabel, Error, GenerationConfig, LanguageModel, Progress, Result, Sampling, generate_while, keep_in_cache,
    tidy_cache_folder,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

use crate::model_fingerprint::{hex, sampled_fingerprint};

/// The kind of artefact.
const KIND: &str = "context-templates/2";
/// Bytes of a file of templates, at most.
const LARGEST: u64 = 16 << 20;
/// Words the model continues.
const OPENINGS: [&str; 5] = ["The", "Therefore", "Because", "I", "You"];
/// Continuations are drawn from this many most probable tokens.
const TOP_K: usize = 5;

/// Which context templates to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TemplateConfig {
    /// Pairs of (length in tokens with the opening word, number of templates): EasyEdit's `context_template_length_params`.
    pub lengths: Vec<(usize, usize)>,
    /// Seed of the sampling.
    pub seed: u64,
}

/// Short texts in which `{}` stands for a prompt: `"{}"` itself, then texts the model wrote, each ending in `". {}"`.
///
/// For every pair of `config.lengths`, each of five opening words is continued `n / 5` times. With a `cache` folder they are kept in
/// a file per model, tokenizer and settings.
///
/// # Errors
///
/// If the model cannot generate, or the cache cannot be written.
///
/// # Source
///
/// Meng et al., "Locating and Editing Factual Associations in GPT", section 3.1 (the prefixes x_j), with the opening words of EasyEdit.
pub fn context_templates(
    model: &dyn LanguageModel,
    config: &TemplateConfig,
    cache: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let kept = match cache {
        Some(cache) => {
            let identity = identity(model, config)?;
            let folder = cache.join("templates");
            tidy_cache_folder(&folder);
            Some((cache, folder.join(format!("{}.safetensors", &identity[..24])), identity))
        }
        None => None,
    };
    if let Some((_, path, identity)) = &kept {
        match read(path, identity) {
            Ok(Some(templates)) => return Ok(templates),
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}; the templates are written again"),
        }
    }
    let mut templates = vec!["{}".to_owned()];
    progress.begin("writing context templates", Some(config.lengths.len() as u64));
    let outcome = config.lengths.iter().enumerate().try_for_each(|(index, (length, count))| -> Result<()> {
        templates.extend(write_templates(model, *length, count / OPENINGS.len(), config.seed.wrapping_add(index as u64), progress)?);
        progress.step(1)?;
        Ok(())
    });
    progress.end();
    outcome?;
    if let Some((cache, path, identity)) = kept {
        keep_in_cache(cache, || Artefact::write(&path, ArtefactLabel::new(KIND, &identity, &templates)?, BTreeMap::new()))?;
    }
    Ok(templates)
}

fn write_templates(model: &dyn LanguageModel, length: usize, times: usize, seed: u64, progress: &dyn Progress) -> Result<Vec<String>> {
    let mut prompts = Vec::new();
    for opening in OPENINGS {
        let ids = model.tokenizer().encode(opening)?.ids;
        prompts.extend(std::iter::repeat_n(ids, times));
    }
    let new_tokens = prompts.iter().map(|ids| length.saturating_sub(ids.len())).max().unwrap_or(0);
    let sampling = Sampling::Random { temperature: 1.0, top_k: Some(TOP_K), top_p: None };
    let config = GenerationConfig { max_new_tokens: new_tokens, sampling, seed, ignore_eos: true };
    let written = generate_while(model, &prompts, &config, progress)?;
    prompts
        .iter()
        .zip(written)
        .map(|(prompt, new)| {
            let mut ids = prompt.clone();
            ids.extend(new.ids);
            ids.truncate(length.max(prompt.len()));
            Ok(format!("{}. {{}}", clean(&model.tokenizer().decode(&ids)?)))
        })
        .collect()
}

/// One line without braces, which would be taken for the prompt's place.
fn clean(text: &str) -> String {
    text.nfkd().collect::<String>().replace("\n\n", " ").replace("<|endoftext|>", "").replace(['{', '}'], "")
}

/// Digest of everything that the templates depend on.
fn identity(model: &dyn LanguageModel, config: &TemplateConfig) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update("context templates, version 1");
    hash.update(sampled_fingerprint(model)?);
    hash.update(model.tokenizer().inner().to_string(false).unwrap_or_default());
    hash.update(serde_json::to_string(config).unwrap_or_default());
    Ok(hex(hash))
}

/// The kept templates; `None` if there are none.
fn read(path: &Path, identity: &str) -> Result<Option<Vec<String>>> {
    let Some(file) = Artefact::read(path, KIND, &identity, LARGEST)? else { return Ok(None) };
    checked_templates(file.facts()?).map(Some)
}

/// The templates, if the first is the bare prompt's `"{}"` and each holds exactly one `{}`.
///
/// # Errors
///
/// [`Error::Hparams`] otherwise.
pub fn checked_templates(templates: Vec<String>) -> Result<Vec<String>> {
    let sound = templates.first().is_some_and(|t| t == "{}") && templates.iter().all(|t| t.matches("{}").count() == 1);
    if sound { Ok(templates) } else { Err(Error::hparams("context templates start with \"{}\", and each holds exactly one {}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_of_what_would_break_a_template() {
        assert_eq!(clean("The {first}\n\nline<|endoftext|>"), "The first line");
    }
}
