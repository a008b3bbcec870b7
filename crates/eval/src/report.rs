use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use easyedit_core::{Error, Result, check_output_file};
use serde::Serialize;
use serde_json::json;

use crate::{Record, Summary};

/// Writes a report as JSON lines: a [`Record`] per line as each request is done, and `{"summary": ...}` as the last line.
///
/// Lines go to `FILE.partial`, each of them flushed; [`finish`](Self::finish) gives the file its name. So a report that carries its
/// name is whole, an older one stays until then, and a run that fails keeps the records it has in `FILE.partial`. Records that an earlier
/// run left there are moved to `FILE.partial-1` (or the next free number), with a warning.
#[derive(Debug)]
pub struct ReportWriter {
    path: PathBuf,
    partial: PathBuf,
    file: Option<File>,
    records: usize,
}

impl ReportWriter {
    /// Begins a report that will be called `path`; folders are created as needed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] naming the file if it cannot be written, [`Error::Format`] if it is a folder, a device or a pipe, or if another run is
    /// writing it.
    pub fn create(path: &Path) -> Result<Self> {
        let path = &check_output_file(path)?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        }
        let mut partial = path.to_owned();
        partial.as_mut_os_string().push(".partial");
        check_output_file(&partial)?;
        let mut file = open_and_lock(&partial)?;
        if file.metadata().is_ok_and(|metadata| metadata.len() > 0) {
            let aside = set_aside(&partial)?;
            tracing::warn!("{} holds the records of a run that did not end; they are in {} now", partial.display(), aside.display());
            file = open_and_lock(&partial)?;
        }
        Ok(Self { path: path.to_owned(), partial, file: Some(file), records: 0 })
    }

    /// Where the lines stand until the report is finished.
    pub fn partial_path(&self) -> &Path {
        &self.partial
    }

    /// Writes a record.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] naming the file.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        self.line(record)?;
        self.records += 1;
        Ok(())
    }

    /// Writes the summary and gives the report its name.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] naming the file; the records then are in `FILE.partial`.
    pub fn finish(mut self, summary: &Summary) -> Result<()> {
        self.line(&json!({ "summary": summary }))?;
        if let Some(file) = &self.file {
            file.sync_all().map_err(|e| Error::io("write the report", &self.partial, e))?;
        }
        fs::rename(&self.partial, &self.path).map_err(|e| Error::io("write the report", &self.path, e))?;
        self.file = None;
        Ok(())
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("write the report", &self.partial, e);
        let mut line = serde_json::to_vec(value).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        match &mut self.file {
            // One call for the whole line: a reader never sees half of one.
            Some(file) => file.write_all(&line).map_err(failed),
            None => Ok(()),
        }
    }
}

fn open_and_lock(partial: &Path) -> Result<File> {
    let open = File::options().create(true).append(true).open(partial);
    let file = open.map_err(|e| Error::io("write the report", partial, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::format(partial, "another run is writing this report; wait for it or choose another --report")),
    }
}

/// Gives what an earlier run left the first free name with a number behind it.
fn set_aside(partial: &Path) -> Result<PathBuf> {
    let numbered = |number: u32| {
        let mut path = partial.to_owned();
        path.as_mut_os_string().push(format!("-{number}"));
        path
    };
    let free = (1..=u32::MAX).map(numbered).find(|path| path.symlink_metadata().is_err());
    let aside = free.ok_or_else(|| Error::format(partial, "cannot be set aside; remove it"))?;
    fs::rename(partial, &aside).map_err(|e| Error::io("set aside", partial, e))?;
    Ok(aside)
}

impl Drop for ReportWriter {
    fn drop(&mut self) {
        if self.file.is_some() && self.records == 0 {
            // Removed while the lock is held, so that it cannot be another run's.
            let _ = fs::remove_file(&self.partial);
        }
    }
}
