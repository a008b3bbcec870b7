//! Files of an output folder that belong together: the folder has all of them or none, or says which are too many.
//!
//! A set of files is written to a hidden folder and moved into place, file by file. Before the first move, [`INCOMPLETE_FILE`] names them all; behind
//! the last one it is removed. A run that is killed in between leaves that list, and the next run that claims the folder removes what it names and
//! begins again.

use std::fs::{self, File};
use std::path::{Component, Path};

use fs4::FileExt;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::files::TEMPORARY_PREFIX;
use crate::in_flight::Tracked;
use crate::{Error, OutputFolder, Result, read_input, write_atomically};

/// Names the files that are being moved into an output folder; it is there only while they are moved.
pub const INCOMPLETE_FILE: &str = ".easyedit-incomplete";
/// Start of the names of hidden folders in which sets of files are put together.
const STAGING_PREFIX: &str = ".easyedit-staging-";
/// No list of files is longer, in bytes.
const MAX_LIST_BYTES: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
struct Incomplete {
    files: Vec<String>,
}

/// Names of the files in `folder` that a run was moving into it, in the order of the moves: all of them are in place, or some. Empty if no move is
/// under way or was broken off.
pub fn unfinished_files(folder: &Path) -> Vec<String> {
    let list = read_input(&folder.join(INCOMPLETE_FILE), MAX_LIST_BYTES).ok();
    let list: Option<Incomplete> = list.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    // Whoever wrote the list, it says nothing about other folders.
    let is_plain =
        |name: &String| matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(only)] if only == name.as_str());
    list.map(|list| list.files).unwrap_or_default().into_iter().filter(is_plain).collect()
}

/// Removes what killed runs left in `folder`, which the caller has claimed. What cannot be removed stays: writing will say why.
pub(crate) fn remove_leftovers(folder: &Path) {
    // The last file first: without it the others are not taken for complete.
    for name in unfinished_files(folder).iter().rev() {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            let _ = fs::remove_file(path);
        }
    }
    let _ = fs::remove_file(folder.join(INCOMPLETE_FILE));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && name.starts_with(STAGING_PREFIX) {
            let _ = fs::remove_dir_all(path);
        } else if kind.is_file() && name.starts_with(TEMPORARY_PREFIX) && is_unused(&path) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether no run is writing the temporary file.
pub(crate) fn is_unused(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| FileExt::try_lock(&file).is_ok())
}

/// A set of files that is being put together in a hidden folder inside an output folder, so on the same disk. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Staging<'a> {
    folder: &'a OutputFolder,
    files: TempDir,
    _tracked: Tracked,
}

impl OutputFolder {
    /// Begins a set of files.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be written to.
    pub fn stage(&self) -> Result<Staging<'_>> {
        let files = tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(self.path());
        let files = files.map_err(|e| Error::io("write to the output folder", self.path(), e))?;
        let tracked = Tracked::file(files.path());
        Ok(Staging { folder: self, files, _tracked: tracked })
    }
}

impl Staging<'_> {
    /// Where the files are to be written.
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// Moves all files into the output folder, the one called `last` behind the others, and returns their names in alphabetical order. When one cannot
    /// be moved, those moved before are removed.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if a file of one of the names is in the output folder already; [`Error::Io`] if a file cannot be moved.
    pub fn publish(self, last: &str) -> Result<Vec<String>> {
        let moves = self.moves(last)?;
        moves.announce()?;
        for number in 0..moves.names.len() {
            if let Err(error) = moves.carry_out(number) {
                moves.take_back(number);
                return Err(error);
            }
        }
        moves.finish()?;
        let mut names = moves.names;
        names.sort();
        Ok(names)
    }

    fn moves(&self, last: &str) -> Result<Moves<'_>> {
        let (from, to) = (self.path(), self.folder.path());
        let mut names = Vec::new();
        for entry in fs::read_dir(from).map_err(|e| Error::io("list", from, e))? {
            names.push(entry.map_err(|e| Error::io("list", from, e))?.file_name().to_string_lossy().into_owned());
        }
        names.sort_by_key(|name| (name == last, name.clone()));
        for name in &names {
            let path = to.join(name);
            if path.symlink_metadata().is_ok() {
                return Err(Error::format(path, "is there already and would be overwritten; choose another --out"));
            }
        }
        Ok(Moves { from, to, names })
    }
}

/// The moves of a set of files, one at a time.
struct Moves<'a> {
    from: &'a Path,
    to: &'a Path,
    names: Vec<String>,
}

