//! Draws the averages of a report again, without tracing anew:
//! `cargo run --release --example redraw -- REPORT.json FIGURE.svg`

use std::error::Error;
use std::path::PathBuf;

use easyedit_core::read_input;
use easyedit_trace::{TraceReport, write_average_figure};

/// No report is larger.
const MAX_BYTES: u64 = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(report), Some(figure)) = (paths.next(), paths.next()) else {
        return Err("give the report that `easyedit trace --report` wrote, and the figure's file".into());
    };
    let report: TraceReport = serde_json::from_slice(&read_input(&report, MAX_BYTES)?)?;
    Ok(write_average_figure(&figure, &report)?)
}
