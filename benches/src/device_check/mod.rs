//! One device against what is known to be right: single operations against the CPU, models against golden values, an optimised value against
//! a stored one, and an edit against the CPU's.

mod edits;
mod golden;
mod operations;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::Device;
use easyedit::device;
use serde::Serialize;

pub use edits::{GoldenValue, golden_value, golden_value_file};

/// The kinds of checks, in the order they are made: from what a failure explains to what it breaks.
pub const GROUPS: [&str; 4] = ["operations", "golden", "value", "rome"];

/// What is checked.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device.
    pub device: String,
    /// The repository's folder `data`.
    pub data: PathBuf,
    /// Which of [`GROUPS`]; all if there are none.
    pub groups: Vec<String>,
    /// Models of the tiny world that are edited.
    pub models: Vec<String>,
}

impl Options {
    /// Everything, on two models of different layout.
    pub fn new(device: impl Into<String>) -> Self {
        let models = ["tiny-world-llama", "tiny-world-gpt2"].map(str::to_owned).into();
        Self { device: device.into(), data: crate::data_folder(), groups: Vec::new(), models }
    }
}

/// Largest differences that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerances {
    /// Of a single operation, relative to its largest number.
    pub operation: f64,
    /// Of hidden states and logits, absolute; they are of the order of 1 to 10.
    pub golden: f64,
    /// Of an optimised value, relative to its largest number.
    pub value: f64,
    /// Of an edit's change of a weight, relative to its largest number. An edit takes dozens of steps, and ends one earlier or later
    /// where its loss passes the threshold: what was rounded differently shows in per cent.
    pub edit: f64,
}

impl Tolerances {
    /// Those for a device. The CPU has to repeat itself; others sum in another order and have other exponentials.
    pub fn of(device: &str) -> Self {
        match device {
            "cpu" => Self { operation: 1e-6, golden: 1e-4, value: 1e-3, edit: 1e-5 },
            _ => Self { operation: 1e-4, golden: 1e-3, value: 1e-2, edit: 1e-1 },
        }
    }
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// One of [`GROUPS`].
    pub group: &'static str,
    /// What was computed.
    pub name: String,
    /// Largest difference; infinite where a number is missing or none.
    pub difference: f64,
    /// Largest difference that is accepted.
    pub tolerance: f64,
    /// Why there is nothing to compare, if the device failed.
    pub failure: Option<String>,
}

impl Check {
    /// Whether the device did it right.
    pub fn passes(&self) -> bool {
        self.failure.is_none() && self.difference <= self.tolerance
    }
}

/// Makes the checks; `before` gets each one's name before it is made (a driver may end the process), `after` its outcome.
///
/// # Errors
///
/// If the device or the CPU is not there, or the golden values cannot be read. What the device computes wrongly, refuses or panics at is no
/// error, but a check that does not pass.
pub fn run(options: &Options, before: &mut dyn FnMut(&str, &str), after: &mut dyn FnMut(&Check)) -> Result<bool> {
    let mut checker = Checker {
        device: device::select(&options.device)?,
        cpu: device::select("cpu")?,
        tolerances: Tolerances::of(&options.device),
        options,
        sound: true,
        before,
        after,
    };
    for group in GROUPS {
        if !options.groups.is_empty() && !options.groups.iter().any(|wanted| wanted == group) {
            continue;
        }
        match group {
            "operations" => operations::check(&mut checker),
            "golden" => golden::check(&mut checker)?,
            "value" => edits::check_value(&mut checker)?,
            _ => edits::check_rome(&mut checker),
        }
    }
    Ok(checker.sound)
}

struct Checker<'a> {
    device: Device,
    cpu: Device,
    tolerances: Tolerances,
    options: &'a Options,
    sound: bool,
    before: &'a mut dyn FnMut(&str, &str),
    after: &'a mut dyn FnMut(&Check),
}

impl Checker<'_> {
    fn check(&mut self, group: &'static str, name: &str, tolerance: f64, difference: impl FnOnce(&Device, &Device) -> Result<f64>) {
        (self.before)(group, name);
        let (device, cpu) = (self.device.clone(), self.cpu.clone());
        let outcome = catch_unwind(AssertUnwindSafe(|| difference(&device, &cpu)));
        let (difference, failure) = match outcome {
            Ok(Ok(difference)) => (difference, None),
            Ok(Err(error)) => (f64::INFINITY, Some(format!("{error:#}"))),
            Err(payload) => {
                let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
                (f64::INFINITY, Some(format!("panicked: {}", text.unwrap_or("without a message"))))
            }
        };
        let check = Check { group, name: name.to_owned(), difference, tolerance, failure };
        self.sound &= check.passes();
        (self.after)(&check);
    }
}

/// Largest absolute difference; infinite where the lengths differ or a number is none.
fn largest_difference(found: &[f32], right: &[f32]) -> f64 {
    if found.len() != right.len() {
        return f64::INFINITY;
    }
    let difference = |(a, b): (&f32, &f32)| if a == b { 0.0 } else { (f64::from(*a) - f64::from(*b)).abs() };
    found.iter().zip(right).map(difference).fold(0.0, |most, d| if d.is_nan() { f64::INFINITY } else { f64::max(most, d) })
}

/// [`largest_difference`] as a share of the largest right number.
fn relative_difference(found: &[f32], right: &[f32]) -> f64 {
    let scale = right.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max);
    largest_difference(found, right) / scale.max(f64::from(f32::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_the_largest_and_never_hide_what_is_no_number() {
        assert_eq!(largest_difference(&[1.0, 2.0], &[1.0, 4.0]), 2.0);
        assert_eq!(relative_difference(&[1.0, 2.0], &[1.0, 4.0]), 0.5);
        assert_eq!(largest_difference(&[f32::NAN, 0.0], &[1.0, 0.0]), f64::INFINITY);
        assert_eq!(largest_difference(&[1.0], &[1.0, 0.0]), f64::INFINITY);
        assert_eq!(largest_difference(&[f32::NEG_INFINITY], &[f32::NEG_INFINITY]), 0.0);
        assert_eq!(relative_difference(&[0.0], &[0.0]), 0.0);
    }

    #[test]
    fn a_device_that_fails_panics_or_differs_does_not_pass() {
        let options = Options::new("cpu");
        let mut seen = Vec::new();
        let cpu = device::select("cpu").unwrap();
        let mut checker = Checker {
            device: cpu.clone(),
            cpu,
            tolerances: Tolerances::of("cpu"),
            options: &options,
            sound: true,
            before: &mut |_, _| {},
            after: &mut |check| seen.push(check.clone()),
        };
        checker.check("operations", "right", 1e-3, |_, _| Ok(1e-4));
        assert!(checker.sound);
        checker.check("operations", "wrong", 1e-3, |_, _| Ok(1e-2));
        checker.check("operations", "refused", 1e-3, |_, _| anyhow::bail!("no such kernel"));
        checker.check("operations", "panic", 1e-3, |_, _| panic!("lost {}", "device"));
        assert!(!checker.sound);
        assert_eq!(seen.iter().map(Check::passes).collect::<Vec<_>>(), [true, false, false, false]);
        assert!(seen[3].failure.as_deref().unwrap().contains("lost device"));
    }
}
