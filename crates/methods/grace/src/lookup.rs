//! The codebook in the forward pass.

use std::fmt;

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use easyedit_core::{ForwardChange, Matrix, Module, Pass, Probe, Site, Stack, TokenBatch, WeightLayout, weight_product};

use crate::codebook::{Codebook, Entry, Replacement, Rules};

/// A codebook's entries on a device.
pub(crate) struct Lookup {
    rules: Rules,
    /// `[entries, d_mlp]`
    keys: Tensor<2>,
    /// ‖key‖², `[1, entries]`
    squares: Tensor<2>,
    /// `[entries, 1]`
    radii: Tensor<2>,
    /// `[entries, d_model]`
    values: Tensor<2>,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("rules", &self.rules).field("entries", &self.radii.dims()[0]).finish()
    }
}

impl Lookup {
    /// `None` if there are no entries.
    pub(crate) fn new(codebook: &Codebook, device: &Device) -> Option<Self> {
        let rows = |of: fn(&Entry) -> &[f32]| {
            let width = codebook.entries().first().map_or(0, |entry| of(entry).len());
            let values: Vec<f32> = codebook.entries().iter().flat_map(of).copied().collect();
            Matrix::new(codebook.entries().len(), width, values).map(|matrix| matrix.to_tensor(device))
        };
        if codebook.entries().is_empty() {
            return None;
        }
        let keys = rows(|entry| &entry.key)?;
        Some(Self {
            rules: codebook.rules(),
            squares: keys.clone().square().sum_dim(1).transpose(),
            keys,
            radii: rows(|entry| std::slice::from_ref(&entry.radius))?,
            values: rows(|entry| &entry.value)?,
        })
    }

    /// For each of the keys `queries: [prompts, d_mlp]`, the value of the nearest entry, and 1 or 0 for whether it reaches the key.
    fn find(&self, queries: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        // The nearest by ‖k‖² - 2 q·k; its distance then from the difference itself, in which nothing cancels.
        let near = self.squares.clone() - weight_product(queries.clone(), &self.keys, WeightLayout::OutIn).mul_scalar(2.0);
        let nearest: Tensor<1, Int> = near.argmin(1).squeeze_dim(1);
        let distance = (queries - self.keys.clone().select(0, nearest.clone())).square().sum_dim(1).sqrt();
        let reached = distance.lower_equal(self.radii.clone().select(0, nearest.clone())).float();
        (self.values.clone().select(0, nearest), reached)
    }
}

impl Lookup {
    /// Looks up the prompts that end at the token `end(row)` of the rows of `batch`; `None` if none does.
    fn at_ends(&self, batch: &TokenBatch, device: &Device, end: impl Fn(usize) -> Option<usize>) -> Option<Box<dyn Probe + '_>> {
        let (mut ends, mut places, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..batch.rows() {
            let Some(end) = end(row) else { continue };
            let first = if self.rules.replacement == Replacement::ReplaceLast { end } else { 0 };
            places.extend((first..=end).map(|token| batch.index(row, token)));
            prompts.extend(std::iter::repeat_n(ends.len(), end + 1 - first));
            ends.push(batch.index(row, end));
        }
        if ends.is_empty() {
            return None;
        }
        let index = |places: &[usize]| {
            let places: Vec<i64> = places.iter().map(|place| *place as i64).collect();
            let count = places.len();
            Tensor::<1, Int>::from_data(TensorData::new(places, [count]), device)
        };
        Some(Box::new(AtPrompts { lookup: self, ends: index(&ends), places: index(&places), prompts: index(&prompts), found: None }))
    }
}

impl ForwardChange for Lookup {
    fn probe(&self, pass: &Pass) -> Option<Box<dyn Probe + '_>> {
        match self.rules.stack {
            Stack::Decoder => self.at_ends(pass.batch(), pass.device(), |row| pass.prompt_end(row)),
            _ => None,
        }
    }

    fn encoder_probe(&self, sources: &TokenBatch, device: &Device) -> Option<Box<dyn Probe + '_>> {
        match self.rules.stack {
            // A source is a prompt and nothing else.
            Stack::Encoder => self.at_ends(sources, device, |row| sources.len(row).checked_sub(1)),
            _ => None,
        }
    }
}

/// Looks up the prompts that end in a batch, and puts in the values of those that are found.
struct AtPrompts<'a> {
    lookup: &'a Lookup,
    /// Positions of the prompts' last tokens.
    ends: Tensor<1, Int>,
    /// Positions whose activations are replaced, and the prompt of each.
    places: Tensor<1, Int>,
    prompts: Tensor<1, Int>,
    /// Per prompt, the nearest entry's value and whether it reaches the prompt.
    found: Option<(Tensor<2>, Tensor<2>)>,
}

impl Probe for AtPrompts<'_> {
    fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
        if site == self.lookup.rules.site(Module::MlpKey) {
            self.found = Some(self.lookup.find(activations.clone().inner().select(0, self.ends.clone())));
            return activations;
        }
        let found = match site == self.lookup.rules.site(Module::MlpOutput) {
            true => self.found.take(),
            false => None,
        };
        let Some((values, reached)) = found else { return activations };
        let [values, reached] = [values, reached].map(|rows| {
            let rows = rows.select(0, self.prompts.clone());
            if activations.is_autodiff() { Tensor::from_inner(rows) } else { rows }
        });
        let change = (values - activations.clone().select(0, self.places.clone())) * reached;
        activations.select_assign(0, self.places.clone(), change, IndexingUpdateOp::Add)
    }
}
