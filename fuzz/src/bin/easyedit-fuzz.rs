//! Seeds as files, and blind mutations; `cargo xtask fuzz` starts it.
//!
//! `list` names the targets; `corpus FOLDER` writes the seeds; `mutations TARGET FROM TO` runs those mutations, naming each before it is run;
//! `mutation TARGET NUMBER` writes one to the standard output; `run TARGET FILE...` runs files. A panic, an input that takes two seconds and one that takes more
//! memory than it may end the process with an error.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use easyedit_fuzz::{LimitedAllocator, Target, caught, keep_panics_quiet, mutation, target, targets};

#[global_allocator]
static ALLOCATOR: LimitedAllocator = LimitedAllocator::new();

/// Time that an input may take.
const LIMIT: Duration = Duration::from_secs(2);

/// When the input that runs now was begun, in milliseconds since the start and 1; 0 if none runs.
static BEGUN: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["list"] => targets().iter().try_for_each(|target| say(target.name)),
        ["corpus", folder] => targets().iter().try_for_each(|target| write_seeds(target, Path::new(folder))),
        ["mutations", name, from, to] => mutations(found(name)?, from.parse()?, to.parse()?),
        ["mutation", name, number] => Ok(std::io::stdout().write_all(&mutation(&seeds(found(name)?), number.parse()?))?),
        ["run", name, files @ ..] => files.iter().try_for_each(|file| {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
            run(found(name)?, &bytes).with_context(|| file.to_string())
        }),
        _ => bail!("say `list`, `corpus FOLDER`, `mutations TARGET FROM TO`, `mutation TARGET NUMBER` or `run TARGET FILE...`"),
    }
}

fn found(name: &str) -> Result<&'static Target> {
    target(name).with_context(|| format!("{name:?} is no target; `list` names them"))
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn seeds(target: &Target) -> Vec<Vec<u8>> {
    (target.seeds)().into_iter().map(|(_, bytes)| bytes).collect()
}

fn write_seeds(target: &Target, folder: &Path) -> Result<()> {
    let folder = folder.join(target.name);
    std::fs::create_dir_all(&folder)?;
    for (name, bytes) in (target.seeds)() {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn mutations(target: &Target, from: u64, to: u64) -> Result<()> {
    let seeds = seeds(target);
    // What an input is applied to is made before the clock runs.
    seeds.first().into_iter().for_each(|seed| {
        (target.run)(seed);
    });
    for number in from..to {
        say(&number.to_string())?;
        run(target, &mutation(&seeds, number))?;
    }
    Ok(())
}

fn run(target: &Target, bytes: &[u8]) -> Result<()> {
    watch();
    keep_panics_quiet();
    BEGUN.store(now(), Ordering::SeqCst);
    let panic = caught(|| {
        (target.run)(bytes);
    });
    BEGUN.store(0, Ordering::SeqCst);
    match panic {
        Some(panic) => bail!("{panic}"),
        None => Ok(()),
    }
}

fn now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// Ends the process when an input takes too long.
fn watch() {
    static WATCHER: std::sync::Once = std::sync::Once::new();
    WATCHER.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_millis(100));
                let begun = BEGUN.load(Ordering::SeqCst);
                if begun != 0 && now().saturating_sub(begun) > LIMIT.as_millis() as u64 {
                    eprintln!("time: an input takes more than {} s", LIMIT.as_secs());
                    std::process::abort();
                }
            }
        });
    });
}
