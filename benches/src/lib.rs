//! What is measured of easyedit, and how a device is held against the CPU.
//!
//! - `sections`: everything that is timed, by name, on a [`Workload`] (a model with the facts and texts it is timed on);
//! - [`measure`]: repeated timings, with the share of the processor that other programs used meanwhile;
//! - [`device_check`]: single operations, golden logits, a value optimisation and a ROME edit on one device.
//!
//! `cargo xtask bench` and `cargo xtask device-check` build and run this crate's two programs; `cargo bench` runs the small sections under
//! criterion. All of them, and the tests, go through `sections`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod clock;
pub mod device_check;
mod facts;
mod measure;
mod sections;
mod workload;

use std::path::PathBuf;

pub use clock::{Clock, Reading};
pub use measure::{Measured, Sample, measure};
pub use sections::{Outcome, SECTIONS, Section, Timed, chosen};
pub use workload::{Moments, Workload, WorkloadOptions};

/// The repository's folder `data`, as it was where this was built.
pub fn data_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../data"))
}
