use easyedit_core::tokens::TargetTokens;
use easyedit_core::{Error, Predictor, Progress, Result, TokenRow};
use serde::{Deserialize, Serialize};

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

/// The perplexity of `predictor` on `documents`. Each document is read from position 0, and every token but its first is predicted from all
/// those before it; one longer than the model's positions is read in pieces of that length, each by itself.
///
/// # Errors
///
/// [`Error::Unsupported`] for an encoder-decoder, [`Error::Batch`] if no document has two tokens, [`Error::NotFinite`] if the model's logits
/// are not finite.
pub fn perplexity(predictor: &dyn Predictor, documents: &[String], progress: &dyn Progress) -> Result<Perplexity> {
    if predictor.decoder_start().is_some() {
        return Err(Error::Unsupported {
            method: "perplexity".to_owned(),
            message: format!("is of texts that are read as one sequence, and {} is an encoder-decoder", predictor.name()),
        });
    }
    let (mut pieces, mut read) = (Vec::new(), 0);
    for document in documents {
        let ids = predictor.tokenizer().encode(document)?.ids;
        let before = pieces.len();
        let whole = ids.chunks(predictor.max_positions()).filter(|piece| piece.len() > 1);
        pieces.extend(whole.map(|piece| TargetTokens { source: TokenRow::default(), row: piece.to_vec().into(), start: 1 }));
        read += usize::from(pieces.len() > before);
    }
    progress.begin("perplexity", Some(pieces.len() as u64));
    let scores = predictor.score(&pieces.iter().collect::<Vec<_>>(), progress);
    progress.end();
    let scores = scores?;
    let tokens: usize = scores.iter().map(|score| score.log_probs.len()).sum();
    if tokens == 0 {
        return Err(Error::Batch(format!("none of the {} documents has two tokens, so there is nothing to predict", documents.len())));
    }
    let nll = -scores.iter().flat_map(|score| &score.log_probs).map(|log_prob| f64::from(*log_prob)).sum::<f64>() / tokens as f64;
    if !nll.is_finite() {
        return Err(Error::NotFinite(format!(
            "{}: the log-likelihood of the text is not finite; the model's weights are damaged",
            predictor.name()
        )));
    }
    Ok(Perplexity { perplexity: nll.exp(), nll, tokens, documents: read })
}
