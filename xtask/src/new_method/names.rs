use std::path::Path;

use anyhow::{Result, bail};

use super::read;

/// Longest name of a method.
const MAX_LENGTH: usize = 40;
/// What stands for the paper in the template.
const PAPER: &str = "PAPER";
const NO_PAPER: &str = "no paper named yet";

/// The names of a method in all their forms.
#[derive(Debug, PartialEq)]
pub(super) struct Names {
    /// `my-method`: the folder, the feature, and the end of the package's name.
    pub(super) name: String,
    /// `MyMethod`
    pub(super) type_name: String,
    /// `MY-METHOD`, as hyperparameter files name it.
    pub(super) method: String,
    paper: String,
}

impl Names {
    /// The forms of a name, which has to be one that a crate, a type and a folder can have.
    pub(super) fn new(name: &str, paper: Option<&str>) -> Result<Self> {
        let part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.split('-').all(part) {
            bail!("{name:?} is no name for a method: use lower-case letters, digits and single hyphens, a letter first (e.g. my-method)");
        }
        if name.len() > MAX_LENGTH {
            bail!("{name:?} has {} characters; at most {MAX_LENGTH} are allowed", name.len());
        }
        let paper = paper.unwrap_or(NO_PAPER).trim();
        if paper.is_empty() || paper.chars().any(char::is_control) {
            bail!("--paper is to be one line of text");
        }
        let capitalised = |part: &str| {
            let (first, rest) = part.split_at(1);
            first.to_uppercase() + rest
        };
        Ok(Self {
            name: name.to_owned(),
            type_name: name.split('-').map(capitalised).collect(),
            method: name.to_uppercase(),
            paper: paper.to_owned(),
        })
    }

    /// `my_method`
    fn identifier(&self) -> String {
        self.name.replace('-', "_")
    }

    /// A text of the template, or the path of one of its files, for this method.
    pub(super) fn filled(&self, text: &str) -> String {
        let Self { name, type_name, method, paper } = self;
        let identifier = self.identifier();
        text.replace("easyedit-newmethod", &format!("easyedit-{name}"))
            .replace("easyedit_newmethod", &format!("easyedit_{identifier}"))
            .replace("newmethod_tiny_world", &format!("{identifier}_tiny_world"))
            .replace("../hparams/tiny-world.yaml", &format!("../../../../hparams/{method}/tiny-world.yaml"))
            .replace("publish = false\n", "")
            .replace("NewMethod", type_name)
            .replace("NEWMETHOD", method)
            // Last: what the caller wrote stays as it is.
            .replace(PAPER, paper)
    }

    /// Checks that the type's name is none that a file of the template uses for something else.
    pub(super) fn check_against(&self, path: &Path, text: &str) -> Result<()> {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        let own = [&self.type_name, &format!("{}Hparams", self.type_name)];
        if path.extension().is_some_and(|extension| extension == "rs") && words.any(|word| own.iter().any(|own| *own == word)) {
            bail!("{:?} cannot be used: the code has a name {} already; choose a longer one", self.name, self.type_name);
        }
        Ok(())
    }

    /// Checks that nothing of the name is there.
    pub(super) fn check_free(&self, root: &Path) -> Result<()> {
        let Self { name, .. } = self;
        for folder in ["crates/methods", "crates"] {
            if root.join(folder).join(name).exists() {
                bail!("{name:?} is taken: there is a folder {folder}/{name}");
            }
        }
        let hparams = root.join("hparams");
        for entry in std::fs::read_dir(&hparams).into_iter().flatten().flatten() {
            let other = entry.file_name();
            if other.eq_ignore_ascii_case(&self.method) {
                bail!("{name:?} is taken: there is a folder hparams/{}", other.display());
            }
        }
        let taken = |file: &str, start: &str| -> Result<()> {
            if read(&root.join(file))?.lines().any(|line| line.starts_with(start)) {
                bail!("{name:?} is taken: {file} has a line that begins with `{start}`");
            }
            Ok(())
        };
        taken("Cargo.toml", &format!("easyedit-{name} ="))?;
        taken("crates/easyedit/Cargo.toml", &format!("{name} = ["))
    }
}
