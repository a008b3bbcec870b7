//! Bars on a terminal; silence everywhere else.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use easyedit::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::output::{for_terminal, one_line, style as painted, visible};

/// Draws the libraries' [`Progress`] as a stack of bars on stderr. Clones draw the same bars.
#[derive(Clone)]
pub(crate) struct Bars {
    all: MultiProgress,
    stack: Arc<Mutex<Vec<ProgressBar>>>,
}

impl Bars {
    /// Bars that are drawn only if stderr is a terminal and `quiet` is off.
    pub(crate) fn new(quiet: bool) -> Self {
        let target = if quiet || !std::io::stderr().is_terminal() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self { all: MultiProgress::with_draw_target(target), stack: Arc::default() }
    }

    /// Takes the bars off the terminal.
    pub(crate) fn clear(&self) {
        let _ = self.all.clear();
        self.all.set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Where log lines go, so that they do not tear the bars.
    pub(crate) fn log_writer(&self) -> LogWriter {
        LogWriter(self.all.clone())
    }

    fn innermost(&self, act: impl FnOnce(&ProgressBar)) {
        if let Ok(stack) = self.stack.lock()
            && let Some(bar) = stack.last()
        {
            act(bar);
        }
    }
}

impl Progress for Bars {
    fn begin(&self, task: &str, total: Option<u64>) {
        let bar = match total {
            Some(total) => {
                ProgressBar::new(total).with_style(style("{prefix:24} {bar:30.cyan/dim} {human_pos}/{human_len} {eta:>4} left {msg:.dim}"))
            }
            None => ProgressBar::new_spinner().with_style(style("{prefix:24} {spinner:.cyan} {msg:.dim}")),
        };
        let bar = self.all.add(bar.with_prefix(visible(&one_line(task)).into_owned()));
        bar.enable_steady_tick(Duration::from_millis(100));
        if let Ok(mut stack) = self.stack.lock() {
            stack.push(bar);
        }
    }

    fn advance(&self, steps: u64) {
        self.innermost(|bar| bar.inc(steps));
    }

    fn remark(&self, text: &str) {
        self.innermost(|bar| bar.set_message(visible(&one_line(text)).into_owned()));
    }

    fn end(&self) {
        let bar = self.stack.lock().ok().and_then(|mut stack| stack.pop());
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Writes log lines above the bars, with control characters written out.
#[derive(Clone)]
pub(crate) struct LogWriter(MultiProgress);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let line = for_terminal(&coloured(&String::from_utf8_lossy(bytes)));
        self.0.suspend(|| std::io::stderr().write_all(line.as_bytes()))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// A log line with its level in a colour.
fn coloured(line: &str) -> String {
    let (space, rest) = line.split_at(line.len() - line.trim_start().len());
    let Some((level, message)) = rest.split_once(' ') else { return line.to_owned() };
    let level = match level {
        "WARN" => painted(level).for_stderr().yellow(),
        "ERROR" => painted(level).for_stderr().red(),
        _ => return line.to_owned(),
    };
    format!("{space}{level} {message}")
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_levels_are_coloured_and_lines_stay_as_they_are() {
        console::set_colors_enabled_stderr(false);
        for line in [" WARN a tensor\n", "ERROR a\n", " INFO b c\n", "WARN", ""] {
            assert_eq!(for_terminal(&coloured(line)), line);
        }
    }

    #[test]
    fn tasks_nest_and_end_in_any_number() {
        let bars = Bars::new(true);
        bars.begin("outer", None);
        bars.begin("inner", Some(3));
        bars.advance(2);
        bars.remark("loss 0.1");
        assert_eq!(bars.stack.lock().unwrap().last().unwrap().position(), 2);
        for _ in 0..3 {
            bars.end();
        }
        bars.advance(1);
        assert!(bars.stack.lock().unwrap().is_empty());
    }
}
