use std::path::Path;

use easyedit_core::Progress;

use crate::{Result, StoredValues};

/// Where a checkpoint's tensors are read from, one at a time, under their Hugging Face names.
pub trait TensorSource {
    /// Names of all tensors.
    fn names(&self) -> Vec<String>;

    /// Whether there is a tensor `name`.
    fn contains(&self, name: &str) -> bool;

    /// The values of tensor `name` as `f32`, row-major.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](crate::Error::Tensor) if it is missing, not of shape `shape`, cut short, or holds NaN or infinity.
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;

    /// The values of tensor `name`, row-major, in the type they are stored in where that is one of 16 bits, otherwise as `f32`.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    fn read_stored(&self, name: &str, shape: &[usize]) -> Result<StoredValues> {
        self.read(name, shape).map(StoredValues::F32)
    }

    /// The file or folder, for messages.
    fn path(&self) -> &Path;
}

/// A source whose every read is a step of a task, and which reads nothing more once the work is to end.
pub(crate) struct ReportedSource<'a> {
    pub(crate) source: &'a dyn TensorSource,
    pub(crate) progress: &'a dyn Progress,
}

impl TensorSource for ReportedSource<'_> {
    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    fn contains(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.read_stored(name, shape).map(StoredValues::into_f32)
    }

    fn read_stored(&self, name: &str, shape: &[usize]) -> Result<StoredValues> {
        let values = self.source.read_stored(name, shape)?;
        self.progress.step(1)?;
        Ok(values)
    }

    fn path(&self) -> &Path {
        self.source.path()
    }
}
