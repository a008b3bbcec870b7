//! Commands are killed at random moments; what they had finished has to be whole, and the same command has to complete.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::process::command;
use crate::programs::{Program, built};

/// What `cargo xtask kill-check` is asked for.
#[derive(Args)]
pub(crate) struct KillCheckArguments {
    /// Kills, shared out over the commands
    #[arg(long, default_value_t = 60)]
    count: usize,
    /// Seed of the moments
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Only these commands (edit, batch, checkpoint, apply, revert, stats, index)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// The model of the tiny world that is edited.
const MODEL: &str = "data/tiny-world/models/tiny-world-llama";
/// The encoder of the index of demonstrations.
const ENCODER: &str = "data/golden/bert";
const CORPUS: &str = "data/tiny-world/corpus.txt";
/// Facts that are edited.
const FACTS: usize = 6;
/// Begin of the names of files that are still being written, and of a claim.
const TEMPORARY: &str = ".easyedit";

/// Begin of the names of sums that a later run goes on with.
const RESUMABLE: &str = "unfinished-";

/// A command under test.
struct Case {
    name: &'static str,
    /// Its arguments; `{in}` is the folder with inputs, `{out}` the one it writes to.
    arguments: &'static [&'static str],
}

const CASES: [Case; 7] = [
    Case {
        name: "edit",
        arguments: &[
            "edit",
            "--method",
            "ROME",
            "--model",
            MODEL,
            "--corpus",
            CORPUS,
            "--requests",
            "{in}/facts.json",
            "--mode",
            "sequential",
            "--no-evaluation",
            "--out",
            "{out}/edits",
            "--report",
            "{out}/report.jsonl",
        ],
    },
    Case {
        name: "batch",
        arguments: &[
            "edit",
            "--method",
            "MEMIT",
            "--model",
            MODEL,
            "--corpus",
            CORPUS,
            "--requests",
            "{in}/facts.json",
            "--mode",
            "batch",
            "--no-evaluation",
            "--out",
            "{out}/edits",
        ],
    },
    Case {
        name: "checkpoint",
        arguments: &[
            "edit",
            "--method",
            "FT",
            "--model",
            MODEL,
            "--requests",
            "{in}/facts.json",
            "--mode",
            "batch",
            "--no-evaluation",
            "--out",
            "{out}/edited",
            "--save",
            "both",
        ],
    },
    Case { name: "apply", arguments: &["apply", "--model", MODEL, "--edit", "{in}/fact.edit.safetensors", "--out", "{out}/applied"] },
    Case {
        name: "revert",
        arguments: &[
            "revert",
            "--model",
            "{in}/applied",
            "--base",
            MODEL,
            "--edit",
            "{in}/fact.edit.safetensors",
            "--out",
            "{out}/reverted",
        ],
    },
    Case { name: "stats", arguments: &["stats", "--model", MODEL, "--layers", "0,1,2", "--corpus", CORPUS, "--checkpoint-every", "0.01"] },
    Case {
        name: "index",
        arguments: &["index", "--demonstrations", "data/tiny-world/zsre.json", "--sentence-model", ENCODER, "--nearest", "Green"],
    },
];

/// Kills commands at random moments; whether all completed afterwards with nothing lost.
pub(crate) fn run(root: &Path, arguments: &KillCheckArguments) -> Result<bool> {
    let program = built(root, &Program::Binary("easyedit"), &[])?;
    let work = std::env::temp_dir().join(format!("easyedit-kill-check-{}", std::process::id()));
    let checker = Checker { root, program: &program, work: &work };
    let outcome = checker.run(arguments);
    let _ = fs::remove_dir_all(&work);
    outcome
}

struct Checker<'a> {
    root: &'a Path,
    program: &'a Path,
    work: &'a Path,
}