impl Moves<'_> {
    fn announce(&self) -> Result<()> {
        let list = self.to.join(INCOMPLETE_FILE);
        let text = serde_json::to_vec(&Incomplete { files: self.names.clone() }).map_err(Error::other)?;
        write_atomically(&list, |file| file.write_all(&text))?;
        sync_folder(self.to)
    }

    fn carry_out(&self, number: usize) -> Result<()> {
        let Some(name) = self.names.get(number) else { return Ok(()) };
        let place = self.to.join(name);
        fs::rename(self.from.join(name), &place).map_err(|e| Error::io("write", place, e))
    }

    fn take_back(&self, moved: usize) {
        for name in self.names.iter().take(moved) {
            let _ = fs::remove_file(self.to.join(name));
        }
        let _ = fs::remove_file(self.to.join(INCOMPLETE_FILE));
    }

    fn finish(&self) -> Result<()> {
        sync_folder(self.to)?;
        let list = self.to.join(INCOMPLETE_FILE);
        fs::remove_file(&list).map_err(|e| Error::io("remove", list, e))
    }
}

/// Waits until the names in a folder are on disk.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    match synced {
        // Some file systems do not sync folders.
        Err(e) if !matches!(e.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::Unsupported) => {
            Err(Error::io("write", folder, e))
        }
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const FILES: [&str; 3] = ["a.safetensors", "README.md", "config.json"];

    fn stage(folder: &OutputFolder) -> Staging<'_> {
        let staging = folder.stage().unwrap();
        for name in FILES {
            fs::write(staging.path().join(name), name).unwrap();
        }
        staging
    }

    fn listing(folder: &Path) -> BTreeMap<String, String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap_or_default())).collect()
    }

    /// Nothing that a killed process would not do runs after the last move: no destructor, no clean-up.
    #[test]
    fn a_kill_after_any_move_leaves_a_folder_that_the_next_run_completes() {
        for moved in 0..=FILES.len() {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out");
            fs::create_dir(&out).unwrap();
            fs::write(out.join("mine.txt"), "mine").unwrap();
            let folder = OutputFolder::claim(&out).unwrap();
            let staging = stage(&folder);
            let moves = staging.moves("config.json").unwrap();
            moves.announce().unwrap();
            (0..moved).for_each(|number| moves.carry_out(number).unwrap());
            assert_eq!(out.join("config.json").exists(), moved == FILES.len(), "the last file says that all are there");
            assert_eq!(unfinished_files(&out).len(), FILES.len());
            // The lock of a dead process is free; its files stay.
            std::mem::forget(staging);
            drop(folder);

            let folder = OutputFolder::claim(&out).unwrap();
            assert_eq!(listing(&out).into_keys().collect::<Vec<_>>(), [".easyedit.lock", "mine.txt"], "after {moved} moves");
            assert_eq!(stage(&folder).publish("config.json").unwrap(), ["README.md", "a.safetensors", "config.json"]);
            drop(folder);
            let mut want: BTreeMap<String, String> = FILES.map(|name| (name.to_owned(), name.to_owned())).into();
            want.insert("mine.txt".into(), "mine".into());
            assert_eq!(listing(&out), want);
        }
    }

    #[test]
    fn a_move_that_fails_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = OutputFolder::claim(dir.path()).unwrap();
        let staging = stage(&folder);
        let moves = staging.moves("config.json").unwrap();
        moves.announce().unwrap();
        moves.carry_out(0).unwrap();
        fs::remove_file(staging.path().join("a.safetensors")).unwrap();
        assert!(moves.carry_out(1).unwrap_err().to_string().contains("a.safetensors"));
        moves.take_back(1);
        drop(staging);
        assert_eq!(listing(dir.path()).into_keys().collect::<Vec<_>>(), [".easyedit.lock"]);
        fs::write(dir.path().join("README.md"), "mine").unwrap();
        assert!(stage(&folder).publish("config.json").unwrap_err().to_string().contains("overwritten"));
        assert_eq!(fs::read_to_string(dir.path().join("README.md")).unwrap(), "mine");
    }

    #[test]
    fn temporary_files_of_killed_runs_go_and_those_in_use_stay() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::create_dir_all(out.join(".easyedit-staging-killed")).unwrap();
        fs::write(out.join(".easyedit-killed"), "half").unwrap();
        write_atomically(&out.join("in-use.txt"), |file| {
            file.write_all(b"whole")?;
            let _claim = OutputFolder::claim(&out).unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!(listing(&out), BTreeMap::from([("in-use.txt".to_owned(), "whole".to_owned())]));
    }

    #[test]
    fn a_list_reaches_no_other_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (out, outside) = (dir.path().join("out"), dir.path().join("outside"));
        fs::create_dir_all(out.join("folder")).unwrap();
        fs::write(&outside, "mine").unwrap();
        fs::write(out.join("named"), "half").unwrap();
        let files = ["../outside", outside.to_str().unwrap(), "folder", "..", ".", "", "named/", "named"].map(str::to_owned).into();
        fs::write(out.join(INCOMPLETE_FILE), serde_json::to_vec(&Incomplete { files }).unwrap()).unwrap();
        drop(OutputFolder::claim(&out).unwrap());
        assert_eq!(listing(&out).into_keys().collect::<Vec<_>>(), ["folder"]);
        assert!(outside.exists());
        fs::write(out.join(INCOMPLETE_FILE), "not a list").unwrap();
        drop(OutputFolder::claim(&out).unwrap());
        assert!(!out.join(INCOMPLETE_FILE).exists());
    }
}
