//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer, or over blind mutations.

mod blind;
mod campaign;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process::{command, run};
use campaign::Campaign;
use table::Row;

/// What the gate runs: ten seconds for each target, two at once. The seed is fixed, so that it does much the same every time.
const GATE: FuzzArguments = FuzzArguments { targets: Vec::new(), seconds: 10, jobs: 2, seed: Some(1), make_corpus: false, mutations: None };

#[derive(Args)]
pub(crate) struct FuzzArguments {
    /// Targets to run; all of them unless some are named
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many targets run at once
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Seed of libFuzzer's choices; another one every time unless it is given
    #[arg(long)]
    seed: Option<u32>,
    /// Write the seeds to `fuzz/corpus` and run nothing
    #[arg(long)]
    make_corpus: bool,
    /// Run this many blind mutations of the seeds, over all targets, instead of libFuzzer
    #[arg(long, conflicts_with = "make_corpus")]
    mutations: Option<u64>,
}

/// Runs what the arguments ask for; whether nothing was found.
pub(crate) fn fuzz(root: &Path, arguments: &FuzzArguments) -> Result<bool> {
    let plain = Programs::new(root).plain()?;
    let targets = chosen(root, &plain, &arguments.targets)?;
    if arguments.make_corpus {
        return make_corpus(root, &plain).map(|()| true);
    }
    let rows = match arguments.mutations {
        Some(count) => {
            let each = count.div_ceil(targets.len().max(1) as u64);
            side_by_side(&targets, arguments.jobs, |target| blind::run(root, &plain, target, each))?
        }
        None => under_libfuzzer(root, &plain, &targets, arguments)?,
    };
    print!("\n{}", table::render(&rows));
    Ok(rows.iter().all(|row| row.findings.is_empty()))
}

/// Every target for a while, as a step of the gate.
pub(crate) fn gate(root: &Path) -> Result<bool> {
    fuzz(root, &GATE)
}

fn under_libfuzzer(root: &Path, plain: &Path, targets: &[String], arguments: &FuzzArguments) -> Result<Vec<Row>> {
    if !cfg!(target_os = "linux") {
        bail!("libFuzzer is run on Linux alone; `cargo xtask fuzz --mutations N` runs everywhere");
    }
    let fuzzer = Programs::new(root).instrumented()?;
    if targets.iter().any(|target| !corpus(root).join(target).is_dir()) {
        make_corpus(root, plain)?;
    }
    let FuzzArguments { seconds, jobs, seed, .. } = arguments;
    side_by_side(targets, *jobs, |target| Campaign::new(root, &fuzzer, target)?.run(*seconds, *seed))
}

/// The folder with a folder of inputs for each target.
fn corpus(root: &Path) -> PathBuf {
    root.join("fuzz/corpus")
}

/// The folder with a folder of findings for each target.
fn artifacts(root: &Path) -> PathBuf {
    root.join("fuzz/artifacts")
}

fn make_corpus(root: &Path, plain: &Path) -> Result<()> {
    let folder = corpus(root);
    if !run(std::process::Command::new(plain).arg("corpus").arg(&folder))? {
        bail!("the seeds could not be written to {}", folder.display());
    }
    Ok(())
}

/// The names of all targets, or of those that are asked for.
fn chosen(root: &Path, plain: &Path, wanted: &[String]) -> Result<Vec<String>> {
    let output = command(root, &[&plain.to_string_lossy(), "list"]).output().context("cannot list the targets")?;
    let all: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("{unknown:?} is no target; there are {}", all.join(", "));
    }
    Ok(if wanted.is_empty() { all } else { wanted.to_vec() })
}

/// Runs `run` for every target, `jobs` at a time; the rows in the targets' order.
fn side_by_side(targets: &[String], jobs: usize, run: impl Fn(&str) -> Result<Row> + Sync) -> Result<Vec<Row>> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, targets.len().max(1)) {
            scope.spawn(|| {
                while let Some((index, target)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, targets.get(i)?))) {
                    let row = run(target);
                    if let Ok(mut rows) = rows.lock() {
                        rows.push((index, row));
                    }
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_default();
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Builds of the fuzz crate's programs.
struct Programs<'a> {
    root: &'a Path,
}

impl<'a> Programs<'a> {
    fn new(root: &'a Path) -> Self {
        Self { root }
    }

    /// The program that makes seeds and blind mutations, as the tests are built.
    fn plain(&self) -> Result<PathBuf> {
        self.build("easyedit-fuzz", None)
    }

    /// libFuzzer with coverage of the workspace's crates.
    fn instrumented(&self) -> Result<PathBuf> {
        self.build("fuzzer", Some(self.root.join("fuzz/instrument.sh")))
    }

    fn build(&self, program: &str, wrapper: Option<PathBuf>) -> Result<PathBuf> {
        // With the whole workspace chosen, features are those of the gate's other builds, and so are the dependencies.
        let mut build = command(self.root, &["cargo", "build", "--release", "--workspace", "--locked", "--bin", program]);
        if let Some(wrapper) = wrapper {
            build.env("RUSTC_WORKSPACE_WRAPPER", wrapper);
        }
        if !run(&mut build)? {
            bail!("{program} cannot be built");
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from);
        Ok(self.root.join(target).join("release").join(format!("{program}{}", std::env::consts::EXE_SUFFIX)))
    }
}

/// A folder in memory, where there is one, for the files that targets write; removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(target: &str) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(format!("easyedit-fuzz-{}-{target}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Removes what an ended process has left.
    fn clear(&self) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_the_order_of_the_targets() {
        let targets: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        let rows = side_by_side(&targets, 2, |target| Ok(Row::new(target))).unwrap();
        assert_eq!(rows.iter().map(|row| row.target.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(side_by_side(&targets, 2, |_| anyhow::bail!("no")).is_err());
    }
}
