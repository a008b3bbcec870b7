use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Tensor;

use crate::Site;

/// Sees, and may replace, the activations at every [`Site`] a forward pass comes by.
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
