use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use fs4::FileExt;

use crate::{Error, Result};

/// Writes a file through `fill`: to a temporary file beside it, which takes the name only when everything is on disk.
///
/// # Errors
///
/// [`Error::Io`] naming the file; nothing is left behind then.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let mut file = tempfile::Builder::new().prefix(".easyedit-").tempfile_in(folder).map_err(|e| Error::io("write into", folder, e))?;
    let write = |file: &mut tempfile::NamedTempFile| {
        let mut buffered = std::io::BufWriter::with_capacity(1 << 20, file.as_file_mut());
        fill(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        file.as_file().sync_all()
    };
    write(&mut file).map_err(|e| Error::io("write", path, e))?;
    widen_permissions(file.path()).map_err(|e| Error::io("write", path, e))?;
    file.persist(path).map_err(|e| Error::io("write", path, e.error))?;
    Ok(())
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
}

const LOCK_FILE: &str = ".easyedit.lock";

impl OutputFolder {
    /// Creates `path` if need be and claims it.
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
        Ok(Self { path: path.to_owned(), lock: Some(lock), created })
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
