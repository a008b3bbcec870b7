use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use fs4::FileExt;

use crate::in_flight::Tracked;
use crate::publish::remove_leftovers;
use crate::{Error, Result};

/// Start of the names of files and folders that are there only while something is written.
pub(crate) const TEMPORARY_PREFIX: &str = ".easyedit-";

/// Writes a file through `fill`: to a temporary file beside it, which takes the name only when everything is on disk.
///
/// The temporary file is locked while it is written, so that one which a killed run left behind can be told from one in use.
/// A link is followed: the file it points to is replaced, and the link stays.
///
/// # Errors
///
/// [`Error::Io`] naming the file; [`Error::Format`] if `path` is a folder, a device or a pipe, which is never replaced. Nothing is left
/// behind then.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let place = check_output_file(path)?;
    let (file, _tracked) = write_beside(&place, fill)?;
    file.persist(&place).map_err(|e| Error::io("write", place, e.error))?;
    Ok(())
}

/// As [`write_atomically`], but replaces nothing. Returns whether the file was written: `false` if there is something at `path` already.
///
/// # Errors
///
/// [`Error::Io`] naming the file.
pub fn write_new_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<bool> {
    let (file, _tracked) = write_beside(path, fill)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("write", path, e.error)),
    }
}

/// Fills a temporary file in the folder of `path` and writes it to the disk.
fn write_beside(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(tempfile::NamedTempFile, Tracked)> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let mut file = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(folder).map_err(|e| Error::io("write into", folder, e))?;
    let tracked = Tracked::file(file.path());
    // Where locks are not to be had, the file is taken for a leftover at worst, and writing it fails.
    let _ = FileExt::try_lock(file.as_file());
    let write = |file: &mut tempfile::NamedTempFile| {
        let mut buffered = std::io::BufWriter::with_capacity(1 << 20, file.as_file_mut());
        fill(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        file.as_file().sync_all()
    };
    write(&mut file).map_err(|e| Error::io("write", path, e))?;
    widen_permissions(file.path()).map_err(|e| Error::io("write", path, e))?;
    Ok((file, tracked))
}

/// Checks that a file can be written to `path` and returns the place it is written to, with links followed.
///
/// # Errors
///
/// [`Error::Format`] if `path` is a folder, a device or a pipe; [`Error::Io`] if it is a link that leads nowhere.
pub fn check_output_file(path: &Path) -> Result<PathBuf> {
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    let place = if is_link { fs::canonicalize(path).map_err(|e| Error::io("write", path, e))? } else { path.to_owned() };
    match fs::metadata(&place) {
        Ok(metadata) if metadata.is_dir() => Err(Error::format(path, "is a folder; name a file to write to")),
        Ok(metadata) if !metadata.is_file() => Err(Error::format(path, "is a device or a pipe, which is never replaced; name a file")),
        _ => Ok(place),
    }
}

/// Temporary files are private; what takes their place should be as readable as any new file.
#[cfg(unix)]
fn widen_permissions(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn widen_permissions(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// An output folder that one run at a time may write to.
///
/// The claim is a lock on a file in the folder; it is released, and the file removed, when the value is dropped.
#[derive(Debug)]
pub struct OutputFolder {
    path: PathBuf,
    lock: Option<File>,
    created: bool,
    _tracked: Tracked,
}

const LOCK_FILE: &str = ".easyedit.lock";

impl OutputFolder {
    /// Creates `path` if need be, claims it, and removes what a killed run left in it: temporary files, and files of a set that was not moved
    /// into the folder as a whole.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be created or written to, [`Error::Format`] if another run holds it.
    pub fn claim(path: &Path) -> Result<Self> {
        let created = !path.exists();
        fs::create_dir_all(path).map_err(|e| Error::io("create the output folder", path, e))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| Error::io("write to the output folder", path, e))?;
        if FileExt::try_lock(&lock).is_err() {
            return Err(Error::format(path, "another run is writing to this folder; wait for it or choose another --out"));
        }
        remove_leftovers(path);
        let tracked = Tracked::claim(&lock_path, created.then_some(path));
        Ok(Self { path: path.to_owned(), lock: Some(lock), created, _tracked: tracked })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            let _ = fs::remove_file(self.path.join(LOCK_FILE));
            drop(lock);
            if self.created {
                // Only an empty folder goes: a run that failed before writing leaves nothing behind.
                let _ = fs::remove_dir(&self.path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let failed = write_atomically(&path, |w| {
            w.write_all(b"half")?;
            Err(std::io::Error::other("no"))
        });
        assert!(failed.unwrap_err().to_string().contains("a.json"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        write_atomically(&path, |w| w.write_all(b"whole")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn a_new_file_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert!(write_new_atomically(&path, |w| w.write_all(b"first")).unwrap());
        assert!(!write_new_atomically(&path, |w| w.write_all(b"second")).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file is gone");
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &Path| write_atomically(path, |w| w.write_all(b"new"));
        assert!(write(dir.path()).unwrap_err().to_string().contains("is a folder"));
        let (target, link, dangling) = (dir.path().join("target"), dir.path().join("link"), dir.path().join("dangling"));
        assert!(std::process::Command::new("mkfifo").arg(&target).status().unwrap().success());
        assert!(write(&target).unwrap_err().to_string().contains("a device or a pipe"));
        fs::remove_file(&target).unwrap();
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write(&link).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(link.symlink_metadata().unwrap().is_symlink(), "the link stays");
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &dangling).unwrap();
        assert!(write(&dangling).is_err());
    }

    #[test]
    fn a_folder_is_claimed_once() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let first = OutputFolder::claim(&out).unwrap();
        assert!(OutputFolder::claim(&out).unwrap_err().to_string().contains("another run"));
        drop(first);
        assert!(!out.exists(), "an empty claimed folder is removed");
        assert!(OutputFolder::claim(&out).is_ok());
    }
}
