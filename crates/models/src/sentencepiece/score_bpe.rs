use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::proto::PieceType;

/// Longer pieces are damage: SentencePiece's own limit is 16 characters unless it is raised.
pub(crate) const MAX_PIECE_BYTES: usize = 512;
/// What the merges may take in memory; those of a quarter of a million pieces take about 60 MB.
const MAX_MERGE_BYTES: usize = 512 << 20;
/// What a merge takes beside its characters.
const MERGE_BYTES: usize = 64;

/// SentencePiece's byte-pair encoding: a vocabulary with scores, of which the best is merged first.
///
/// Merges are not in the file: every pair of tokens that makes a token is one, ranked by the score of what it makes.
pub(crate) struct ScoreBpe<'a> {
    /// Tokens in the order of their ids, each once.
    pub(crate) tokens: &'a [&'a str],
    /// A score for each token.
    pub(crate) scores: &'a [f32],
    /// A type for each token; all are normal if it is empty.
    pub(crate) types: &'a [i32],
    /// What unknown characters become.
    pub(crate) unknown: Option<&'a str>,
    /// Whether unknown characters become bytes before they become `unknown`.
    pub(crate) byte_fallback: bool,
}

impl ScoreBpe<'_> {
    /// The model; the error says what is wrong with the tokens.
    pub(crate) fn build(&self) -> Result<BPE, String> {
        let vocabulary: Vocab = self.tokens.iter().zip(0u32..).map(|(token, id)| ((*token).to_owned(), id)).collect();
        let merges = self.merges()?;
        let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges).fuse_unk(true).byte_fallback(self.byte_fallback);
        if let Some(unknown) = self.unknown {
            builder = builder.unk_token(unknown.to_owned());
        }
        builder.build().map_err(|e| e.to_string())
    }

    fn merges(&self) -> Result<Merges, String> {
        let is_text = |id: usize| self.types.get(id).is_none_or(|kind| PieceType::try_from(*kind).is_ok_and(PieceType::is_text));
        let ids: HashMap<&str, usize> =
            self.tokens.iter().enumerate().filter(|(id, _)| is_text(*id)).map(|(id, token)| (*token, id)).collect();
        let (mut ranked, mut bytes) = (Vec::new(), 0);
        for (id, (token, score)) in self.tokens.iter().zip(self.scores).enumerate() {
            if !is_text(id) {
                continue;
            }
            if token.len() > MAX_PIECE_BYTES {
                return Err(format!("token {id} is {} bytes long, at most {MAX_PIECE_BYTES} are possible", token.len()));
            }
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let Some(left_id) = ids.get(left)
                    && let Some(right_id) = ids.get(right)
                {
                    bytes += token.len() + MERGE_BYTES;
                    ranked.push((*score, *left_id, *right_id, left, right));
                }
            }
            if bytes > MAX_MERGE_BYTES {
                return Err("they can be merged in more ways than a vocabulary has".to_owned());
            }
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        Ok(ranked.into_iter().map(|(.., left, right)| (left.to_owned(), right.to_owned())).collect())
    }
}
