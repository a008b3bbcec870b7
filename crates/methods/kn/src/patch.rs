//! Neurons held down or up while the model runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use burn::tensor::{Tensor, TensorData};
use easyedit_core::{Error, ForwardChange, LanguageModel, Module, Overlay, Pass, Probe, Result, Site};
use serde::{Deserialize, Serialize};

use crate::hparams::KnMode;
use crate::neurons::Neuron;

/// The overlay's data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PatchData {
    pub(crate) mode: KnMode,
    /// Per request, its neurons.
    pub(crate) neurons: Vec<Vec<Neuron>>,
}

impl PatchData {
    pub(crate) fn read(overlay: &Overlay) -> Result<Self> {
        serde_json::from_value(overlay.data.clone())
            .map_err(|error| Error::tensor("neurons", format!("the edit's overlay is none of KN: {error}")))
    }

    pub(crate) fn to_overlay(&self) -> Result<Overlay> {
        Ok(Overlay { data: serde_json::to_value(self).map_err(Error::other)?, tensors: BTreeMap::new() })
    }
}

/// What each neuron's activation is multiplied by, at all tokens.
pub(crate) struct Patch {
    /// By layer: `[1, d_mlp]`.
    factors: BTreeMap<usize, Tensor<2>>,
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patch").field("layers", &self.factors.keys().collect::<Vec<_>>()).finish()
    }
}

impl Patch {
    /// # Errors
    ///
    /// If a neuron is none of the model's, or the mode is one that changes weights.
    pub(crate) fn new(data: &PatchData, model: &dyn LanguageModel) -> Result<Self> {
        let (width, device) = (model.spec().d_mlp, model.device());
        let factor = data.mode.factor().ok_or_else(|| Error::tensor("neurons", "the mode edit changes weights and lays nothing over"))?;
        let mut layers: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for neuron in data.neurons.iter().flatten() {
            model.spec().check_layer(neuron.layer)?;
            if neuron.index >= width {
                return Err(Error::tensor(
                    "neurons",
                    format!("names neuron {} of layer {}, and {} has {width} in each layer", neuron.index, neuron.layer, model.spec().name),
                ));
            }
            layers.entry(neuron.layer).or_default().insert(neuron.index);
        }
        let factors = layers.into_iter().map(|(layer, indices)| {
            let factors: Vec<f32> = (0..width).map(|index| if indices.contains(&index) { factor } else { 1.0 }).collect();
            (layer, Tensor::from_data(TensorData::new(factors, [1, width]), &device))
        });
        Ok(Self { factors: factors.collect() })
    }
}

impl ForwardChange for Patch {
    fn probe(&self, _: &Pass) -> Option<Box<dyn Probe + '_>> {
        Some(Box::new(Scaling { factors: &self.factors }))
    }
}

struct Scaling<'a> {
    factors: &'a BTreeMap<usize, Tensor<2>>,
}

impl Probe for Scaling<'_> {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        match self.factors.get(&site.layer).filter(|_| site == Site::new(site.layer, Module::MlpKey)) {
            Some(factors) => activations * factors.clone(),
            None => activations,
        }
    }
}
