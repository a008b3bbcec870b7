use burn::tensor::Tensor;

use crate::AdamConfig;

/// Adam on tensors that stay on their device. Weight decay is added to the gradient, as `torch.optim.Adam` does it (beside
/// [`Adam`](crate::Adam), which takes it off the value).
///
/// # Source
///
/// Kingma and Ba, "Adam: A Method for Stochastic Optimization", algorithm 1; ε is added to the root of the corrected second moment.
#[derive(Clone, Debug)]
pub struct TensorAdam {
    config: AdamConfig,
    moments: Vec<Option<Moments>>,
}

#[derive(Clone, Debug)]
struct Moments {
    step: i32,
    first: Tensor<2>,
    second: Tensor<2>,
}

impl TensorAdam {
    /// For `count` tensors, which have no state before their first step.
    pub fn new(count: usize, config: AdamConfig) -> Self {
        Self { config, moments: vec![None; count] }
    }

    /// What to add to tensor number `index`, which is `value` now, for one descent step along `gradient`: all of one shape, on a plain
    /// device. `None` if there is no such number.
    pub fn change(&mut self, index: usize, value: &Tensor<2>, gradient: Tensor<2>) -> Option<Tensor<2>> {
        let AdamConfig { lr, betas: [b1, b2], epsilon, weight_decay } = self.config;
        let state = self.moments.get_mut(index)?;
        let gradient = if weight_decay == 0.0 { gradient } else { gradient + value.clone() * weight_decay };
        let (first, second) = (gradient.clone() * (1.0 - b1), gradient.clone() * gradient * (1.0 - b2));
        let moments = match state.take() {
            Some(Moments { step, first: m, second: v }) => Moments { step: step + 1, first: m * b1 + first, second: v * b2 + second },
            None => Moments { step: 1, first, second },
        };
        let correction = [1.0 - b1.powi(moments.step), 1.0 - b2.powi(moments.step)];
        let root = (moments.second.clone() / correction[1]).sqrt() + epsilon;
        let change = moments.first.clone() * (-lr / correction[0]) / root;
        *state = Some(moments);
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Adam;

    #[test]
    fn it_steps_as_adam_on_a_vector_does() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let config = AdamConfig { lr: 0.1, betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.0 };
        let (mut ours, mut plain) = (TensorAdam::new(1, config), Adam::new(3, config));
        let mut values = [0.5, -1.0, 2.0];
        let mut tensor = Tensor::<2>::from_floats([[0.5, -1.0, 2.0]], &device);
        for gradient in [[1.0, -0.2, 0.0], [0.3, 0.4, -2.0], [-1.0, 0.0, 0.1]] {
            plain.step(&mut values, &gradient);
            let gradient = Tensor::<2>::from_floats([gradient.map(|g| g as f32)], &device);
            tensor = tensor.clone() + ours.change(0, &tensor, gradient).unwrap();
        }
        let got = easyedit_core::tensor_values(&tensor).unwrap();
        assert!(got.iter().zip(values).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-5), "{got:?} {values:?}");
        assert!(ours.change(1, &tensor, tensor.clone()).is_none());
    }

    #[test]
    fn weight_decay_enters_the_gradient() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let config = AdamConfig { lr: 0.1, betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.01 };
        let value = Tensor::<2>::from_floats([[3.0, -3.0]], &device);
        let change = TensorAdam::new(1, config).change(0, &value, value.zeros_like()).unwrap();
        // The first step has the size of the learning rate, whatever the gradient's.
        let got = easyedit_core::tensor_values(&change).unwrap();
        assert!((got[0] + 0.1).abs() < 1e-6 && (got[1] - 0.1).abs() < 1e-6, "{got:?}");
    }
}
