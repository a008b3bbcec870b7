use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// The word for a threshold that is chosen by figures.
const AUTO: &str = "auto";

/// The score above which a query is in scope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// The one with the best F1 on the validation records of the training.
    Auto,
    /// A number in (0, 1).
    At(f64),
}

impl Threshold {
    /// What the original code takes.
    pub const HALF: f64 = 0.5;
}

impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(AUTO),
            Self::At(threshold) => serializer.serialize_f64(*threshold),
        }
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || serde::de::Error::custom("expected a number or auto");
        match Value::deserialize(deserializer).map_err(|_| wrong())? {
            Value::String(text) if text.trim().eq_ignore_ascii_case(AUTO) => Ok(Self::Auto),
            Value::String(text) => text.trim().parse().map(Self::At).map_err(|_| wrong()),
            Value::Number(number) => number.as_f64().map(Self::At).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

/// The threshold with the best F1 for scores of queries in scope (`true`) and others: halfway between the last score that it takes in and the
/// next. Of equally good ones the nearest to one half; `None` without queries in scope.
pub(crate) fn best_threshold(scores: &[(f64, bool)]) -> Option<f64> {
    let positive = scores.iter().filter(|(_, is_in)| *is_in).count();
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut found, mut best) = (0usize, None::<(f64, f64)>);
    for (taken, (score, is_in)) in sorted.iter().enumerate() {
        found += usize::from(*is_in);
        let next = sorted.get(taken + 1).map_or(0.0, |(next, _)| *next);
        if next >= *score {
            continue;
        }
        let f1 = 2.0 * found as f64 / (taken + 1 + positive).max(1) as f64;
        // One half stands for the whole gap it lies in.
        let between = if (next..*score).contains(&Threshold::HALF) { Threshold::HALF } else { (score + next) / 2.0 };
        let is_better = best.is_none_or(|(known, at)| f1 > known || (f1 == known && (between - 0.5).abs() < (at - 0.5f64).abs()));
        if positive > 0 && is_better && between > 0.0 && between < 1.0 {
            best = Some((f1, between));
        }
    }
    best.map(|(_, threshold)| threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_numbers_or_auto() {
        let read = |text: &str| serde_json::from_str::<Threshold>(text).map_err(|error| error.to_string());
        assert_eq!(read("0.25"), Ok(Threshold::At(0.25)));
        assert_eq!(read("\"0.25\""), Ok(Threshold::At(0.25)));
        assert_eq!(read("\"Auto\""), Ok(Threshold::Auto));
        assert!(read("\"high\"").unwrap_err().contains("a number or auto"));
        assert_eq!(serde_json::to_string(&Threshold::Auto).unwrap(), "\"auto\"");
    }

    #[test]
    fn the_best_threshold_parts_the_queries() {
        let apart = [(1.0, true), (0.3, true), (0.2, false), (0.01, false)];
        assert_eq!(best_threshold(&apart), Some(0.25));
        // Nothing is better than one half where it parts them, too.
        assert_eq!(best_threshold(&[(0.9, true), (0.1, false)]), Some(0.5));
        // Three in scope, at the price of one mistake, are worth more than two.
        let mixed = [(0.9, true), (0.8, true), (0.7, false), (0.6, true), (0.2, false), (0.1, false)];
        assert_eq!(best_threshold(&mixed), Some(0.5));
        assert_eq!(best_threshold(&[(0.4, false)]), None);
    }
}
