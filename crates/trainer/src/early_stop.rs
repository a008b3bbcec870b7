use serde::{Deserialize, Serialize};

/// Whether the average of this key is to rise: accuracies do, losses fall.
pub fn is_maximized(key: &str) -> bool {
    key.contains("acc") || key.contains("exact")
}

/// The best validation so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EarlyStop {
    /// Value of the key and the iteration it was measured in.
    pub(crate) best: Option<(f64, u64)>,
}

impl EarlyStop {
    /// Takes in a validation; whether it is the best so far. What is not finite is never the best.
    pub(crate) fn see(&mut self, key: &str, value: f64, iteration: u64) -> bool {
        let is_better = match self.best {
            _ if !value.is_finite() => false,
            None => true,
            Some((best, _)) => (is_maximized(key) && value > best) || (!is_maximized(key) && value < best),
        };
        if is_better {
            self.best = Some((value, iteration));
        }
        is_better
    }

    /// Whether the best lies more than `patience` iterations back.
    pub(crate) fn is_over(&self, iteration: u64, patience: u64) -> bool {
        iteration - self.best.map_or(0, |(_, at)| at) > patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_when_its_patience_does() {
        let stop_at = |key: &str, curve: &[f64]| {
            let mut stop = EarlyStop::default();
            let ends = (1..).zip(curve).find(|(number, value)| {
                stop.see(key, **value, 10 * number);
                stop.is_over(10 * number, 20)
            });
            (ends.map(|(number, _)| number), stop.best)
        };
        let falling = [3.0, 2.0, f64::NAN, 2.5, 2.0, 1.0];
        assert_eq!(stop_at("loss/total_edit_val", &falling), (Some(5), Some((2.0, 20))));
        assert_eq!(stop_at("edit/acc_val", &falling), (Some(4), Some((3.0, 10))));
        assert_eq!(stop_at("edit/exact_val", &[0.1, 0.2, 0.3, 0.4]), (None, Some((0.4, 40))));
        assert_eq!(stop_at("loss/edit_val", &[f64::NAN; 4]), (Some(3), None));
    }
}
