use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Metric, Split};

/// Weighted means of metrics over steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Averages {
    /// Weighted sum and weight of each key.
    sums: BTreeMap<String, (f64, f64)>,
}

impl Averages {
    /// Takes in a step.
    pub(crate) fn add(&mut self, metrics: &BTreeMap<String, Metric>) {
        for (key, metric) in metrics {
            let (sum, weight) = self.sums.entry(key.clone()).or_default();
            *sum += metric.value * metric.weight;
            *weight += metric.weight;
        }
    }

    /// Whether nothing was taken in.
    pub(crate) fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// The means by key and suffix; with the perplexity of each `nll/` key.
    pub(crate) fn means(&self, split: Split) -> BTreeMap<String, f64> {
        let mut means = BTreeMap::new();
        for (key, (sum, weight)) in &self.sums {
            let mean = if *weight > 0.0 { sum / weight } else { f64::NAN };
            if let Some(of) = key.strip_prefix("nll/") {
                means.insert(format!("perplexity/{of}_{}", split.suffix()), mean.exp());
            }
            means.insert(format!("{key}_{}", split.suffix()), mean);
        }
        means
    }
}

/// The keys that averages over these metrics have.
pub(crate) fn average_keys(metrics: &[String], split: Split) -> Vec<String> {
    let zero = Metric { value: 0.0, weight: 1.0 };
    let mut averages = Averages::default();
    averages.add(&metrics.iter().map(|key| (key.clone(), zero)).collect());
    averages.means(split).into_keys().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_weighted_and_have_perplexities() {
        let step = |value: f64, weight: f64| BTreeMap::from([("nll/pre".to_owned(), Metric { value, weight })]);
        let mut averages = Averages::default();
        averages.add(&step(1.0, 1.0));
        averages.add(&step(3.0, 3.0));
        let means = averages.means(Split::Val);
        assert_eq!(means["nll/pre_val"], 2.5);
        assert_eq!(means["perplexity/pre_val"], 2.5f64.exp());
        assert_eq!(average_keys(&["nll/pre".into()], Split::Train), ["nll/pre_train", "perplexity/pre_train"]);
    }
}
