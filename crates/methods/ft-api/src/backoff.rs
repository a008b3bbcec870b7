//! How long to wait before a request is tried again.

use std::time::{Duration, SystemTime};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ureq::http::HeaderMap;

use crate::hparams::duration;

/// Longest wait that is read from a header, in seconds; whether it is waited is another matter.
const LONGEST_READ: f64 = 1e9;

/// How often and how patiently requests are tried again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryPolicy {
    pub(crate) max_retries: u32,
    /// In seconds.
    pub(crate) first_wait: f64,
    /// In seconds.
    pub(crate) longest_wait: f64,
}

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Next {
    /// Try again after this time.
    Wait(Duration),
    /// It was tried as often as it may be.
    Exhausted,
    /// The API asks for more patience than there is.
    TooLong(Duration),
}

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    retries: u32,
    rng: ChaCha8Rng,
}

impl Backoff {
    /// Waits whose random half comes from `seed`.
    pub(crate) fn new(policy: RetryPolicy, seed: u64) -> Self {
        Self { policy, retries: 0, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Attempts made so far, when one has just failed.
    pub(crate) fn attempts(&self) -> u32 {
        self.retries + 1
    }

    /// What to do about a failure after which the API asked to wait for `asked`.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Next {
        let RetryPolicy { max_retries, first_wait, longest_wait } = self.policy;
        if self.retries >= max_retries {
            return Next::Exhausted;
        }
        let full = (first_wait * 2f64.powi(self.retries.min(1000) as i32)).min(longest_wait);
        self.retries += 1;
        let own = duration(full * self.rng.random_range(0.5..=1.0));
        match asked {
            Some(asked) if asked > duration(longest_wait) => Next::TooLong(asked),
            Some(asked) => Next::Wait(own.max(asked)),
            None => Next::Wait(own),
        }
    }
}

/// The wait that an answer's headers ask for: `retry-after-ms`, or `Retry-After` in seconds or as a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).map(|n| n.min(LONGEST_READ));
    if let Some(milliseconds) = text("retry-after-ms").and_then(number) {
        return Some(duration(milliseconds / 1000.0));
    }
    let value = text("retry-after")?;
    match number(value) {
        Some(seconds) => Some(duration(seconds)),
        None => Some(http_date(value)?.duration_since(now).unwrap_or_default()),
    }
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`.
///
/// # Source
///
/// RFC 9110, section 5.6.7; days from a civil date by Howard Hinnant's algorithm.
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = clock.as_slice() else { return None };
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || *hours > 23 || *minutes > 59 || *seconds > 60 {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    // Day 719,468 counted from March of the year 0 is the first of 1970.
    let since_1970 = days.checked_sub(719_468)? * 86_400 + hours * 3600 + minutes * 60 + seconds;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since_1970))
}

#[cfg(test)]
mod tests {
    use ureq::http::{HeaderName, HeaderValue};

    use super::*;

    const POLICY: RetryPolicy = RetryPolicy { max_retries: 4, first_wait: 1.0, longest_wait: 3.0 };

    fn waits(seed: u64) -> Vec<f64> {
        let mut backoff = Backoff::new(POLICY, seed);
        let next = std::iter::from_fn(|| match backoff.next(None) {
            Next::Wait(wait) => Some(wait.as_secs_f64()),
            _ => None,
        });
        next.collect()
    }

    #[test]
    fn waits_double_up_to_the_longest_and_half_of_each_is_random() {
        let first = waits(1);
        assert_eq!(first.len(), 4);
        for (wait, full) in first.iter().zip([1.0, 2.0, 3.0, 3.0]) {
            assert!((full * 0.5..=full).contains(wait), "{first:?}");
        }
        assert_eq!(first, waits(1));
        assert_ne!(first, waits(2));
    }

    #[test]
    fn what_the_api_asks_for_is_kept_to_or_refused() {
        let mut backoff = Backoff::new(POLICY, 0);
        assert_eq!(backoff.next(Some(Duration::from_secs(2))), Next::Wait(Duration::from_secs(2)));
        assert_eq!(backoff.next(Some(Duration::from_secs(60))), Next::TooLong(Duration::from_secs(60)));
    }

    #[test]
    fn headers_say_seconds_milliseconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 5);
        let read = |name: &str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            retry_after(&headers, now).map(|wait| wait.as_secs_f64())
        };
        assert_eq!(read("Retry-After", "7"), Some(7.0));
        assert_eq!(read("Retry-After", "0.5"), Some(0.5));
        assert_eq!(read("retry-after-ms", "250"), Some(0.25));
        assert_eq!(read("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(5.0));
        assert_eq!(read("Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"), Some(0.0));
        for nonsense in
            ["soon", "-1", "NaN", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 99 Nov 1994 08:49:37 GMT"]
        {
            assert_eq!(read("Retry-After", nonsense), None, "{nonsense}");
        }
        assert_eq!(read("Retry-After", "1e300"), Some(LONGEST_READ));
    }
}
