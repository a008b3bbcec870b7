//! The head that classifies a memory and a query which the encoder has read together.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use easyedit_core::{SequenceHead, WeightLayout, weight_product};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::classifier::activate;

/// Classes; the score is the probability of the first.
const CLASSES: usize = 2;
/// Standard deviation of the weights at the start.
const SPREAD: f32 = 0.02;

/// A dense layer, an activation, and a linear map to two classes; names are those of a checkpoint.
#[derive(Clone)]
pub(crate) struct Head {
    form: SequenceHead,
    tensors: BTreeMap<String, Tensor<2>>,
}

impl Head {
    /// A head whose weights are drawn; biases are 0.
    pub(crate) fn new(form: SequenceHead, width: usize, seed: u64, device: &Device) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors = BTreeMap::new();
        for (module, rows) in [(form.dense, width), (form.out, CLASSES)] {
            // A sum of twelve uniform draws has variance 1.
            let draw = |rng: &mut ChaCha8Rng| SPREAD * ((0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0);
            let weight: Vec<f32> = (0..rows * width).map(|_| draw(&mut rng)).collect();
            tensors.insert(format!("{module}.weight"), Tensor::from_data(TensorData::new(weight, [rows, width]), device));
            tensors.insert(format!("{module}.bias"), Tensor::zeros([1, rows], device));
        }
        Self { form, tensors }
    }

    /// `[rows, width]` -> logits `[rows, 2]`
    pub(crate) fn forward(&self, states: Tensor<2>) -> Tensor<2> {
        let hidden = activate(self.linear(states, self.form.dense), self.form.activation);
        self.linear(hidden, self.form.out)
    }

    fn linear(&self, x: Tensor<2>, module: &str) -> Tensor<2> {
        match (self.weight(&format!("{module}.weight")), self.weight(&format!("{module}.bias"))) {
            (Some(weight), Some(bias)) => weight_product(x, &weight, WeightLayout::OutIn) + bias,
            // Both are there from the beginning, and are never taken out.
            _ => x,
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    pub(crate) fn weight(&self, name: &str) -> Option<Tensor<2>> {
        self.tensors.get(name).cloned()
    }

    /// Replaces a tensor that is there.
    pub(crate) fn set_weight(&mut self, name: &str, value: Tensor<2>) {
        if let Some(tensor) = self.tensors.get_mut(name) {
            *tensor = value;
        }
    }
}
