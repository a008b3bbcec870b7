//! What a run keeps when it ends early, by a signal or by an error.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use easyedit::Session;

use crate::failure::describe;
use crate::output::{for_terminal, visible_path};
use crate::progress::Bars;

/// Exit code of a program that a signal ended.
const INTERRUPTED: u8 = 130;
/// How long a command that was cancelled may take to end by itself.
const GRACE: Duration = Duration::from_millis(1_700);
/// How to go on after a command that has finished no file.
const NOTHING: &str = "nothing is finished; run the same command again: what is in the cache folder is not computed again\n";
/// Files are named one by one up to this many.
const MOST_NAMED: usize = 20;

static KEPT: Mutex<Kept> = Mutex::new(Kept { files: Vec::new(), resume: None, elsewhere: None });

#[derive(Default)]
struct Kept {
    /// Finished files, and files whose lines are finished.
    files: Vec<PathBuf>,
    /// How to go on.
    resume: Option<&'static str>,
    /// How to go on after a signal, if what was done is not in files of this machine.
    elsewhere: Option<&'static str>,
}

/// Ends the command at Ctrl-C, SIGTERM or SIGHUP: its session is cancelled, so that it ends at its next step and puts away what is half-written.
/// Work that reaches no step within [`GRACE`] is left as it is, and so is all work at a second signal. The exit code is 130.
pub(crate) fn install(bars: &Bars, session: &Session) {
    let (bars, session) = (bars.clone(), session.clone());
    let handler = move || {
        if session.is_cancelled() {
            leave(&bars);
        }
        session.cancel();
        let watched = bars.clone();
        let watch = std::thread::Builder::new().spawn(move || {
            std::thread::sleep(GRACE);
            leave(&watched)
        });
        if watch.is_err() {
            leave(&bars);
        }
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::debug!("signals are left to the system: {error}");
    }
}

/// Ends the program in the middle of its work: removes what is half-written, and names what is finished.
fn leave(bars: &Bars) -> ! {
    easyedit::in_flight::remove_all();
    tell(bars, None);
    std::process::exit(i32::from(INTERRUPTED))
}

/// Says that a command which was cancelled has ended, with `error`.
pub(crate) fn ended(bars: &Bars, error: &anyhow::Error) -> ExitCode {
    tell(bars, Some(error));
    ExitCode::from(INTERRUPTED)
}

/// Names what is kept, and how to go on; once, whoever ends the program.
fn tell(bars: &Bars, error: Option<&anyhow::Error>) {
    static TOLD: Mutex<bool> = Mutex::new(false);
    let mut is_told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if std::mem::replace(&mut *is_told, true) {
        return;
    }
    bars.clear();
    let cause = error.filter(|error| !is_cancellation(error)).map(describe).unwrap_or_default();
    let next = match &*lock() {
        Kept { resume: Some(_), .. } => "",
        Kept { files, elsewhere, .. } if files.is_empty() => elsewhere.unwrap_or(NOTHING),
        _ => "run the same command again\n",
    };
    eprint!("interrupted\n{}", for_terminal(&(cause + &describe_kept() + next)));
}

/// Whether an error says only that the work was to end.
fn is_cancellation(error: &anyhow::Error) -> bool {
    // By its text: the crates' errors pass it on as if it were their own.
    error.root_cause().to_string() == easyedit::Error::Cancelled.to_string()
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

/// Says how a run can go on after a signal whose work goes on elsewhere.
pub(crate) fn goes_on_elsewhere(how: &'static str) {
    lock().elsewhere = Some(how);
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
