use easyedit_trainer::StepReport;

/// How often scope was decided rightly.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScopeCounts {
    threshold: f64,
    /// Queries in scope that were found, and all of them.
    found: usize,
    positive: usize,
    /// Queries out of scope that were taken in, and all of them.
    mistaken: usize,
    negative: usize,
}

impl ScopeCounts {
    /// Keys of the metrics.
    pub(crate) const KEYS: &'static [&'static str] = &["scope/recall", "scope/precision", "scope/mistaken"];

    /// Counts log-scores of queries in scope and of others.
    pub(crate) fn of(positive: &[f32], negative: &[f32], threshold: f64) -> Self {
        let mut counts = Self { threshold, found: 0, positive: positive.len(), mistaken: 0, negative: negative.len() };
        counts.found = positive.iter().filter(|score| counts.is_in_scope(**score)).count();
        counts.mistaken = negative.iter().filter(|score| counts.is_in_scope(**score)).count();
        counts
    }

    /// Whether a log-score is above the threshold.
    pub(crate) fn is_in_scope(&self, log_score: f32) -> bool {
        f64::from(log_score).exp() > self.threshold
    }

    /// Share of the queries out of scope that were left to the base model; 1 without any.
    pub(crate) fn kept_out(&self) -> f64 {
        if self.negative == 0 { 1.0 } else { 1.0 - self.mistaken as f64 / self.negative as f64 }
    }

    /// Adds recall, precision and the share of mistaken queries, each weighed by what it is a share of: averages over batches are those of all
    /// queries together.
    pub(crate) fn put(&self, report: &mut StepReport) {
        let shares = [(self.found, self.positive), (self.found, self.found + self.mistaken), (self.mistaken, self.negative)];
        for (key, (part, whole)) in Self::KEYS.iter().zip(shares) {
            if whole > 0 {
                report.put_mean(*key, part as f64 / whole as f64, whole);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_they_are_said_to_be() {
        let log = |score: f32| score.ln();
        let counts = ScopeCounts::of(&[log(0.9), log(0.6), log(0.1)], &[log(0.7), log(0.2)], 0.5);
        let mut report = StepReport::default();
        counts.put(&mut report);
        let of = |key: &str| report.metrics[key];
        assert_eq!((of("scope/recall").value, of("scope/recall").weight), (2.0 / 3.0, 3.0));
        assert_eq!((of("scope/precision").value, of("scope/precision").weight), (2.0 / 3.0, 3.0));
        assert_eq!((of("scope/mistaken").value, counts.kept_out()), (0.5, 0.5));
    }
}
