use crate::{Matrix, Result};

/// A model that makes vectors of texts, which are near to each other where the texts are about the same.
pub trait SentenceEncoder {
    /// What it is called in messages and files.
    fn name(&self) -> &str;

    /// SHA-256 over all that its embeddings depend on, in hexadecimal: what is kept for one encoder is not taken for another's.
    ///
    /// # Errors
    ///
    /// If the device cannot give a weight back.
    fn fingerprint(&self) -> Result<String>;

    /// Embeddings of length 1, so that their products are cosines: `[texts, width]`. A text's embedding does not depend on the others.
    ///
    /// # Errors
    ///
    /// If there are no texts, or one has no tokens.
    fn embed(&self, texts: &[&str]) -> Result<Matrix>;
}
