use std::collections::BTreeMap;

use burn::tensor::{Gradients, Tensor};
use easyedit_core::{Error, Fingerprint, LanguageModel, Matrix, ParamName, Result, TensorDelta, WeightDelta};
use easyedit_kernels::{AdamConfig, TensorAdam};

use crate::FtHparams;

/// The weights in training, inside a clone of the model.
pub(crate) struct Training {
    pub(crate) model: Box<dyn LanguageModel>,
    weights: Vec<Weight>,
    adam: TensorAdam,
    bound: Option<f64>,
}

struct Weight {
    name: ParamName,
    original: Tensor<2>,
    /// What was added so far: exact, where the difference of two weights would be rounded.
    change: Tensor<2>,
    /// The weight as it is now, whose gradient is asked for.
    tracked: Tensor<2>,
}

impl Training {
    pub(crate) fn new(model: &dyn LanguageModel, names: &[ParamName], hparams: &FtHparams) -> Result<Self> {
        let mut working = model.boxed_clone();
        let mut weights = Vec::with_capacity(names.len());
        for name in names {
            let original = model.weight(name)?;
            let tracked = Tensor::from_inner(original.clone()).require_grad();
            working.set_weight(name, tracked.clone())?;
            weights.push(Weight { name: name.clone(), change: original.zeros_like(), original, tracked });
        }
        let adam = AdamConfig { lr: hparams.lr, betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: hparams.weight_decay };
        Ok(Self { model: working, adam: TensorAdam::new(names.len(), adam), weights, bound: hparams.norm_constraint })
    }

    /// One step of every weight, and the bound.
    pub(crate) fn step(&mut self, gradients: &Gradients) -> Result<()> {
        for (index, weight) in self.weights.iter_mut().enumerate() {
            // A weight that the loss does not depend on stays.
            let Some(gradient) = weight.tracked.grad(gradients) else { continue };
            let now = weight.tracked.clone().inner();
            let Some(change) = self.adam.change(index, &now, gradient) else { continue };
            weight.change = weight.change.clone() + change;
            if let Some(bound) = self.bound {
                weight.change = weight.change.clone().clamp(-bound, bound);
            }
            weight.tracked = Tensor::from_inner(weight.original.clone() + weight.change.clone()).require_grad();
            self.model.set_weight(&weight.name, weight.tracked.clone())?;
        }
        Ok(())
    }

    /// The changes of the weights that moved.
    pub(crate) fn deltas(self) -> Result<BTreeMap<ParamName, TensorDelta>> {
        let mut deltas = BTreeMap::new();
        for weight in self.weights {
            let change = Matrix::from_tensor(&weight.change)?;
            if change.values().iter().any(|v| !v.is_finite()) {
                return Err(Error::NotFinite(format!("tensor {}: training left the finite numbers; choose a smaller lr", weight.name)));
            }
            if change.values().iter().any(|v| *v != 0.0) {
                deltas.insert(weight.name, TensorDelta::new(compact(change), Fingerprint::of(&weight.original)?));
            }
        }
        Ok(deltas)
    }
}

/// The change at single places where that takes fewer bytes: units of an MLP that none of the facts activates, and rows of an embedding
/// that are not read, have no gradient and stay.
fn compact(change: Matrix) -> WeightDelta {
    /// Bytes of a place and its value, and of a value alone.
    const PLACE: usize = 12;
    const VALUE: usize = 4;
    let moved = change.values().iter().filter(|v| **v != 0.0).count();
    if moved * PLACE >= change.values().len() * VALUE {
        return WeightDelta::Dense(change);
    }
    let places = change.values().iter().zip(0u64..).filter(|(v, _)| **v != 0.0);
    let (values, indices) = places.map(|(v, index)| (*v, index)).unzip();
    WeightDelta::Sparse { shape: change.shape(), indices, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_places_are_kept_as_places() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let mut values = vec![0f32; 12];
        (values[1], values[7]) = (2.0, -1.0);
        let change = Matrix::new(3, 4, values.clone()).unwrap();
        let delta = compact(change.clone());
        assert!(matches!(&delta, WeightDelta::Sparse { indices, .. } if indices == &[1, 7]));
        assert_eq!(Matrix::from_tensor(&delta.to_tensor(&device)).unwrap(), change);
        assert!(matches!(compact(Matrix::row(vec![1.0, 0.0, 3.0])), WeightDelta::Dense(_)));
    }
}
