//! What people and programs read: text on stdout, or one JSON object.

mod heat;
mod paths;
mod scores;
mod table;
mod visible;

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

pub(crate) use heat::HeatMap;
pub(crate) use paths::{serialize_path, serialize_paths, visible_path};
pub(crate) use scores::{Continuation, Role, continuation_table, record_table, score_table};
pub(crate) use table::{Align, Table};
pub(crate) use visible::{for_terminal, style, visible};

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a result: `value` as JSON, or what `text` says, in both with control characters written out.
    pub(crate) fn print(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        match self.json {
            true => write(&visible::escaped_json(&serde_json::to_string_pretty(value)?)),
            false => write(&for_terminal(&text())),
        }
    }
}

/// Writes to stdout; a reader that has gone away (`| head`) is no fault.
fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes())).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A text on one line: line ends shown as `⏎`.
pub(crate) fn one_line(text: &str) -> String {
    text.trim_end().replace("\r\n", "\n").replace('\n', "⏎").replace(['\t', '\r'], " ")
}

/// Seconds as people read them.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 60.0 { format!("{seconds:.1} s") } else { format!("{:.0} min {:02.0} s", (seconds / 60.0).floor(), seconds % 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fit_a_line() {
        assert_eq!(one_line(" Rome.\n\nThe city\tof \n"), " Rome.⏎⏎The city of");
    }

    #[test]
    fn seconds_read_well() {
        assert_eq!(seconds(3.94), "3.9 s");
        assert_eq!(seconds(125.2), "2 min 05 s");
    }
}
