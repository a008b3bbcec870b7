//! Fuzz targets for everything of easyedit that reads a file.
//!
//! A [`Target`] is a function of bytes that hands them to the public readers and uses what they give, as the program does. It returns
//! whether the bytes are accepted or refused; it must not panic, hang, or take much memory. `cargo xtask fuzz` runs the targets under libFuzzer
//! (`src/bin/fuzzer.rs`), `cargo xtask fuzz --mutations N` over blind [mutations](mutation) of the seeds (`src/bin/easyedit-fuzz.rs`), and the
//! tests below over the seeds and a few hundred mutations each.

// A fault of the set-up is a finding like any other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod formats;
mod limits;
mod made;
mod mutate;
mod panics;
mod reseal;
mod scratch;
mod small_model;
mod targets;

pub use limits::{LimitedAllocator, MAX_BYTES};
pub use mutate::mutation;
pub use panics::{caught, keep_panics_quiet};
pub use targets::{target, targets};

/// A reader, or several of one format.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, that of its file in `src/targets`.
    pub name: &'static str,
    /// Reads the bytes and uses what was read; whether they were accepted.
    pub run: fn(&[u8]) -> bool,
    /// Small inputs, by name: valid ones, and a few that are refused late.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

#[cfg(test)]
mod tests;
