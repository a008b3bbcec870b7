//! The command line of easyedit.
//!
//! It parses, checks, calls the facade, and prints; everything that computes is in the libraries.
//!
//! Exit codes: 0 success, 1 the work failed, 2 the command line asks for something that does not exist, 130 interrupted by a signal.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod args;
mod commands;
mod failure;
mod interrupt;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Arguments, Common};
use crate::commands::Context;
use crate::progress::Bars;

#[global_allocator]
static ALLOCATOR: easyedit_allocator::MiMalloc = easyedit_allocator::MiMalloc;

fn main() -> ExitCode {
    easyedit_allocator::keep_freed_memory();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(failure::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let bars = Bars::new(arguments.common.quiet);
    log_to(&bars, &arguments.common);
    let context = Context::new(arguments.common, &bars);
    interrupt::install(&bars, context.session());
    match commands::run(&context, arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if context.session().is_cancelled() => interrupt::ended(&bars, &error),
        Err(error) => {
            eprint!("{}", output::for_terminal(&(failure::describe(&error) + &interrupt::describe_kept())));
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
    // The writer gives the colours: it could not tell them from those in a message.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(bars.log_writer()).with_ansi(false);
    let _ = subscriber.without_time().with_target(false).try_init();
}
