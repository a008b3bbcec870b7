use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use easyedit_core::{Corpora, Error, LanguageModel, Progress, Result, Silent};

use super::easyedit_npz::{EasyEditStats, read_npz};
use super::provenance::Provenance;
use super::shards::collect_whole;
use super::{MomentConfig, SecondMoments, cache};
use crate::model_fingerprint::fingerprints_up_to;

/// Which statistics are wanted, and where they may be.
#[derive(Clone, Debug)]
pub struct MomentQuery<'a> {
    /// Name of the corpus (`mom2_dataset`).
    pub corpus: &'a str,
    /// What they are collected over.
    pub config: MomentConfig,
    /// Folder of EasyEdit's statistics (`stats_dir`), which are taken if they are there.
    pub stats_dir: Option<&'a Path>,
    /// The model's name or path in the hyperparameters (`model_name`), by which that folder is arranged.
    pub model_name: &'a str,
    /// Folder for what is worth keeping between runs; `None` keeps nothing.
    pub cache: Option<&'a Path>,
    /// Time between two checkpoints of a long run, for which `cache` is needed; zero makes one after every chunk.
    pub checkpoint: Duration,
}

impl<'a> MomentQuery<'a> {
    /// A checkpoint every half minute, and nothing of EasyEdit's.
    pub fn new(corpus: &'a str, config: MomentConfig, cache: Option<&'a Path>) -> Self {
        Self { corpus, config, stats_dir: None, model_name: "", cache, checkpoint: Duration::from_secs(30) }
    }
}

/// Second moments, and the file that holds them.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundMoments {
    /// The moments.
    pub moments: SecondMoments,
    /// The file; `None` if they were collected and not kept.
    pub file: Option<PathBuf>,
}

/// The second moments of `layers`: EasyEdit's where `stats_dir` has them or they were [imported](import_npz) (unless `corpora` stand in
/// for a corpus of any name), otherwise from the cache folder, otherwise collected in one pass and kept there. An interrupted pass goes
/// on at its last checkpoint.
///
/// # Errors
///
/// If a layer is out of range, there is no such corpus or no text in it, the keys are not finite, or the cache cannot be written. A damaged
/// file is passed over, with a warning.
pub fn find_moments(
    model: &dyn LanguageModel,
    layers: &[usize],
    query: &MomentQuery<'_>,
    corpora: &dyn Corpora,
    progress: &dyn Progress,
) -> Result<BTreeMap<usize, FoundMoments>> {
    layers.iter().try_for_each(|layer| model.spec().check_layer(*layer))?;
    // A limit of tokens is ours: what others computed does not have it.
    let of_others = !corpora.stands_in() && query.config.tokens.is_none();
    let mut found = if of_others { of_easyedit(model, layers, query) } else { BTreeMap::new() };
    let missing: Vec<usize> = layers.iter().copied().filter(|layer| !found.contains_key(layer)).collect();
    if missing.is_empty() {
        return Ok(found);
    }
    let mut fingerprints = fingerprints_up_to(model, &missing, progress)?;
    if let Some(folder) = query.cache.filter(|_| of_others) {
        found.extend(kept(model, folder, &Provenance::of_name(model, &fingerprints, query.corpus, query.config.samples)));
        fingerprints.retain(|layer, _| !found.contains_key(layer));
        if fingerprints.is_empty() {
            return Ok(found);
        }
    }
    let text = corpora.text(query.corpus)?;
    let mut statistics = Provenance::of_text(model, &fingerprints, query.corpus, &text, &query.config)?;
    if let Some(folder) = query.cache {
        found.extend(kept(model, folder, &statistics));
        statistics.retain(|layer, _| !found.contains_key(layer));
    }
    if !statistics.is_empty() {
        found.extend(collect_whole(model, statistics, query, &text, progress)?);
    }
    Ok(found)
}

/// Those of EasyEdit's folder.
fn of_easyedit(model: &dyn LanguageModel, layers: &[usize], query: &MomentQuery<'_>) -> BTreeMap<usize, FoundMoments> {
    let mut found = BTreeMap::new();
    let Some(folder) = query.stats_dir else {
        return found;
    };
    for layer in layers {
        let names = EasyEditStats::of(model.spec(), *layer, query.corpus, query.config.samples);
        let Some(file) = names.find(folder, query.model_name) else {
            continue;
        };
        match names.read(&file, model.spec().d_mlp) {
            Ok(moments) => {
                tracing::info!("statistics of layer {layer} are EasyEdit's: {}", file.display());
                found.insert(*layer, FoundMoments { moments, file: Some(file) });
            }
            Err(error) => tracing::warn!("{error}; passed over"),
        }
    }
    found
}

/// Those of the cache folder.
fn kept(model: &dyn LanguageModel, folder: &Path, statistics: &BTreeMap<usize, Provenance>) -> BTreeMap<usize, FoundMoments> {
    let mut found = BTreeMap::new();
    for (layer, of) in statistics {
        match cache::read(folder, of, model.spec().d_mlp) {
            Ok(Some((moments, file))) => {
                found.insert(*layer, FoundMoments { moments, file: Some(file) });
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}; collecting the statistics again"),
        }
    }
    found
}

/// Puts a file of EasyEdit's statistics of layer `layer` into the folder `cache`, where [`find_moments`] finds it for this very model
/// under the corpus's name and the number of samples that the file says (or `samples`, if it says none). Gives the number and the file.
///
/// # Errors
///
/// If the layer is out of range, or the file is no such file, of another width, or says no number of samples.
pub fn import_npz(
    model: &dyn LanguageModel,
    layer: usize,
    corpus: &str,
    samples: Option<usize>,
    path: &Path,
    cache: &Path,
) -> Result<(usize, FoundMoments)> {
    model.spec().check_layer(layer)?;
    let npz = read_npz(path, model.spec().d_mlp)?;
    let Some(samples) = npz.sample_size.or(samples) else {
        return Err(Error::format(path, "does not say how many samples it is of; give the number that mom2_n_samples has"));
    };
    let of = Provenance::of_name(model, &fingerprints_up_to(model, &[layer], &Silent)?, corpus, samples);
    let of = of.get(&layer).ok_or_else(|| Error::Batch(format!("layer {layer} has no provenance")))?;
    let file = cache::write(cache, of, &npz.moments)?;
    Ok((samples, FoundMoments { moments: npz.moments, file }))
}
