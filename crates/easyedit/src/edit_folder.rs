use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use easyedit_core::{EDIT_FILE_SUFFIX, Edit, Error, Result, read_input, write_atomically, write_new_atomically};

use crate::EditStore;
use crate::edit_store::no_edit;

/// Longest part of a file name that comes from a subject, in characters.
const MAX_SLUG: usize = 40;
/// Files of one name that are kept beside each other at most; more are a sign of something else.
const MAX_OF_A_NAME: usize = 10_000;

/// A folder of edit files, written one by one as a run makes its edits.
///
/// The names are `METHOD-CASE-SUBJECT.edit.safetensors`, with the edit's number before it where a run makes several: `007-rome-7-the-louvre`.
/// A file that is there already is kept: the same edit is not written again, another one gets a name of its own (`...-2`).
#[derive(Debug)]
pub struct EditFolder {
    folder: PathBuf,
    /// Digits of an edit's number in its file's name; 0 where a run makes one edit.
    digits: usize,
    overwrite: bool,
    files: Vec<EditFile>,
}

#[derive(Debug)]
struct EditFile {
    path: PathBuf,
    /// Whether the file was there before the run.
    is_older: bool,
}

impl EditFolder {
    /// A store in `folder` for a run that makes `edits` edits at most. With `overwrite`, files of the same names are replaced.
    pub fn new(folder: &Path, edits: usize, overwrite: bool) -> Self {
        let digits = if edits > 1 { (edits - 1).to_string().len() } else { 0 };
        Self { folder: folder.to_owned(), digits, overwrite, files: Vec::new() }
    }

    /// The files of the edits that are kept, in the order in which they were made.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }

    /// The file of the edit that was kept last.
    pub fn last_file(&self) -> Option<&Path> {
        self.files.last().map(|file| file.path.as_path())
    }

    /// Writes the edit and returns its file.
    fn write(&self, edit: &Edit) -> Result<EditFile> {
        let stem = self.stem(edit);
        let first = self.folder.join(format!("{stem}{EDIT_FILE_SUFFIX}"));
        let bytes = edit.to_bytes().map_err(|message| Error::format(&first, message))?;
        if self.overwrite {
            write_atomically(&first, |w| w.write_all(&bytes))?;
            return Ok(EditFile { path: first, is_older: false });
        }
        for number in 1..=MAX_OF_A_NAME {
            let path = if number == 1 { first.clone() } else { self.folder.join(format!("{stem}-{number}{EDIT_FILE_SUFFIX}")) };
            if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == bytes.len() as u64)
                && read_input(&path, bytes.len() as u64)? == bytes
            {
                return Ok(EditFile { path, is_older: true });
            }
            if path.symlink_metadata().is_err() && write_new_atomically(&path, |w| w.write_all(&bytes))? {
                if number > 1 {
                    tracing::warn!("{} holds another edit and was kept; this one is {}", first.display(), path.display());
                }
                return Ok(EditFile { path, is_older: false });
            }
        }
        Err(Error::format(first, format!("there are {MAX_OF_A_NAME} edits of this name already; choose another folder")))
    }

    /// `007-rome-7-the-eiffel-tower`; `rome-batch-of-20` for an edit of several facts.
    fn stem(&self, edit: &Edit) -> String {
        let number = if self.digits > 0 { format!("{:0digits$}-", self.files.len(), digits = self.digits) } else { String::new() };
        let facts = match edit.requests.as_slice() {
            [one] => format!("{}-{}", one.case_id, slug(one.subject.as_deref().unwrap_or(&one.prompt))),
            many => format!("batch-of-{}", many.len()),
        };
        format!("{number}{}-{}", slug(&edit.method), facts.trim_end_matches('-'))
    }
}

impl EditStore for EditFolder {
    fn push(&mut self, edit: Edit) -> Result<()> {
        let file = self.write(&edit)?;
        self.files.push(file);
        Ok(())
    }

    fn pop(&mut self) -> Result<()> {
        match self.files.pop() {
            Some(EditFile { path, is_older: false }) => fs::remove_file(&path).map_err(|e| Error::io("remove", path, e)),
            _ => Ok(()),
        }
    }

    fn len(&self) -> usize {
        self.files.len()
    }

    fn get(&self, index: usize) -> Result<Cow<'_, Edit>> {
        let file = self.files.get(index).ok_or_else(|| no_edit(index, self.files.len()))?;
        Edit::load(&file.path).map(Cow::Owned)
    }
}

/// Lower-case letters, digits and single hyphens.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.to_lowercase().chars().take(MAX_SLUG) {
        if c.is_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use easyedit_core::EditRequest;
    use serde_json::Value;

    use super::*;

    fn edit(case_id: usize, subject: &str, seed: u64) -> Edit {
        Edit {
            method: "ROME".into(),
            model: String::new(),
            family: String::new(),
            hparams: Value::Null,
            seed,
            requests: vec![EditRequest { case_id, ..EditRequest::new(format!("{subject} is in"), subject, "Rome") }],
            diagnostics: Value::Null,
            deltas: BTreeMap::new(),
            overlay: None,
        }
    }

    fn names(folder: &EditFolder) -> Vec<String> {
        folder.files().iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn names_are_safe_for_any_subject() {
        for (subject, name) in
            [("The Eiffel Tower", "rome-7-the-eiffel-tower"), ("../../etc/passwd", "rome-7-etc-passwd"), ("!!!", "rome-7")]
        {
            let dir = tempfile::tempdir().unwrap();
            let mut folder = EditFolder::new(dir.path(), 1, false);
            folder.push(edit(7, subject, 0)).unwrap();
            assert_eq!(names(&folder), [format!("{name}.edit.safetensors")]);
        }
    }

    #[test]
    fn edits_of_one_case_id_and_subject_each_have_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = EditFolder::new(dir.path(), 11, false);
        for _ in 0..2 {
            folder.push(edit(7, "Louvre", 0)).unwrap();
        }
        assert_eq!(names(&folder), ["00-rome-7-louvre.edit.safetensors", "01-rome-7-louvre.edit.safetensors"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(*folder.get(1).unwrap(), edit(7, "Louvre", 0));
        assert!(folder.get(2).unwrap_err().to_string().contains("no edit 2"));
    }

    #[test]
    fn a_second_run_keeps_the_edits_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let run = |seed: u64, overwrite: bool| {
            let mut folder = EditFolder::new(dir.path(), 1, overwrite);
            folder.push(edit(7, "Louvre", seed)).unwrap();
            (names(&folder).remove(0), folder.get(0).unwrap().seed)
        };
        assert_eq!(run(1, false), ("rome-7-louvre.edit.safetensors".into(), 1));
        assert_eq!(run(2, false), ("rome-7-louvre-2.edit.safetensors".into(), 2));
        assert_eq!(run(1, false), ("rome-7-louvre.edit.safetensors".into(), 1), "the same edit is not written twice");
        assert_eq!(run(2, false), ("rome-7-louvre-2.edit.safetensors".into(), 2));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(run(3, true), ("rome-7-louvre.edit.safetensors".into(), 3));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_edit_that_is_taken_back_leaves_no_file_but_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = EditFolder::new(dir.path(), 1, false);
        first.push(edit(7, "Louvre", 1)).unwrap();
        let mut second = EditFolder::new(dir.path(), 1, false);
        second.push(edit(7, "Louvre", 1)).unwrap();
        second.pop().unwrap();
        assert!(second.is_empty() && first.files()[0].exists());
        first.pop().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
