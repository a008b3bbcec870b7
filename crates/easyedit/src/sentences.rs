//! Sentence encoders by name.

use std::path::Path;

use burn::tensor::Device;
use easyedit_core::{Matrix, Progress, Result, SentenceEncoder};
use easyedit_models::{Checkpoint, TextEncoder, resolve_model, short_names};

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
    let last = name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(name);
    let short = short_names().iter().find(|short| short.name.eq_ignore_ascii_case(last));
    let wanted = match short {
        Some(short) if !Path::new(name).exists() => short.name,
        _ => name,
    };
    let location = resolve_model(wanted, progress)?;
    let checkpoint = Checkpoint::open(&location.path)?.with_name(location.name);
    Ok(Box::new(MeanPooled(checkpoint.load_text_encoder(device)?)))
}
