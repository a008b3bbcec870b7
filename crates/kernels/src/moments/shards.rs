use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit_core::{CorpusText, Error, LanguageModel, Progress, Result};

use super::FoundMoments;
use super::cache;
use super::collect::{Checkpoints, collect};
use super::partial::{Job, Partial, PartialFile, Shard};
use super::plan::Plan;
use super::provenance::Provenance;
use super::search::MomentQuery;
use crate::model_fingerprint::fingerprints_up_to;

/// Missing shards that an error names.
const MISSING_NAMED: usize = 10;

/// What a shard's file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardReport {
    /// Which shard it is.
    pub shard: Shard,
    /// Tokens counted.
    pub tokens: u64,
    /// Chunks it is of, and of all shards together.
    pub chunks: (usize, usize),
}

/// Statistics put together from shards.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedMoments {
    /// Name of the model.
    pub model: String,
    /// Name of the corpus.
    pub corpus: String,
    /// Number of documents asked for (`mom2_n_samples`).
    pub samples: usize,
    /// By layer: the module whose inputs the keys are, and the moments.
    pub layers: BTreeMap<usize, (String, FoundMoments)>,
}

/// Collects shard `shard` of the moments of `layers` over `text` into the file `path`, which [`merge_shards`] reads. A file that a run
/// left unfinished is gone on with, a finished one is left as it is.
///
/// # Errors
///
/// If there is no text, a layer is out of range, the keys are not finite, or `path` holds something else.
pub fn collect_shard(
    model: &dyn LanguageModel,
    layers: &[usize],
    query: &MomentQuery<'_>,
    text: &CorpusText,
    shard: Shard,
    path: &Path,
    progress: &dyn Progress,
) -> Result<ShardReport> {
    layers.iter().try_for_each(|layer| model.spec().check_layer(*layer))?;
    let plan = Plan::new(model, text, &query.config, query.cache, progress)?;
    let fingerprints = fingerprints_up_to(model, layers, progress)?;
    let statistics = Provenance::of_text(model, &fingerprints, query.corpus, text, &query.config)?;
    let job = plan.job(statistics.into_values().collect(), model.spec().d_mlp, shard);
    let mut partial = match PartialFile::find(path)? {
        Some(file) if file.job == job => file.load()?,
        Some(_) => return Err(Error::format(path, "holds other sums; choose another file, or remove it")),
        None => job.start(),
    };
    let all = job.chunks;
    let file = PartialFile::new(path.to_owned(), job);
    let complete = partial.next == partial.range.end;
    if !complete || !path.exists() {
        collect(model, &plan, &mut partial, Some(&Checkpoints { file: &file, every: query.checkpoint, cache: None }), progress)?;
        file.write(&partial)?;
    }
    Ok(ShardReport { shard, tokens: partial.tokens, chunks: (partial.range.len(), all) })
}

/// Collects all of `statistics`. With a `cache` folder an interrupted run is gone on with, and the moments are kept.
pub(super) fn collect_whole(
    model: &dyn LanguageModel,
    statistics: BTreeMap<usize, Provenance>,
    query: &MomentQuery<'_>,
    text: &CorpusText,
    progress: &dyn Progress,
) -> Result<BTreeMap<usize, FoundMoments>> {
    let plan = Plan::new(model, text, &query.config, query.cache, progress)?;
    let job = plan.job(statistics.values().cloned().collect(), model.spec().d_mlp, Shard::WHOLE);
    let Some(cache) = query.cache else {
        let mut partial = job.start();
        collect(model, &plan, &mut partial, None, progress)?;
        return Ok(partial.finish()?.into_iter().map(|(layer, moments)| (layer, FoundMoments { moments, file: None })).collect());
    };
    let path = cache::unfinished(cache, &job.key());
    let mut partial = match kept(&path, &job) {
        Ok(Some(partial)) => partial,
        Ok(None) => job.start(),
        Err(error) => {
            tracing::warn!("{error}; collecting the statistics from the start");
            job.start()
        }
    };
    let file = PartialFile::new(path.clone(), job);
    collect(model, &plan, &mut partial, Some(&Checkpoints { file: &file, every: query.checkpoint, cache: Some(cache) }), progress)?;
    let mut found = BTreeMap::new();
    for (layer, moments) in partial.finish()? {
        if let Some(of) = statistics.get(&layer) {
            let file = cache::write(cache, of, &moments)?;
            found.insert(layer, FoundMoments { moments, file });
        }
    }
    // Only now are the sums not needed any more; a file that is not there was never needed.
    let _ = std::fs::remove_file(&path);
    Ok(found)
}