impl Checker<'_> {
    fn run(&self, arguments: &KillCheckArguments) -> Result<bool> {
        let unknown = arguments.only.iter().find(|name| CASES.iter().all(|case| case.name != **name));
        ensure!(unknown.is_none(), "no command is called {}", unknown.map_or("", String::as_str));
        let cases: Vec<&Case> =
            CASES.iter().filter(|case| arguments.only.is_empty() || arguments.only.iter().any(|n| n == case.name)).collect();
        self.make_inputs()?;
        let mut random = Random(arguments.seed);
        let mut faults = 0;
        println!("{:<12} {:>6} {:>9} {:>9} {:>7}", "command", "kills", "too late", "resumed", "faults");
        for (index, case) in cases.iter().enumerate() {
            let kills = (arguments.count + index) / cases.len();
            let (late, resumed, mut found) = (&mut 0, &mut 0, Vec::new());
            let (reference, time) = self.reference(case)?;
            for kill in 0..kills {
                // Evenly spread, with a random part: no moment is left out.
                let share = (kill as f64 + random.next()) / kills as f64;
                match self.kill(case, time.mul_f64(share), &reference) {
                    Ok(true) => *resumed += 1,
                    Ok(false) => *late += 1,
                    Err(error) => found.push(format!("{} killed at {:.0} % of its time: {error:#}", case.name, share * 100.0)),
                }
            }
            println!("{:<12} {:>6} {:>9} {:>9} {:>7}", case.name, kills, late, resumed, found.len());
            found.iter().for_each(|fault| eprintln!("  {fault}"));
            faults += found.len();
        }
        Ok(faults == 0)
    }

    /// The facts, one edit of them, and the checkpoint with it.
    fn make_inputs(&self) -> Result<()> {
        let inputs = self.work.join("in");
        fs::create_dir_all(&inputs)?;
        let all: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(self.root.join("data/tiny-world/requests.json"))?)?;
        fs::write(inputs.join("facts.json"), serde_json::to_vec(&all.into_iter().take(FACTS).collect::<Vec<_>>())?)?;
        let batch = CASES.iter().find(|case| case.name == "batch").context("no case is called batch")?;
        let folder = self.work.join("made");
        self.complete(batch, &folder)?;
        let edits = fs::read_dir(folder.join("edits"))?.next().context("no edit was made")??;
        fs::copy(edits.path(), inputs.join("fact.edit.safetensors"))?;
        let apply = CASES.iter().find(|case| case.name == "apply").context("no case is called apply")?;
        self.complete(apply, &folder)?;
        fs::rename(folder.join("applied"), inputs.join("applied"))?;
        Ok(())
    }

    /// The command's results when nothing disturbs it, and how long it takes.
    fn reference(&self, case: &Case) -> Result<(BTreeMap<PathBuf, Vec<u8>>, Duration)> {
        let folder = self.work.join(format!("{}-reference", case.name));
        let started = Instant::now();
        self.complete(case, &folder)?;
        Ok((results(&folder)?, started.elapsed()))
    }

    /// Kills the command after `delay` and runs it again. Whether it was killed before it ended.
    fn kill(&self, case: &Case, delay: Duration, reference: &BTreeMap<PathBuf, Vec<u8>>) -> Result<bool> {
        let folder = self.work.join(format!("{}-killed", case.name));
        let _ = fs::remove_dir_all(&folder);
        let mut child = self.command(case, &folder)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(delay);
        let was_running = child.try_wait()?.is_none();
        let _ = child.kill();
        child.wait()?;
        let kept = results(&folder)?;
        for (path, bytes) in &kept {
            self.check_kept(path, bytes, reference)?;
        }
        // A kill behind the last move leaves everything in place, and the same command would rightly refuse to write it again.
        if reference.iter().all(|(path, bytes)| kept.get(path).is_some_and(|own| is_report(path) || own == bytes)) {
            return Ok(was_running);
        }
        self.complete(case, &folder)?;
        let completed = results(&folder)?;
        for path in kept.keys().filter(|path| !is_partial(path)) {
            ensure!(completed.contains_key(path), "{} was finished and is gone", path.display());
        }
        let expected: Vec<_> = reference.keys().collect();
        let found: Vec<_> = completed.keys().filter(|path| !is_partial(path)).collect();
        ensure!(found == expected, "made {found:?} instead of {expected:?}");
        for (path, bytes) in reference {
            ensure!(is_report(path) || completed.get(path) == Some(bytes), "{} differs from an undisturbed run", path.display());
        }
        Ok(was_running)
    }

    /// A file that carries its final name is whole; of a report that does not, every line is.
    fn check_kept(&self, path: &Path, bytes: &[u8], reference: &BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
        if is_partial(path) || is_report(path) {
            ensure!(bytes.is_empty() || bytes.ends_with(b"\n"), "{} ends in half a line", path.display());
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                serde_json::from_slice::<serde_json::Value>(line).with_context(|| format!("{} holds half a record", path.display()))?;
            }
            return Ok(());
        }
        match reference.get(path) {
            Some(whole) if whole == bytes => Ok(()),
            Some(_) => bail!("{} carries its name and is not whole", path.display()),
            None => bail!("{} is left behind and is no result", path.display()),
        }
    }

    fn complete(&self, case: &Case, folder: &Path) -> Result<()> {
        let output = self.command(case, folder)?.output()?;
        ensure!(output.status.success(), "{} failed: {}", case.name, String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    fn command(&self, case: &Case, folder: &Path) -> Result<Command> {
        fs::create_dir_all(folder)?;
        let mut command = command(self.root, &[&self.program.to_string_lossy()]);
        let (inputs, outputs) = (self.work.join("in"), folder.to_owned());
        for argument in case.arguments {
            command.arg(argument.replace("{in}", &inputs.to_string_lossy()).replace("{out}", &outputs.to_string_lossy()));
        }
        command.env("EASYEDIT_CACHE", folder.join("cache")).env("HF_HUB_OFFLINE", "1");
        Ok(command)
    }
}

/// The files below `folder` by their names there, but for unfinished ones and for those of the cache that only save time.
fn results(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(TEMPORARY) || name.starts_with(RESUMABLE) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path)?;
                found.insert(path.strip_prefix(folder)?.to_owned(), bytes);
            }
        }
    }
    Ok(found)
}

fn is_partial(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(".partial"))
}

/// A report holds times, which differ.
fn is_report(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

/// SplitMix64: enough for moments, and the same everywhere.
struct Random(u64);

impl Random {
    /// A number in `[0, 1)`.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
