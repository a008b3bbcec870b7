use crate::{Error, Result};

/// Where long work reports how far it is, and learns whether it is to end. Libraries are silent by default ([`Silent`]); the command line draws
/// bars.
pub trait Progress: Send + Sync {
    /// A task of `total` steps begins (`None`: unknown); tasks may nest.
    fn begin(&self, task: &str, total: Option<u64>);
    /// `steps` more steps of the innermost task are done.
    fn advance(&self, steps: u64);
    /// A short remark on the innermost task, e.g. the current loss.
    fn remark(&self, text: &str);
    /// The innermost task is over.
    fn end(&self);

    /// Whether the work is to end.
    fn is_cancelled(&self) -> bool {
        false
    }
}

impl dyn Progress + '_ {
    /// Reports `steps` more steps of the innermost task.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`] if the work is to end.
    pub fn step(&self, steps: u64) -> Result<()> {
        self.advance(steps);
        self.check()
    }

    /// Ends work that reports no step here.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`] if the work is to end.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Reports nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn remark(&self, _: &str) {}
    fn end(&self) {}
}
