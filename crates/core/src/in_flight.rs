//! Files and folders that exist only while something is being written.
//!
//! Dropping what owns them removes them. A program that ends by a signal drops nothing: it calls [`remove_all`] first.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

static FILES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Folders that this process created for its output.
static FOLDERS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Removes the unfinished files of this process, the locks on its output folders, and those of the folders that it created and that are
/// empty. Whatever cannot be removed stays; the next run that writes to the same folder removes it.
///
/// To be called when the process is about to end: a write under way then fails.
pub fn remove_all() {
    for path in std::mem::take(&mut *lock(&FILES)) {
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }
    for path in std::mem::take(&mut *lock(&FOLDERS)).iter().rev() {
        let _ = fs::remove_dir(path);
    }
}

/// Lists a path among those that [`remove_all`] removes, until it is dropped.
#[derive(Debug)]
pub struct Tracked {
    file: PathBuf,
    folder: Option<PathBuf>,
}

impl Tracked {
    /// Lists a temporary file, or a folder with temporary files.
    pub fn file(path: &Path) -> Self {
        lock(&FILES).insert(path.to_owned());
        Self { file: path.to_owned(), folder: None }
    }

    /// Lists the lock on an output folder, and the folder if this process created it.
    pub(crate) fn claim(lock_file: &Path, created: Option<&Path>) -> Self {
        lock(&FOLDERS).extend(created.map(Path::to_owned));
        let mut claim = Self::file(lock_file);
        claim.folder = created.map(Path::to_owned);
        claim
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        lock(&FILES).remove(&self.file);
        if let Some(folder) = &self.folder {
            lock(&FOLDERS).remove(folder);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
