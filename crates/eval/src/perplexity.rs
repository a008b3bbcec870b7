use burn::tensor::{Int, Tensor, TensorData, activation};
use easyedit_core::{Error, LanguageModel, Pass, Progress, Result, TokenBatch, tensor_values};
use serde::{Deserialize, Serialize};

use crate::measure::{LOGIT_POSITIONS, batches};

/// How well a model predicts a text: the usual alarm for a model that edits have damaged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood of a predicted token, at least 1; lower is better.
    pub perplexity: f64,
    /// The mean negative log-likelihood, in nats.
    pub nll: f64,
    /// Number of predicted tokens.
    pub tokens: usize,
    /// Number of documents with at least one predicted token.
    pub documents: usize,
}

/// The perplexity of `model` on `documents`. Each document is read from position 0, and every token but its first is predicted from all
/// those before it; one longer than the model's positions is read in pieces of that length, each by itself.
///
/// # Errors
///
/// [`Error::Unsupported`] for an encoder-decoder, [`Error::Batch`] if no document has two tokens, [`Error::NotFinite`] if the model's logits
/// are not finite.
pub fn perplexity(model: &dyn LanguageModel, documents: &[String], progress: &dyn Progress) -> Result<Perplexity> {
    model.spec().check_decoder_only("perplexity")?;
    let (mut pieces, mut read) = (Vec::new(), 0);
    for document in documents {
        let ids = model.tokenizer().encode(document)?.ids;
        let before = pieces.len();
        pieces.extend(ids.chunks(model.spec().max_positions).filter(|piece| piece.len() > 1).map(<[u32]>::to_vec));
        read += usize::from(pieces.len() > before);
    }
    progress.begin("perplexity", Some(pieces.len() as u64));
    let sum = nll(model, &pieces, progress);
    progress.end();
    let (sum, tokens) = (sum?, pieces.iter().map(|piece| piece.len() - 1).sum::<usize>());
    if tokens == 0 {
        return Err(Error::Batch(format!("none of the {} documents has two tokens, so there is nothing to predict", documents.len())));
    }
    let nll = sum / tokens as f64;
    if !nll.is_finite() {
        return Err(Error::NotFinite(format!(
            "{}: the log-likelihood of the text is not finite; the model's weights are damaged",
            model.spec().name
        )));
    }
    Ok(Perplexity { perplexity: nll.exp(), nll, tokens, documents: read })
}

/// The sum of the negative log-likelihoods of all tokens but each piece's first.
fn nll(model: &dyn LanguageModel, pieces: &[Vec<u32>], progress: &dyn Progress) -> Result<f64> {
    let device = model.device();
    let mut sum = 0.0;
    for batch in batches(pieces.iter().map(Vec::len)) {
        let rows: Vec<&[u32]> = batch.iter().map(|piece| &pieces[*piece][..pieces[*piece].len() - 1]).collect();
        let targets: Vec<i64> = batch.iter().flat_map(|piece| &pieces[*piece][1..]).map(|id| i64::from(*id)).collect();
        let hidden = model.hidden(&mut Pass::new(TokenBatch::new(&rows)?, &device), &mut ())?;
        let positions: Vec<usize> = (0..targets.len()).collect();
        for (positions, targets) in positions.chunks(LOGIT_POSITIONS).zip(targets.chunks(LOGIT_POSITIONS)) {
            let log_probs = activation::log_softmax(model.logits(hidden.clone(), positions)?, 1);
            let ids = Tensor::<2, Int>::from_data(TensorData::new(targets.to_vec(), [targets.len(), 1]), &device);
            sum -= tensor_values(&log_probs.gather(1, ids))?.into_iter().map(f64::from).sum::<f64>();
        }
        progress.step(batch.len() as u64)?;
    }
    Ok(sum)
}
