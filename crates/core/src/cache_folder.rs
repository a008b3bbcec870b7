//! Cache folders: what cannot be kept is done without, and what killed runs leave behind is removed.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::files::TEMPORARY_PREFIX;
use crate::publish::is_unused;
use crate::{Error, Result};

/// Temporary files that nobody has locked or written to for so long belong to a run that was killed: between its creation and its lock a
/// file is not older.
const ABANDONED: Duration = Duration::from_secs(60);

/// Writes into a cache folder. Where the folder cannot be written to, the run goes on without what it would have kept: `None`, and one
/// warning for each top folder `cache`.
///
/// # Errors
///
/// Other errors of `write` than a lack of permission.
pub fn keep_in_cache(cache: &Path, write: impl FnOnce() -> Result<()>) -> Result<Option<()>> {
    match write() {
        Ok(()) => Ok(Some(())),
        Err(error) if is_read_only(&error) => {
            if once(&WARNED, cache) {
                tracing::warn!("{error}; nothing is kept in the cache folder {} (set EASYEDIT_CACHE to another)", cache.display());
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static TIDIED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Whether a path comes by for the first time.
fn once(seen: &Mutex<BTreeSet<PathBuf>>, path: &Path) -> bool {
    seen.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned())
}

fn is_read_only(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
}

/// Removes what killed runs have left in a folder: temporary files that nobody holds locked or has written to for a minute. Looks once per run and
/// folder; what cannot be looked at or removed is left.
pub fn tidy_cache_folder(folder: &Path) {
    if once(&TIDIED, folder) {
        remove_abandoned(folder, SystemTime::now());
    }
}

fn remove_abandoned(folder: &Path, now: SystemTime) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        // Of the entry itself, never of what a link leads to.
        let written = entry.metadata().ok().filter(std::fs::Metadata::is_file).and_then(|metadata| metadata.modified().ok());
        if written.and_then(|written| now.duration_since(written).ok()).is_some_and(|age| age > ABANDONED)
            && is_unused(&entry.path())
            && std::fs::remove_file(entry.path()).is_ok()
        {
            tracing::info!("removed {}, which an interrupted run left behind", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_temporary_files_are_removed_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let touch = |name: &str| std::fs::write(dir.path().join(name), "x").unwrap();
        [".easyedit-abc", ".easyedit.lock", "x.safetensors"].into_iter().for_each(touch);
        std::fs::create_dir(dir.path().join(".easyedit-folder")).unwrap();
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        remove_abandoned(dir.path(), SystemTime::now());
        assert_eq!(names().len(), 4, "a file that was just written belongs to a live run");
        let live = std::fs::File::open(dir.path().join(".easyedit-abc")).unwrap();
        fs4::FileExt::try_lock(&live).unwrap();
        remove_abandoned(dir.path(), SystemTime::now() + 2 * ABANDONED);
        assert_eq!(names().len(), 4, "a file that is locked belongs to a live run");
        drop(live);
        remove_abandoned(dir.path(), SystemTime::now() + 2 * ABANDONED);
        assert_eq!(names(), [".easyedit-folder", ".easyedit.lock", "x.safetensors"]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_no_error_and_other_failures_are() {
        let cache = Path::new("read-only");
        let failing = |kind: ErrorKind| keep_in_cache(cache, || Err(Error::io("write", "read-only/x", kind.into())));
        assert!(failing(ErrorKind::PermissionDenied).unwrap().is_none());
        assert!(failing(ErrorKind::ReadOnlyFilesystem).unwrap().is_none());
        assert!(failing(ErrorKind::StorageFull).is_err());
        assert!(keep_in_cache(cache, || Ok(())).unwrap().is_some());
    }
}
