use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use easyedit_core::{Error, HostTensor, Result};

use crate::{OptimizerKind, ParameterGroup};

/// Decay rates of Adam's first and second moment, and what is added to the root of the second: PyTorch's defaults.
const BETAS: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;

/// Adam or AdamW over named parameters.
///
/// # Source
///
/// Kingma and Ba, "Adam: A Method for Stochastic Optimization", algorithm 1; Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
/// algorithm 2.
#[derive(Debug)]
pub(crate) struct Optimizer {
    kind: OptimizerKind,
    moments: BTreeMap<String, Moments>,
}

#[derive(Clone, Debug)]
struct Moments {
    step: i32,
    first: Tensor<2>,
    second: Tensor<2>,
}

impl Optimizer {
    pub(crate) fn new(kind: OptimizerKind) -> Self {
        Self { kind, moments: BTreeMap::new() }
    }

    /// The parameter `name` after a step along `gradient`, with the rate of its group times `factor`.
    pub(crate) fn stepped(&mut self, name: &str, value: Tensor<2>, gradient: Tensor<2>, group: &ParameterGroup, factor: f64) -> Tensor<2> {
        let (lr, decay, [b1, b2]) = (group.lr * factor, group.weight_decay, BETAS);
        let (value, gradient) = match self.kind {
            _ if decay == 0.0 => (value, gradient),
            OptimizerKind::Adam => (value.clone(), gradient + value * decay),
            OptimizerKind::AdamW => (value * (1.0 - lr * decay), gradient),
        };
        let (first, second) = (gradient.clone() * (1.0 - b1), gradient.clone() * gradient * (1.0 - b2));
        let moments = match self.moments.remove(name) {
            Some(Moments { step, first: m, second: v }) => Moments { step: step + 1, first: m * b1 + first, second: v * b2 + second },
            None => Moments { step: 1, first, second },
        };
        let correction = [1.0 - b1.powi(moments.step), 1.0 - b2.powi(moments.step)];
        let root = (moments.second.clone() / correction[1]).sqrt() + EPSILON;
        let value = value - moments.first.clone() * (lr / correction[0]) / root;
        self.moments.insert(name.to_owned(), moments);
        value
    }

    /// Moments and step counts, by names that begin with `optimizer.`.
    pub(crate) fn state(&self) -> Result<BTreeMap<String, HostTensor>> {
        let mut state = BTreeMap::new();
        for (name, moments) in &self.moments {
            state.insert(format!("optimizer.step.{name}"), HostTensor::vector(step_parts(moments.step)));
            state.insert(format!("optimizer.first.{name}"), HostTensor::from_matrix(&moments.first)?);
            state.insert(format!("optimizer.second.{name}"), HostTensor::from_matrix(&moments.second)?);
        }
        Ok(state)
    }

    /// Takes over what [`state`](Self::state) has given for the parameters `names`.
    pub(crate) fn load(&mut self, state: &BTreeMap<String, HostTensor>, names: &[String], device: &Device) -> Result<()> {
        self.moments.clear();
        for name in names {
            let Some(step) = state.get(&format!("optimizer.step.{name}")) else { continue };
            let part = |what: &str| {
                let key = format!("optimizer.{what}.{name}");
                let tensor = state.get(&key).ok_or_else(|| Error::tensor(&key, "is missing from the checkpoint"))?;
                tensor.to_matrix(&key, device)
            };
            let step = step_of(step.values()).ok_or_else(|| Error::tensor(name, "has a damaged step count in the checkpoint"))?;
            self.moments.insert(name.clone(), Moments { step, first: part("first")?, second: part("second")? });
        }
        Ok(())
    }
}

/// A step count as two numbers that `f32` holds exactly.
fn step_parts(step: i32) -> Vec<f32> {
    vec![(step >> 16) as f32, (step & 0xffff) as f32]
}

fn step_of(parts: &[f32]) -> Option<i32> {
    let [high, low] = parts else { return None };
    ((0.0..32768.0).contains(high) && (0.0..65536.0).contains(low)).then_some(((*high as i32) << 16) | *low as i32)
}

#[cfg(test)]
mod tests {
    use easyedit_core::tensor_values;

    use super::*;

    fn group(lr: f64, weight_decay: f64) -> ParameterGroup {
        ParameterGroup { name: "g".into(), parameters: vec!["p".into()], lr, weight_decay }
    }

    /// Values that `torch.optim.Adam` and `AdamW` give after two steps from 1 with gradients 1 and 2, lr 0.1, weight decay 0.5.
    #[test]
    fn steps_are_those_of_the_papers() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let tensor = |v: f32| Tensor::<2>::from_floats([[v]], &device);
        for (kind, want) in [(OptimizerKind::Adam, two_steps(true)), (OptimizerKind::AdamW, two_steps(false))] {
            let mut optimizer = Optimizer::new(kind);
            let mut value = tensor(1.0);
            for gradient in [1.0, 2.0] {
                value = optimizer.stepped("p", value, tensor(gradient), &group(0.1, 0.5), 1.0);
            }
            let got = f64::from(tensor_values(&value).unwrap()[0]);
            assert!((got - want).abs() < 1e-6, "{kind:?}: {got} instead of {want}");
        }
    }

    /// The recurrence by hand.
    fn two_steps(coupled: bool) -> f64 {
        let (mut value, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
        for (step, gradient) in [(1, 1.0), (2, 2.0)] {
            let gradient = if coupled { gradient + 0.5 * value } else { gradient };
            value *= if coupled { 1.0 } else { 1.0 - 0.1 * 0.5 };
            (m, v) = (0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient * gradient);
            value -= 0.1 * (m / (1.0 - 0.9f64.powi(step))) / ((v / (1.0 - 0.999f64.powi(step))).sqrt() + 1e-8);
        }
        value
    }

    #[test]
    fn a_restored_optimizer_goes_on_alike() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let tensor = |v: f32| Tensor::<2>::from_floats([[v, -v]], &device);
        let step = |optimizer: &mut Optimizer, g: f32| {
            tensor_values(&optimizer.stepped("p", tensor(1.0), tensor(g), &group(0.1, 0.0), 1.0)).unwrap()
        };
        let mut optimizer = Optimizer::new(OptimizerKind::Adam);
        step(&mut optimizer, 0.3);
        let mut restored = Optimizer::new(OptimizerKind::Adam);
        restored.load(&optimizer.state().unwrap(), &["p".into(), "q".into()], &device).unwrap();
        assert_eq!(step(&mut restored, -2.0), step(&mut optimizer, -2.0));
        assert_eq!(step_of(&step_parts(123_456_789)), Some(123_456_789));
    }
}
