use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Scores of one request under one model, in EasyEdit's keys. Every value is in `[0, 1]`; a list holds one value per prompt.
///
/// Parts that were not measured are absent: all of them when evaluation is off, `locality` before an edit (it compares with the model
/// before the edit), `rephrase_acc` for a request without a rephrased prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Reliability: the prompt is answered with the new target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewrite_acc: Vec<f64>,
    /// Generalization: so is the rephrased prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rephrase_acc: Vec<f64>,
    /// Locality: `{name}_acc` -> agreement with the model before the edit, per prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<BTreeMap<String, Vec<f64>>>,
    /// Portability: `{name}_acc` -> how well what follows from the fact is answered, per prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portability: Option<BTreeMap<String, Vec<f64>>>,
}

/// EasyEdit's key of the scores of the prompts called `name`.
pub(crate) fn accuracy_key(name: &str) -> String {
    format!("{name}_acc")
}

/// Means of [`Metrics`] over records; each record counts once for a key, however many prompts it has under it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeanMetrics {
    /// Mean reliability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite_acc: Option<f64>,
    /// Mean generalization, over the records with a rephrased prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rephrase_acc: Option<f64>,
    /// Mean locality by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub locality: BTreeMap<String, f64>,
    /// Mean portability by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub portability: BTreeMap<String, f64>,
}

impl MeanMetrics {
    /// Means over `metrics`.
    pub fn of<'a>(metrics: impl IntoIterator<Item = &'a Metrics>) -> Self {
        let mut rewrite = Mean::default();
        let mut rephrase = Mean::default();
        let mut locality: BTreeMap<String, Mean> = BTreeMap::new();
        let mut portability: BTreeMap<String, Mean> = BTreeMap::new();
        for one in metrics {
            rewrite.add(&one.rewrite_acc);
            rephrase.add(&one.rephrase_acc);
            for (means, values) in [(&mut locality, &one.locality), (&mut portability, &one.portability)] {
                for (name, values) in values.iter().flatten() {
                    means.entry(name.clone()).or_default().add(values);
                }
            }
        }
        let all = |means: BTreeMap<String, Mean>| means.into_iter().filter_map(|(name, mean)| Some((name, mean.value()?))).collect();
        Self { rewrite_acc: rewrite.value(), rephrase_acc: rephrase.value(), locality: all(locality), portability: all(portability) }
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A mean over records; an empty list does not count, so no mean is ever NaN.
#[derive(Default)]
struct Mean {
    sum: f64,
    records: usize,
}

impl Mean {
    fn add(&mut self, values: &[f64]) {
        if !values.is_empty() {
            self.sum += values.iter().sum::<f64>() / values.len() as f64;
            self.records += 1;
        }
    }

    fn value(&self) -> Option<f64> {
        (self.records > 0).then(|| self.sum / self.records as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_counts_once_and_only_where_it_has_the_key() {
        let one = Metrics {
            rewrite_acc: vec![1.0],
            rephrase_acc: vec![0.5],
            locality: Some(BTreeMap::from([("near_acc".into(), vec![1.0, 0.0, 0.5])])),
            portability: Some(BTreeMap::new()),
        };
        let two = Metrics { rewrite_acc: vec![0.0], ..Metrics::default() };
        let mean = MeanMetrics::of([&one, &two]);
        assert_eq!((mean.rewrite_acc, mean.rephrase_acc), (Some(0.5), Some(0.5)));
        assert_eq!(mean.locality, BTreeMap::from([("near_acc".to_owned(), 0.5)]));
        assert!(mean.portability.is_empty());
    }

    #[test]
    fn nothing_measured_is_an_empty_object() {
        assert!(MeanMetrics::of([&Metrics::default()]).is_empty());
        assert_eq!(serde_json::to_string(&Metrics::default()).unwrap(), "{}");
        assert_eq!(serde_json::to_string(&MeanMetrics::of([])).unwrap(), "{}");
    }
}
