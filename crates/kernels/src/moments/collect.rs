use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use easyedit_core::{LanguageModel, Module, Pass, Probe, Progress, Result, Site, TokenBatch, keep_in_cache};

use super::not_finite;
use super::partial::{Partial, PartialFile};
use super::plan::Plan;

/// Checkpoints take at most this share of the time.
const CHECKPOINT_SHARE: u32 = 20;

/// Where and how often sums are kept on the way.
pub(super) struct Checkpoints<'a> {
    pub(super) file: &'a PartialFile,
    /// Seconds between two; zero keeps the sums after every chunk.
    pub(super) every: Duration,
    /// The cache folder that the file lies in: where it cannot be written to, the run goes on without. `None` if the file was asked for.
    pub(super) cache: Option<&'a Path>,
}

impl Checkpoints<'_> {
    fn write(&self, partial: &Partial) -> Result<()> {
        match self.cache {
            Some(cache) => keep_in_cache(cache, || self.file.write(partial)).map(drop),
            None => self.file.write(partial),
        }
    }
}

/// Runs the chunks that `partial` still lacks, and adds up the products of the keys.
pub(super) fn collect(
    model: &dyn LanguageModel,
    plan: &Plan,
    partial: &mut Partial,
    checkpoints: Option<&Checkpoints<'_>>,
    progress: &dyn Progress,
) -> Result<()> {
    let layers: Vec<usize> = partial.sums.keys().copied().collect();
    let left = plan.tokens(partial.next..partial.range.end);
    progress.begin(&format!("second moments of layers {layers:?} (tokens)"), Some(left as u64));
    if partial.next > partial.range.start {
        tracing::info!("second moments go on at chunk {} of {:?}", partial.next, partial.range);
    }
    let outcome = run(model, plan, partial, checkpoints, progress);
    progress.end();
    outcome
}

fn run(
    model: &dyn LanguageModel,
    plan: &Plan,
    partial: &mut Partial,
    checkpoints: Option<&Checkpoints<'_>>,
    progress: &dyn Progress,
) -> Result<()> {
    let (mut kept, mut wait) = (Instant::now(), checkpoints.map(|kept| kept.every));
    while partial.next < partial.range.end {
        let batch = plan.batch(partial.next)?;
        let tokens = batch.tokens() as u64;
        add(model, batch, partial)?;
        partial.next += 1;
        partial.tokens += tokens;
        if let Err(cancelled) = progress.step(tokens) {
            checkpoints.map_or(Ok(()), |checkpoints| checkpoints.write(partial))?;
            return Err(cancelled);
        }
        if let (Some(checkpoints), Some(due)) = (checkpoints, wait)
            && partial.next < partial.range.end
            && kept.elapsed() >= due
        {
            let begun = Instant::now();
            checkpoints.write(partial)?;
            kept = Instant::now();
            let long = if checkpoints.every.is_zero() { Duration::ZERO } else { (kept - begun) * CHECKPOINT_SHARE };
            wait = Some(long.max(checkpoints.every));
        }
    }
    Ok(())
}

/// Runs a batch as deep as the deepest layer's key.
fn add(model: &dyn LanguageModel, batch: TokenBatch, partial: &mut Partial) -> Result<()> {
    let Some(deepest) = partial.sums.keys().max().copied() else {
        return Ok(());
    };
    let mut probe = Products { deepest: Site::new(deepest, Module::MlpKey), partial, outcome: Ok(()), is_done: false };
    let mut pass = Pass::new(batch, &model.device());
    let hidden = model.embed(&pass)?;
    model.run_layers(hidden, 0..deepest + 1, &mut pass, &mut probe)?;
    probe.outcome
}

/// Adds up the products of the keys that come by, so that no keys have to be kept.
struct Products<'a> {
    deepest: Site,
    partial: &'a mut Partial,
    outcome: Result<()>,
    is_done: bool,
}

impl Probe for Products<'_> {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        if site.module == Module::MlpKey
            && self.outcome.is_ok()
            && let Some(sum) = self.partial.sums.get_mut(&site.layer)
        {
            self.outcome = match sum.add_products(&activations) {
                Ok(added) => added.map_err(|_| not_finite(site.layer)),
                Err(error) => Err(error),
            };
        }
        self.is_done |= site == self.deepest || self.outcome.is_err();
        activations
    }

    fn is_done(&self) -> bool {
        self.is_done
    }

    fn ends_at(&self, _site: Site) -> bool {
        self.is_done
    }
}
