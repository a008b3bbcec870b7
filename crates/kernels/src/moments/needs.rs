use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::{LanguageModel, Result, Session};

use super::{FoundMoments, MomentConfig, MomentQuery, find_moments};

/// What hyperparameters say about second moments.
#[derive(Clone, Copy, Debug)]
pub struct MomentNeeds<'a> {
    /// `mom2_dataset`
    pub corpus: &'a str,
    /// `mom2_n_samples`
    pub samples: usize,
    /// Number of tokens at most; `None` does not limit them.
    pub tokens: Option<usize>,
    /// `stats_dir`; may be empty.
    pub stats_dir: &'a str,
    /// `model_name`
    pub model_name: &'a str,
}

/// The second moments of `layers` that a method's hyperparameters ask for, from EasyEdit's files, the context's cache, or its text.
///
/// # Errors
///
/// As [`find_moments`].
pub fn needed_moments(
    model: &dyn LanguageModel,
    layers: &[usize],
    needs: &MomentNeeds<'_>,
    session: &Session,
) -> Result<BTreeMap<usize, FoundMoments>> {
    let config = MomentConfig { samples: needs.samples, tokens: needs.tokens, ..MomentConfig::default() };
    let query = MomentQuery {
        stats_dir: Some(Path::new(needs.stats_dir)).filter(|folder| !folder.as_os_str().is_empty()),
        model_name: needs.model_name,
        ..MomentQuery::new(needs.corpus, config, session.cache())
    };
    find_moments(model, layers, &query, session.corpora(), session.progress())
}
