use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;

use crate::{Corpora, Progress, Result, SelfWritten, Silent};

/// What work shares besides models and requests: seed, device, cache folder, texts, progress, and the wish to end early.
///
/// It is owned and cheap to clone. Clones are cancelled together; a `with_` method changes one clone alone.
#[derive(Clone)]
pub struct Session {
    parts: Arc<Parts>,
}

#[derive(Clone)]
struct Parts {
    seed: u64,
    device: Option<Device>,
    cache: Option<PathBuf>,
    corpora: Arc<dyn Corpora>,
    reports: Reports,
}

/// Hands progress on, and knows whether the session is cancelled.
#[derive(Clone)]
struct Reports {
    progress: Arc<dyn Progress>,
    is_cancelled: Arc<AtomicBool>,
}

impl Progress for Reports {
    fn begin(&self, task: &str, total: Option<u64>) {
        self.progress.begin(task, total);
    }

    fn advance(&self, steps: u64) {
        self.progress.advance(steps);
    }

    fn remark(&self, text: &str) {
        self.progress.remark(text);
    }

    fn end(&self) {
        self.progress.end();
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed) || self.progress.is_cancelled()
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session with seed 0 on the CPU that keeps nothing between runs, reports nothing, and whose only text is what the model writes.
    pub fn new() -> Self {
        let reports = Reports { progress: Arc::new(Silent), is_cancelled: Arc::default() };
        let parts = Parts { seed: 0, device: None, cache: None, corpora: Arc::new(SelfWritten), reports };
        Self { parts: Arc::new(parts) }
    }

    /// With a seed of everything random.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        self.changed(|parts| parts.seed = seed)
    }

    /// With a device for the models that are opened.
    #[must_use]
    pub fn with_device(self, device: Device) -> Self {
        self.changed(|parts| parts.device = Some(device))
    }

    /// With a folder for what is worth keeping between runs: context templates, statistics, values, indices.
    #[must_use]
    pub fn with_cache(self, folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        self.changed(|parts| parts.cache = Some(folder))
    }

    /// With texts for statistics, and records for demonstrations.
    #[must_use]
    pub fn with_corpora(self, corpora: impl Corpora + 'static) -> Self {
        let corpora = Arc::new(corpora);
        self.changed(|parts| parts.corpora = corpora)
    }

    /// With somebody to report progress to.
    #[must_use]
    pub fn with_progress(self, progress: impl Progress + 'static) -> Self {
        let progress = Arc::new(progress);
        self.changed(|parts| parts.reports.progress = progress)
    }

    fn changed(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(Arc::make_mut(&mut self.parts));
        self
    }

    /// Seed of everything random.
    pub fn seed(&self) -> u64 {
        self.parts.seed
    }

    /// Device for the models that are opened; the CPU unless another was chosen.
    ///
    /// # Errors
    ///
    /// If the program was built without a CPU backend.
    pub fn device(&self) -> Result<Device> {
        self.parts.device.clone().map_or_else(|| crate::device::select("cpu"), Ok)
    }

    /// Folder for what is worth keeping between runs; `None` keeps nothing.
    pub fn cache(&self) -> Option<&Path> {
        self.parts.cache.as_deref()
    }

    /// Texts for statistics, and records for demonstrations.
    pub fn corpora(&self) -> &dyn Corpora {
        &*self.parts.corpora
    }

    /// Where to report progress. Its `step` ends the work once the session is cancelled.
    pub fn progress(&self) -> &dyn Progress {
        &self.parts.reports
    }

    /// Whether the work of this session is to end.
    pub fn is_cancelled(&self) -> bool {
        self.progress().is_cancelled()
    }

    /// Asks all work of this session and its clones to end. It ends at its next step, with [`Error::Cancelled`](crate::Error::Cancelled); what is
    /// finished stays.
    pub fn cancel(&self) {
        self.parts.reports.is_cancelled.store(true, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Parts { seed, device, cache, .. } = &*self.parts;
        f.debug_struct("Session").field("seed", seed).field("device", device).field("cache", cache).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_cancelled_together_and_changed_alone() {
        fn is_shareable<T: Send + Sync>(_: &T) {}
        let session = Session::new().with_cache("kept");
        is_shareable(&session);
        let other = session.clone().with_seed(3);
        assert_eq!((session.seed(), other.seed(), other.cache()), (0, 3, Some(Path::new("kept"))));
        session.progress().step(1).unwrap();
        other.cancel();
        assert!(matches!(session.progress().step(1), Err(crate::Error::Cancelled)));
        assert!(Session::new().progress().step(1).is_ok());
    }
}
