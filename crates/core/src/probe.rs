use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Tensor;

use crate::{Parameter, Site};

/// Sees, and may replace, the activations at every [`Site`] of a forward pass, and the outputs of the linear maps it asks for.
///
/// `()` is the probe that does nothing; two probes in a pair act one after the other.
///
/// # Shapes
///
/// `activations: [tokens, width]`, rows in the order of the pass's [`TokenBatch`](crate::TokenBatch).
pub trait Probe {
    /// Takes the activations at `site` and gives back those that the model goes on with.
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2>;

    /// Whether the pass may stop: everything wanted has been seen. Asked after each layer.
    fn is_done(&self) -> bool {
        false
    }

    /// Whether nothing behind `site` is wanted, not even the rest of its block: the layer may then give back any hidden states, and the
    /// pass ends. Asked behind [`Module::MlpKey`](crate::Module::MlpKey), because the out-projection that follows is costly.
    fn ends_at(&self, _site: Site) -> bool {
        false
    }

    /// Whether [`linear`](Self::linear) is called for this linear map. Asked each time the map is computed.
    ///
    /// A model may compute a fused map in parts, which is faster; for a probe that asks, the map is computed as a whole.
    fn wants_linear(&self, _parameter: &Parameter) -> bool {
        false
    }

    /// Takes the output of a linear map of a block and returns the output that the model uses instead. It is called for every linear map
    /// of every block of every stack that [`wants_linear`](Self::wants_linear) names, in the order of computation; never for the head.
    ///
    /// `output` is the product of `input` with the weight, before the bias is added. So a low-rank change `A B` of the weight, stored
    /// [`InOut`](crate::WeightLayout::InOut), is `output + (input A) B`, and the gradient of the loss by the returned tensor is that of
    /// the map's output.
    ///
    /// Keys and values of an encoder's output ([`CrossKey`](crate::LinearRole::CrossKey), [`CrossValue`](crate::LinearRole::CrossValue))
    /// are computed once and kept in a cache. A pass that reads them from its cache does not call the probe for them.
    ///
    /// # Shapes
    ///
    /// `input: [tokens, in]`, `output: [tokens, out]`, and so is the result. The tokens are those of the pass; of keys and values of an
    /// encoder's output, those of the sources.
    fn linear(&mut self, _parameter: &Parameter, _input: &Tensor<2>, output: Tensor<2>) -> Tensor<2> {
        output
    }
}

impl Probe for () {
    fn at(&mut self, _: Site, activations: Tensor<2>) -> Tensor<2> {
        activations
    }
}

impl<A: Probe, B: Probe> Probe for (A, B) {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        let activations = self.0.at(site, activations);
        self.1.at(site, activations)
    }

    fn is_done(&self) -> bool {
        self.0.is_done() && self.1.is_done()
    }

    fn ends_at(&self, site: Site) -> bool {
        self.0.ends_at(site) && self.1.ends_at(site)
    }

    fn wants_linear(&self, parameter: &Parameter) -> bool {
        self.0.wants_linear(parameter) || self.1.wants_linear(parameter)
    }

    fn linear(&mut self, parameter: &Parameter, input: &Tensor<2>, output: Tensor<2>) -> Tensor<2> {
        let output = if self.0.wants_linear(parameter) { self.0.linear(parameter, input, output) } else { output };
        if self.1.wants_linear(parameter) { self.1.linear(parameter, input, output) } else { output }
    }
}

impl<P: Probe + ?Sized> Probe for &mut P {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        (**self).at(site, activations)
    }

    fn is_done(&self) -> bool {
        (**self).is_done()
    }

    fn ends_at(&self, site: Site) -> bool {
        (**self).ends_at(site)
    }

    fn wants_linear(&self, parameter: &Parameter) -> bool {
        (**self).wants_linear(parameter)
    }

    fn linear(&mut self, parameter: &Parameter, input: &Tensor<2>, output: Tensor<2>) -> Tensor<2> {
        (**self).linear(parameter, input, output)
    }
}

/// Keeps what passes at chosen sites; the kept tensors share the model's storage.
#[derive(Debug, Default)]
pub struct Capture {
    wanted: BTreeSet<Site>,
    seen: BTreeMap<Site, Tensor<2>>,
}

impl Capture {
    /// Captures at each of `sites`.
    pub fn new(sites: impl IntoIterator<Item = Site>) -> Self {
        Self { wanted: sites.into_iter().collect(), seen: BTreeMap::new() }
    }

    /// What passed at `site`, `[tokens, width]`; `None` if the pass did not come by.
    pub fn get(&self, site: Site) -> Option<&Tensor<2>> {
        self.seen.get(&site)
    }

    /// Takes what passed at `site` out of the capture.
    pub fn take(&mut self, site: Site) -> Option<Tensor<2>> {
        self.seen.remove(&site)
    }
}

impl Probe for Capture {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        if self.wanted.contains(&site) {
            self.seen.insert(site, activations.clone());
        }
        activations
    }

    fn is_done(&self) -> bool {
        self.seen.len() == self.wanted.len()
    }
}
