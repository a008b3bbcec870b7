//! The command line of easyedit.
//!
//! It parses, checks, calls the facade, and prints; everything that computes is in the libraries.
//!
//! Exit codes: 0 success, 1 the work failed, 2 the command line asks for something that does not exist.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod args;
mod commands;
mod failure;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Arguments, Common};
use crate::commands::Context;
use crate::progress::Bars;

/// Every step of an edit allocates and frees the same tensors of some hundred kilobytes; the system's allocator returns such blocks
/// to the kernel each time, which clears their pages again (a sixth of an edit's time).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Milliseconds that freed memory stays the program's, to be used again by the next step.
const PURGE_DELAY: i64 = 10_000;

/// Number of the allocator's option for it (`mi_option_purge_delay` of mimalloc 2).
const PURGE_DELAY_OPTION: i32 = 15;

fn main() -> ExitCode {
    // SAFETY: the call stores a number in a table of the allocator, which is there from the program's start.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY_OPTION, PURGE_DELAY as _) };
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(failure::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let bars = Bars::new(arguments.common.quiet);
    log_to(&bars, &arguments.common);
    let context = Context::new(arguments.common, bars);
    match commands::run(&context, arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", failure::describe(&error));
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

fn log_to(bars: &Bars, common: &Common) {
    let level = match (common.quiet, common.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("EASYEDIT_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colour = console::colors_enabled_stderr();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(bars.log_writer()).with_ansi(colour);
    let _ = subscriber.without_time().with_target(false).try_init();
}
