use std::collections::BTreeMap;
use std::path::Path;

use easyedit_core::{Artefact, ArtefactLabel, ArtefactTensor, Error, HostTensor, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::averages::Averages;
use crate::early_stop::EarlyStop;

/// File of everything a run needs to go on: parameters, statistics, optimiser, gradients of a begun accumulation, counters.
pub const LAST_FILE: &str = "last.safetensors";
/// File of the best state so far, as editing takes it.
pub const MODEL_FILE: &str = "model.safetensors";

/// Kind and version of [`LAST_FILE`].
const KIND: &str = "training/1";
/// Largest checkpoint that is read.
const MOST_BYTES: u64 = 256 << 30;
/// Settings of the loop that may differ when a run is resumed: they say when it ends, not where it goes.
const FREE: &[&str] = &["max_iters", "max_epochs", "early_stop_patience", "final_eval", "save_interval"];

/// Where a run stands, beside its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Iterations done.
    pub(crate) iteration: u64,
    /// Optimiser steps done.
    pub(crate) step: u64,
    /// Batches skipped in a row, and in all.
    pub(crate) skipped: (u64, u64),
    /// Iterations that the begun accumulation holds.
    pub(crate) accumulated: u64,
    pub(crate) early_stop: EarlyStop,
    /// The averages of the training since the last line of the log.
    pub(crate) averages: Averages,
    /// Bytes of the log so far; what a killed run wrote behind them is cut off.
    pub(crate) log_bytes: u64,
    /// Whether the run has ended.
    pub(crate) is_over: bool,
}

/// What the label of the file says.
#[derive(Serialize, Deserialize)]
struct Facts {
    counters: Counters,
    /// Settings of the loop and identity of the learner.
    config: Value,
    identity: Value,
}

/// A checkpoint as it was read.
pub(crate) struct Checkpoint {
    pub(crate) counters: Counters,
    /// Of the learner.
    pub(crate) model: BTreeMap<String, HostTensor>,
    /// Of the loop: optimiser and accumulation.
    pub(crate) others: BTreeMap<String, HostTensor>,
}

impl Checkpoint {
    pub(crate) fn write(&self, path: &Path, config: &impl Serialize, identity: &Value) -> Result<()> {
        let config = serde_json::to_value(config).map_err(Error::other)?;
        let facts = Facts { counters: self.counters.clone(), config, identity: identity.clone() };
        let label = ArtefactLabel::new(KIND, &(), &facts)?;
        let model = self.model.iter().map(|(name, tensor)| (format!("model.{name}"), tensor));
        let others = self.others.iter().map(|(name, tensor)| (name.clone(), tensor));
        let tensors = model.chain(others).map(|(name, tensor)| (name, ArtefactTensor::of_f32(tensor.shape(), tensor.values())));
        Artefact::write(path, label, tensors.collect())
    }

    /// The checkpoint of a run with these settings; `None` if there is no file.
    pub(crate) fn read(path: &Path, config: &impl Serialize, identity: &Value) -> Result<Option<Self>> {
        let Some(mut file) = Artefact::read(path, KIND, &(), MOST_BYTES)? else { return Ok(None) };
        let facts: Facts = file.facts()?;
        let config = serde_json::to_value(config).map_err(Error::other)?;
        let settings = differing(&facts.config, &config).into_iter().filter(|key| !FREE.contains(&key.as_str()));
        let differing: Vec<String> = settings.chain(differing(&facts.identity, identity)).collect();
        if !differing.is_empty() {
            return Err(Error::format(
                path,
                format!("is of another run: {} differ; give what it was begun with, or choose another --out", differing.join(", ")),
            ));
        }
        let (mut model, mut others) = (BTreeMap::new(), BTreeMap::new());
        for name in file.names() {
            let (shape, values) = file.f32(&name)?;
            let tensor = HostTensor::new(shape, values);
            let tensor = tensor.ok_or_else(|| Error::format(path, format!("holds {name} in a shape it does not fit")))?;
            match name.strip_prefix("model.") {
                Some(name) => model.insert(name.to_owned(), tensor),
                None => others.insert(name.to_owned(), tensor),
            };
        }
        Ok(Some(Self { counters: facts.counters, model, others }))
    }
}

/// The keys whose values differ; whole values without keys are called by what they are.
fn differing(known: &Value, now: &Value) -> Vec<String> {
    match (known.as_object(), now.as_object()) {
        (Some(known), Some(now)) => {
            let mut keys: Vec<&String> = known.keys().chain(now.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            keys.into_iter().filter(|key| known.get(*key) != now.get(*key)).cloned().collect()
        }
        _ if known == now => Vec::new(),
        _ => vec!["the settings".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainingConfig;

    #[test]
    fn a_checkpoint_of_another_run_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LAST_FILE);
        let (config, identity) = (TrainingConfig::default(), serde_json::json!({"data": "a", "rank": 8}));
        assert!(Checkpoint::read(&path, &config, &identity).unwrap().is_none());
        let counters = Counters { iteration: 7, averages: Averages::default(), ..Counters::default() };
        let tensors = |name: &str| BTreeMap::from([(name.to_owned(), HostTensor::vector(vec![1.5]))]);
        let written = Checkpoint { counters: counters.clone(), model: tensors("a"), others: tensors("optimizer.first.a") };
        written.write(&path, &config, &identity).unwrap();
        let read = Checkpoint::read(&path, &TrainingConfig { max_iters: 7, ..config.clone() }, &identity).unwrap().unwrap();
        assert_eq!((read.counters, read.model, read.others), (counters, tensors("a"), tensors("optimizer.first.a")));
        let message = |config: &TrainingConfig, identity: Value| Checkpoint::read(&path, config, &identity).err().unwrap().to_string();
        let other = message(&config, serde_json::json!({"data": "b", "rank": 8}));
        assert!(other.contains("another run: data differ"), "{other}");
        let other = message(&TrainingConfig { seed: 1, ..config.clone() }, serde_json::json!({"data": "a", "rank": 9}));
        assert!(other.contains("seed, rank differ"), "{other}");
    }
}
