/// Where long work reports how far it is. Libraries are silent by default ([`Silent`]); the command line draws bars.
pub trait Progress {
    /// A task of `total` steps begins (`None`: unknown); tasks may nest.
    fn begin(&self, task: &str, total: Option<u64>);
    /// `steps` more steps of the innermost task are done.
    fn advance(&self, steps: u64);
    /// A short remark on the innermost task, e.g. the current loss.
    fn remark(&self, text: &str);
    /// The innermost task is over.
    fn end(&self);
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
