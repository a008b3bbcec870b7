//! Models beside the edited one, by name: sentence encoders, and what methods train.

use std::path::Path;

use burn::tensor::Device;
use easyedit_core::{LanguageModel, Matrix, Progress, Result, SentenceEncoder, TrainableEncoder};
use easyedit_models::{Checkpoint, TextEncoder, open_untrained, resolve_model, short_names, untrained};

/// Networks of the repository that are yet to be trained: name, `config.json`, `tokenizer.json`.
const BUILT_IN: &[(&str, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/untrained.rs"));

/// Seed of the weights of models that are yet to be trained. All weights are replaced or trained before they count.
const INITIAL_SEED: u64 = 1;

/// A text encoder whose mean-pooled states are the embeddings.
struct MeanPooled(TextEncoder);

impl SentenceEncoder for MeanPooled {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn fingerprint(&self) -> Result<String> {
        Ok(self.0.fingerprint()?)
    }

    fn embed(&self, texts: &[&str]) -> Result<Matrix> {
        Matrix::from_tensor(&self.0.sentence_embeddings(texts)?)
    }
}

/// Opens the sentence encoder `name` on `device`: a folder, a Hub id or a short name, downloaded if need be. A folder that is not there
/// (EasyEdit's files say `./hugging_cache/all-MiniLM-L6-v2`) and a Hub id are also known by their last part, if it is a short name.
///
/// # Errors
///
/// As [`resolve_model`] and [`Checkpoint::load_text_encoder`].
pub fn open_sentence_encoder(name: &str, device: &Device, progress: &dyn Progress) -> Result<Box<dyn SentenceEncoder>> {
    Ok(Box::new(MeanPooled(open_trained(name, progress)?.load_text_encoder(device)?)))
}

/// The text encoder `name` on `device`, to be trained: found as [`open_sentence_encoder`] finds one. A folder without weights, or
/// a name that is built in, is an encoder that is yet to be trained, whose weights are drawn.
///
/// # Errors
///
/// As [`open_sentence_encoder`].
pub fn open_text_encoder(name: &str, device: &Device, progress: &dyn Progress) -> Result<Box<dyn TrainableEncoder>> {
    Ok(Box::new(open_companion(name, progress)?.load_text_encoder(device)?))
}

/// The language model `name` on `device`, which stands beside the edited one: found as [`open_text_encoder`] finds an encoder.
///
/// # Errors
///
/// As [`resolve_model`] and [`Checkpoint::load`].
pub fn open_language_model(name: &str, device: &Device, progress: &dyn Progress) -> Result<Box<dyn LanguageModel>> {
    Ok(open_companion(name, progress)?.load(device)?)
}

fn open_companion(name: &str, progress: &dyn Progress) -> Result<Checkpoint> {
    let path = Path::new(name);
    if let Some(found) = open_untrained(path, INITIAL_SEED)? {
        return Ok(found);
    }
    match BUILT_IN.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name) && !path.exists()) {
        Some((name, config, tokenizer)) => Ok(untrained(name, config, tokenizer, INITIAL_SEED)?),
        None => open_trained(name, progress),
    }
}

fn open_trained(name: &str, progress: &dyn Progress) -> Result<Checkpoint> {
    let last = name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(name);
    let short = short_names().iter().find(|short| short.name.eq_ignore_ascii_case(last));
    let wanted = match short {
        Some(short) if !Path::new(name).exists() => short.name,
        _ => name,
    };
    let location = resolve_model(wanted, progress)?;
    Ok(Checkpoint::open(&location.path)?.with_name(location.name))
}
