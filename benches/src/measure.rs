use anyhow::Result;
use easyedit::eval::PeakMemory;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Clock, Timed};

/// A first run that takes longer than this, in seconds, is not thrown away as a warm-up: it is the sample.
const LONG: f64 = 20.0;

/// One timing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds of what the section measures.
    pub seconds: f64,
    /// Processor seconds of the process in the whole run; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// Share of the machine that other processes used meanwhile; `None` where the system does not tell.
    pub others: Option<f64>,
}

/// The timings of a section.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// In the order they were taken.
    pub samples: Vec<Sample>,
    /// Whether the first of them is the first run at all, with whatever is done once in it.
    pub cold: bool,
    /// Largest memory held while they were taken, in 10^6 bytes; `None` where the system does not tell.
    pub peak_memory_mb: Option<f64>,
    /// What the last run tells of itself: numbers of tokens, passes, edits.
    pub counts: Map<String, Value>,
}

/// Runs a prepared section once to warm up, then `repeats` times (at least once).
///
/// # Errors
///
/// If a run fails.
pub fn measure(timed: &mut Timed<'_>, repeats: usize) -> Result<Measured> {
    PeakMemory::reset();
    let (first, mut counts) = sample(timed)?;
    if is_long(&first) {
        return Ok(Measured { samples: vec![first], cold: true, peak_memory_mb: PeakMemory::megabytes(), counts });
    }
    let mut samples = Vec::new();
    for _ in 0..repeats.max(1) {
        let (taken, told) = sample(timed)?;
        samples.push(taken);
        counts = told;
    }
    Ok(Measured { samples, cold: false, peak_memory_mb: PeakMemory::megabytes(), counts })
}

/// By the clock or by the process's own work, whichever is less: on a busy machine everything is slow.
fn is_long(sample: &Sample) -> bool {
    sample.seconds.min(sample.cpu_seconds.unwrap_or(f64::INFINITY)) > LONG
}

fn sample(timed: &mut Timed<'_>) -> Result<(Sample, Map<String, Value>)> {
    let clock = Clock::start();
    let outcome = timed()?;
    let reading = clock.read();
    let seconds = outcome.seconds.unwrap_or(reading.seconds);
    Ok((Sample { seconds, cpu_seconds: reading.cpu_seconds, others: reading.others }, outcome.counts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;

    #[test]
    fn the_first_run_is_a_warm_up_unless_it_is_long() {
        let mut runs = 0;
        let mut quick: Timed<'_> = Box::new(|| {
            runs += 1;
            Ok(Outcome::default())
        });
        let measured = measure(&mut quick, 3).unwrap();
        drop(quick);
        assert_eq!((measured.samples.len(), measured.cold, runs), (3, false, 4));
        let sample = |seconds: f64, cpu_seconds| Sample { seconds, cpu_seconds, others: None };
        assert!(is_long(&sample(LONG + 1.0, Some(1.5 * LONG))) && is_long(&sample(LONG + 1.0, None)));
        assert!(!is_long(&sample(5.0 * LONG, Some(1.0))) && !is_long(&sample(LONG - 1.0, Some(1.5 * LONG))));
    }

    #[test]
    fn what_a_section_measures_itself_counts() {
        let mut part: Timed<'_> = Box::new(|| Ok(Outcome { seconds: Some(3.0), ..Outcome::default() }));
        assert_eq!(measure(&mut part, 1).unwrap().samples[0].seconds, 3.0);
    }

    #[test]
    fn a_run_that_fails_ends_the_measurement() {
        let mut fails: Timed<'_> = Box::new(|| anyhow::bail!("no"));
        assert!(measure(&mut fails, 1).is_err());
    }
}