fn kept(path: &Path, job: &Job) -> Result<Option<Partial>> {
    match PartialFile::find(path)? {
        Some(file) if file.job == *job => file.load().map(Some),
        Some(_) => Err(Error::format(path, "holds other sums")),
        None => Ok(None),
    }
}

/// Puts the moments together that shards were collected for, and keeps them in the folder `cache`. Bit for bit what one run gives,
/// in whatever order the files are named.
///
/// # Errors
///
/// [`Error::Format`] naming the file that is unfinished, given twice, or of other statistics than the first; or the shards that are
/// missing.
pub fn merge_shards(paths: &[PathBuf], cache: Option<&Path>) -> Result<MergedMoments> {
    let mut files: BTreeMap<usize, PartialFile> = BTreeMap::new();
    let mut first: Option<PartialFile> = None;
    for path in paths {
        let file = PartialFile::find(path)?.ok_or_else(|| Error::io("read the shard", path, std::io::ErrorKind::NotFound.into()))?;
        let (done, wanted) = file.progress();
        if done < wanted {
            let message =
                format!("shard {} is not finished: {done} of {wanted} chunks are in; run it again, it goes on there", file.job.shard);
            return Err(Error::format(path, message));
        }
        let first = first.get_or_insert_with(|| file.clone());
        if let Some(difference) = difference(&first.job, &file.job) {
            return Err(Error::format(path, format!("does not belong to {}: it is of {difference}", first.path.display())));
        }
        if let Some(other) = files.insert(file.job.shard.index(), file) {
            return Err(Error::format(path, format!("holds shard {} once more, after {}", other.job.shard, other.path.display())));
        }
    }
    let Some(first) = first else {
        return Err(Error::Batch("there are no shards to merge".into()));
    };
    let of = first.job.shard.of();
    if files.len() < of {
        // A file may tell of any number of shards: only the first of those that are missing are looked for.
        let missing: Vec<String> =
            (1..=of).filter(|index| !files.contains_key(index)).take(MISSING_NAMED).map(|index| format!("{index}/{of}")).collect();
        let more = (of - files.len()).saturating_sub(missing.len());
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let message = format!("is one of {of} shards, of which these are missing: {}{more}", missing.join(", "));
        return Err(Error::format(&first.path, message));
    }
    let mut sum = Job { shard: Shard::WHOLE, ..first.job.clone() }.start();
    files.values().try_for_each(|file| file.add_to(&mut sum))?;
    let mut moments = sum.finish()?;
    let mut merged = MergedMoments { model: String::new(), corpus: String::new(), samples: 0, layers: BTreeMap::new() };
    for of in &first.job.statistics {
        merged.model.clone_from(&of.model);
        merged.corpus.clone_from(&of.corpus);
        merged.samples = of.config.samples;
        if let Some(moments) = moments.remove(&of.layer) {
            let file = cache.map(|cache| cache::write(cache, of, &moments)).transpose()?.flatten();
            merged.layers.insert(of.layer, (of.module.clone(), FoundMoments { moments, file }));
        }
    }
    Ok(merged)
}

/// In what two jobs differ, if not in their shards alone.
fn difference(one: &Job, other: &Job) -> Option<&'static str> {
    let keys = |job: &Job| job.statistics.iter().map(Provenance::key).collect::<Vec<_>>();
    if one.layers() != other.layers() {
        Some("other layers")
    } else if keys(one) != keys(other) {
        Some("another model, text or other settings")
    } else if one.plan_sha256 != other.plan_sha256 || one.chunks != other.chunks {
        Some("other tokens (was the text sampled on another machine? let the shards share a cache folder)")
    } else if one.shard.of() != other.shard.of() {
        Some("another number of shards")
    } else {
        None
    }
}
