//! `cargo xtask new-method`: a crate for a new editing method that compiles, is registered, and edits a fact.
//!
//! The template is a crate of the workspace (`xtask/templates/method`), so it is built, linted and tested with everything else; only its name
//! changes on the way.

mod names;
mod registration;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::names::Names;
use crate::process::{self, command};

/// The crate that is copied.
const TEMPLATE: &str = "xtask/templates/method";
/// Its hyperparameters, which go to the repository's folder of those.
const TEMPLATE_HPARAMS: &str = "hparams";

#[derive(clap::Args)]
pub(crate) struct NewMethodArguments {
    /// Name of the method: lower-case letters, digits and hyphens
    #[arg(value_name = "NAME")]
    name: String,
    /// The paper it comes from, for its pages
    #[arg(long, value_name = "TEXT")]
    paper: Option<String>,
}

/// Makes the crate and registers it; whether it could be formatted, too.
pub(crate) fn run(root: &Path, arguments: &NewMethodArguments) -> Result<bool> {
    let names = Names::new(&arguments.name, arguments.paper.as_deref())?;
    let plan = Plan::new(root, &names)?;
    plan.write(root)?;
    let package = format!("easyedit-{}", names.name);
    // Names of other lengths break lines elsewhere.
    let formatted = process::run(&mut command(root, &["cargo", "fmt", "--package", &package]))?;
    println!("\n{} is made and registered:", names.method);
    for (path, _) in &plan.created {
        println!("  new      {}", path.display());
    }
    for change in &plan.changed {
        println!("  changed  {}", change.path.display());
    }
    println!("\nIt edits facts already: cargo test --release --package {package}\nHow to go on: docs/adding-a-method.md");
    Ok(formatted)
}

/// A file that is changed.
struct Change {
    path: PathBuf,
    before: String,
    after: String,
}

/// All that is written, known before anything is. Paths are relative to the root.
struct Plan {
    created: Vec<(PathBuf, String)>,
    changed: Vec<Change>,
}

impl Plan {
    fn new(root: &Path, names: &Names) -> Result<Self> {
        let template = root.join(TEMPLATE);
        let mut files = Vec::new();
        list(&template, Path::new(""), &mut files)?;
        if files.is_empty() {
            bail!("{} is empty; check out the repository anew", template.display());
        }
        let crate_folder = Path::new("crates/methods").join(&names.name);
        let mut created = Vec::with_capacity(files.len());
        for (path, text) in &files {
            names.check_against(path, text)?;
            let path = match path.strip_prefix(TEMPLATE_HPARAMS) {
                Ok(file) => Path::new("hparams").join(&names.method).join(file),
                Err(_) => crate_folder.join(names.filled(&path.to_string_lossy())),
            };
            created.push((path, names.filled(text)));
        }
        names.check_free(root)?;
        let mut changed = Vec::new();
        for (path, register) in registration::FILES {
            let path = PathBuf::from(path);
            let before = read(&root.join(&path))?;
            let after = register(&before, names)
                .with_context(|| format!("{} is not of the form that is known; register the method by hand", path.display()))?;
            changed.push(Change { path, before, after });
        }
        Ok(Self { created, changed })
    }

    /// Writes everything, or puts back what was there.
    fn write(&self, root: &Path) -> Result<()> {
        let outcome = self.try_write(root);
        if outcome.is_err() {
            for (path, _) in &self.created {
                let path = root.join(path);
                let _ = fs::remove_file(&path);
                // Folders go once they are empty, up to those that were there before.
                for folder in path.ancestors().skip(1).take_while(|folder| *folder != root) {
                    if fs::remove_dir(folder).is_err() {
                        break;
                    }
                }
            }
            for change in &self.changed {
                let _ = fs::write(root.join(&change.path), &change.before);
            }
        }
        outcome
    }

    fn try_write(&self, root: &Path) -> Result<()> {
        let write = |path: &Path, text: &str| -> Result<()> {
            let path = root.join(path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
            }
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        for (path, text) in &self.created {
            write(path, text)?;
        }
        self.changed.iter().try_for_each(|change| write(&change.path, &change.after))
    }
}

/// All files under `folder`, with their paths from there, by name.
fn list(folder: &Path, from: &Path, files: &mut Vec<(PathBuf, String)>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    paths.sort();
    for path in paths {
        let Some(name) = path.file_name() else { continue };
        let relative = from.join(name);
        if path.is_dir() {
            list(&path, &relative, files)?;
        } else {
            files.push((relative, read(&path)?));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
