//! Folders for readers that take a path.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Memory that is a folder, where there is one.
const MEMORY: &str = "/dev/shm";

thread_local! {
    static SCRATCH: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// An empty folder of this thread called `name`. The next call with the same name empties it.
pub(crate) fn folder(name: &str) -> PathBuf {
    let path = root().join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// Writes a file into `folder`.
pub(crate) fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn root() -> PathBuf {
    SCRATCH.with_borrow_mut(|scratch| {
        let made = scratch.get_or_insert_with(|| {
            let chosen = std::env::var_os("TMPDIR").is_some() || !Path::new(MEMORY).is_dir();
            let made = if chosen { tempfile::tempdir() } else { tempfile::tempdir_in(MEMORY) };
            made.unwrap()
        });
        made.path().to_owned()
    })
}
