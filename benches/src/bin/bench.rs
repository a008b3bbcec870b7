//! Times sections and prints one JSON line each; `cargo xtask bench` builds this, runs it and keeps what it prints.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use easyedit_benches::{SECTIONS, Workload, WorkloadOptions, chosen, data_folder, measure};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: easyedit_allocator::MiMalloc = easyedit_allocator::MiMalloc;

#[derive(Parser)]
#[command(name = "easyedit-bench", about = "Time easyedit, one JSON line a section")]
struct Arguments {
    /// Which sections: a name, or a part of `model/section`; all but the long ones by default
    filters: Vec<String>,
    /// Models to time on, in turn
    #[arg(long, default_values_t = ["tiny-world-llama".to_owned(), "smollm2-135m".to_owned()])]
    model: Vec<String>,
    /// Timings of a section
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Device to compute on
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Text for the statistics, blank lines between documents
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Tokens the statistics are over
    #[arg(long, default_value_t = WorkloadOptions::default().tokens)]
    tokens: usize,
    /// The repository's folder `data`
    #[arg(long, default_value_os_t = data_folder())]
    data: PathBuf,
    /// List the sections and end
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    easyedit_allocator::keep_freed_memory();
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything chosen was timed or has a good reason not to be.
fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        for section in SECTIONS {
            println!("{:<22} {}{}", section.name, section.about, if section.long { " (long: only by its name)" } else { "" });
        }
        return Ok(true);
    }
    print(&json!({
        "kind": "header", "device": arguments.device, "compiled": easyedit::device::COMPILED, "seed": arguments.seed,
        "threads": std::thread::available_parallelism().map_or(1, usize::from), "version": env!("CARGO_PKG_VERSION"),
    }))?;
    let mut sound = true;
    for model in &arguments.model {
        let sections = chosen(model, &arguments.filters);
        if sections.is_empty() {
            continue;
        }
        let options = WorkloadOptions {
            device: arguments.device.clone(),
            data: arguments.data.clone(),
            corpus: arguments.corpus.clone(),
            tokens: arguments.tokens,
            seed: arguments.seed,
        };
        let workload = match Workload::load(model, options) {
            Ok(workload) => workload,
            Err(error) => {
                print(&json!({ "kind": "skipped", "section": format!("{model}/*"), "reason": format!("{error:#}") }))?;
                continue;
            }
        };
        for section in sections {
            let name = format!("{model}/{}", section.name);
            eprintln!("{name} ...");
            // Preparing fails where the workload has too little; running must not fail.
            let mut timed = match section.prepare(&workload) {
                Ok(timed) => timed,
                Err(error) => {
                    print(&json!({ "kind": "skipped", "section": name, "reason": format!("{error:#}") }))?;
                    continue;
                }
            };
            match measure(&mut timed, arguments.repeats) {
                Ok(measured) => {
                    let mut line = serde_json::to_value(&measured)?;
                    line["kind"] = json!("section");
                    line["section"] = json!(name);
                    print(&line)?;
                }
                Err(error) => {
                    sound = false;
                    print(&json!({ "kind": "failed", "section": name, "reason": format!("{error:#}") }))?;
                }
            }
        }
    }
    Ok(sound)
}

/// One line at once, so that what reads them sees each as soon as it is there.
fn print(line: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
