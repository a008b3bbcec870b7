//! Time by the wall, by this process's work, and by what the rest of the machine did meanwhile.

use std::time::Instant;

/// Ticks a second in `/proc`: the kernel's fixed unit for programs on every Linux architecture in use.
const TICKS: f64 = 100.0;
/// Over less than this, in seconds, hundredths of a second do not tell who used the machine.
const TELLING: f64 = 0.1;

/// A clock that was started.
#[derive(Debug)]
pub struct Clock {
    wall: Instant,
    /// Processor seconds of this process, and of all processes; `None` where the system does not tell.
    before: Option<[f64; 2]>,
}

/// What a clock shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Seconds that passed.
    pub seconds: f64,
    /// Processor seconds of this process, all threads together; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// Share of the machine's processor time that other processes used, from 0 to 1; `None` where the system does not tell, and of times
    /// too short for its hundredths of a second.
    pub others: Option<f64>,
}

impl Clock {
    /// Starts a clock.
    pub fn start() -> Self {
        Self { before: processor_seconds(), wall: Instant::now() }
    }

    /// What has passed since the start.
    pub fn read(&self) -> Reading {
        let seconds = self.wall.elapsed().as_secs_f64();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let (mut cpu_seconds, mut others) = (None, None);
        if let (Some([own_before, all_before]), Some([own, all])) = (self.before, processor_seconds()) {
            let own = own - own_before;
            cpu_seconds = Some(own);
            others = (seconds >= TELLING).then(|| ((all - all_before - own) / (seconds * cores)).clamp(0.0, 1.0));
        }
        Reading { seconds, cpu_seconds, others }
    }
}

/// Processor seconds of this process and of all.
fn processor_seconds() -> Option<[f64; 2]> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let own = own_ticks(&std::fs::read_to_string("/proc/self/stat").ok()?)?;
    let all = busy_ticks(&std::fs::read_to_string("/proc/stat").ok()?)?;
    Some([own / TICKS, all / TICKS])
}

/// User and system time of `/proc/self/stat`. The second field, the program's name in brackets, may hold anything.
fn own_ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
}

/// All processors' time of `/proc/stat`, without idling and waiting for disks.
fn busy_ticks(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields = line.split_whitespace().take(8).map(|field| field.parse::<f64>().ok()).collect::<Option<Vec<_>>>()?;
    (fields.len() == 8).then(|| fields.iter().sum::<f64>() - fields[3] - fields[4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tables_are_read() {
        let own = "7 (a b) c) R 1 2 3 4 5 6 7 8 9 10 120 30 0 0 20";
        assert_eq!(own_ticks(own), Some(150.0));
        assert_eq!(own_ticks("7 (a"), None);
        assert_eq!(busy_ticks("cpu  10 1 5 900 50 2 3 4 0 0\ncpu0 1 1 1 1\n"), Some(25.0));
        assert_eq!(busy_ticks("cpu  10 1\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn work_is_counted() {
        let clock = Clock::start();
        assert_eq!(clock.read().others, None, "nothing is told of no time");
        let mut sum = 0u64;
        while clock.read().seconds < 0.2 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        let reading = clock.read();
        assert!(reading.cpu_seconds.unwrap() > 0.02 && reading.seconds < 10.0, "{reading:?}");
        assert!((0.0..=1.0).contains(&reading.others.unwrap()), "{reading:?}");
    }
}
