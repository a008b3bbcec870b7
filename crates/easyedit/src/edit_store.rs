use std::borrow::Cow;

use easyedit_core::{Edit, Error, Result};

/// Where a run puts its edits, in the order in which they are made. `Vec<Edit>` keeps them in memory, [`EditFolder`](crate::EditFolder) in
/// files.
pub trait EditStore {
    /// Keeps an edit.
    ///
    /// # Errors
    ///
    /// If it cannot be kept; the store is as before then.
    fn push(&mut self, edit: Edit) -> Result<()>;

    /// Takes back the edit that was kept last.
    ///
    /// # Errors
    ///
    /// If its file cannot be removed.
    fn pop(&mut self) -> Result<()>;

    /// Number of edits.
    fn len(&self) -> usize;

    /// Whether there is no edit.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Edit `index`.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] if there is no such edit; or if its file cannot be read.
    fn get(&self, index: usize) -> Result<Cow<'_, Edit>>;
}

impl EditStore for Vec<Edit> {
    fn push(&mut self, edit: Edit) -> Result<()> {
        Self::push(self, edit);
        Ok(())
    }

    fn pop(&mut self) -> Result<()> {
        Self::pop(self);
        Ok(())
    }

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn get(&self, index: usize) -> Result<Cow<'_, Edit>> {
        self.as_slice().get(index).map(Cow::Borrowed).ok_or_else(|| no_edit(index, self.len()))
    }
}

impl<S: EditStore + ?Sized> EditStore for &mut S {
    fn push(&mut self, edit: Edit) -> Result<()> {
        (**self).push(edit)
    }

    fn pop(&mut self) -> Result<()> {
        (**self).pop()
    }

    fn len(&self) -> usize {
        (**self).len()
    }

    fn get(&self, index: usize) -> Result<Cow<'_, Edit>> {
        (**self).get(index)
    }
}

/// The error for an edit that was not made.
pub(crate) fn no_edit(index: usize, made: usize) -> Error {
    Error::Batch(format!("there is no edit {index}: the run made {made}"))
}
