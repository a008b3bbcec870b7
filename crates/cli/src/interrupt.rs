//! What a run keeps when it ends early, by a signal or by an error.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::output::{for_terminal, visible_path};
use crate::progress::Bars;

/// Exit code of a program that a signal ended.
const INTERRUPTED: i32 = 130;
/// Files are named one by one up to this many.
const MOST_NAMED: usize = 20;

static KEPT: Mutex<Kept> = Mutex::new(Kept { files: Vec::new(), resume: None });

#[derive(Default)]
struct Kept {
    /// Finished files, and files whose lines are finished.
    files: Vec<PathBuf>,
    /// How to go on.
    resume: Option<&'static str>,
}

/// Ends the program at Ctrl-C, SIGTERM or SIGHUP: removes what is half-written, names what is finished, and exits with 130.
pub(crate) fn install(bars: &Bars) {
    let bars = bars.clone();
    let handler = move || {
        bars.clear();
        easyedit::in_flight::remove_all();
        eprint!("interrupted\n{}", for_terminal(&describe_kept()));
        std::process::exit(INTERRUPTED);
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::debug!("signals are left to the system: {error}");
    }
}

/// Notes a file that is finished.
pub(crate) fn keep(path: &Path) {
    lock().files.push(path.to_owned());
}

/// Takes back the note of a file.
pub(crate) fn forget(path: &Path) {
    lock().files.retain(|kept| kept != path);
}

/// Forgets all notes: what is kept has been told.
pub(crate) fn all_told() {
    *lock() = Kept::default();
}

/// Says how an interrupted run can go on.
pub(crate) fn resume(how: &'static str) {
    lock().resume = Some(how);
}

/// The lines that name what is kept; empty if nothing is.
pub(crate) fn describe_kept() -> String {
    let kept = lock();
    let mut text = String::new();
    for path in kept.files.iter().take(MOST_NAMED) {
        text.push_str(&format!("kept        {}\n", visible_path(path)));
    }
    if kept.files.len() > MOST_NAMED {
        text.push_str(&format!("            and {} more files\n", kept.files.len() - MOST_NAMED));
    }
    if let Some(resume) = kept.resume {
        text.push_str(&format!("{resume}\n"));
    }
    text
}

fn lock() -> std::sync::MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}
