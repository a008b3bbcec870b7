use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// What the last panic said, and where.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Keeps what a panic says instead of printing it: some readers catch the panics of a dependency, and those are no findings.
pub fn keep_panics_quiet() {
    std::panic::set_hook(Box::new(|panic| {
        if let Ok(mut last) = LAST.lock() {
            *last = Some(panic.to_string());
        }
    }));
}

/// Runs `run`; what it said if it panicked.
pub fn caught(run: impl FnOnce()) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    outcome.err().map(|_| LAST.lock().ok().and_then(|mut last| last.take()).unwrap_or_else(|| "a panic without a message".to_owned()))
}
