/// The largest memory the process has held since the last [`reset`](Self::reset), as the system counts it (`VmHWM`).
#[derive(Clone, Copy, Debug)]
pub struct PeakMemory;

impl PeakMemory {
    /// Lets the peak start again from what is held now. `false` where the system has no such switch or does not permit it: the peak
    /// then is that of the whole run so far.
    pub fn reset() -> bool {
        // 5 resets the peak alone (proc(5), clear_refs).
        cfg!(target_os = "linux") && std::fs::write("/proc/self/clear_refs", "5").is_ok()
    }

    /// The peak in 10^6 bytes; `None` where the system does not tell.
    pub fn megabytes() -> Option<f64> {
        let status = if cfg!(target_os = "linux") { std::fs::read_to_string("/proc/self/status").ok()? } else { return None };
        parse(&status)
    }
}

fn parse(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_line_of_the_peak() {
        assert_eq!(parse("Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t  125000 kB\n"), Some(128.0));
        assert_eq!(parse("Name:\tx\n"), None);
        assert_eq!(parse("VmHWM:\tmany kB"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn sees_an_allocation() {
        let before = PeakMemory::megabytes().unwrap();
        let held = vec![1u8; 64 << 20];
        let after = PeakMemory::megabytes().unwrap();
        assert!(held.iter().map(|b| usize::from(*b)).sum::<usize>() > 0 && after > 64.0 && after >= before, "{before} {after}");
    }
}
