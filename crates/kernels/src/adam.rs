use serde::{Deserialize, Serialize};

/// Settings of [`Adam`] and [`TensorAdam`](crate::TensorAdam).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamConfig {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the corrected second moment.
    pub epsilon: f64,
    /// Weight decay, 0 for plain Adam; the optimisers differ in where it enters.
    pub weight_decay: f64,
}

/// Adam on a vector in host memory, in f64, with decoupled weight decay.
///
/// # Source
///
/// Kingma and Ba, "Adam: A Method for Stochastic Optimization", algorithm 1; ε is added to the root of the corrected second moment, as
/// PyTorch does. A share of the value, times the learning rate, is taken off in each step, as in Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2.
#[derive(Clone, Debug)]
pub struct Adam {
    config: AdamConfig,
    step: i32,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Adam {
    /// For a vector of `size` values.
    pub fn new(size: usize, config: AdamConfig) -> Self {
        Self { config, step: 0, first: vec![0.0; size], second: vec![0.0; size] }
    }

    /// Changes the learning rate of the steps to come.
    pub fn set_lr(&mut self, lr: f64) {
        self.config.lr = lr;
    }

    /// One descent step of `values` along `gradient`.
    pub fn step(&mut self, values: &mut [f64], gradient: &[f64]) {
        self.step += 1;
        let AdamConfig { lr, betas: [b1, b2], epsilon, weight_decay } = self.config;
        let correction = [1.0 - b1.powi(self.step), 1.0 - b2.powi(self.step)];
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((value, g), (first, second)) in values.iter_mut().zip(gradient).zip(moments) {
            *first = b1 * *first + (1.0 - b1) * g;
            *second = b2 * *second + (1.0 - b2) * g * g;
            *value -= lr * ((*first / correction[0]) / ((*second / correction[1]).sqrt() + epsilon) + weight_decay * *value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adam(size: usize, lr: f64, epsilon: f64, weight_decay: f64) -> Adam {
        Adam::new(size, AdamConfig { lr, betas: [0.9, 0.999], epsilon, weight_decay })
    }

    #[test]
    fn the_first_step_has_the_size_of_the_learning_rate() {
        let mut adam = adam(2, 0.5, 1e-8, 0.0);
        let mut values = [1.0, 1.0];
        adam.step(&mut values, &[3.0, -0.01]);
        assert!((values[0] - 0.5).abs() < 1e-6 && (values[1] - 1.5).abs() < 1e-5, "{values:?}");
    }

    #[test]
    fn two_steps_match_the_recurrence_by_hand() {
        let mut adam = adam(1, 0.1, 0.0, 0.0);
        let mut values = [0.0];
        adam.step(&mut values, &[1.0]);
        adam.step(&mut values, &[2.0]);
        let first: f64 = (0.9 * 0.1 + 0.1 * 2.0) / (1.0 - 0.81);
        let second: f64 = (0.999 * 0.001 + 0.001 * 4.0) / (1.0 - 0.999f64.powi(2));
        assert!((values[0] - (-0.1 - 0.1 * first / second.sqrt())).abs() < 1e-12);
    }

    #[test]
    fn weight_decay_acts_beside_the_gradient() {
        let mut adam = adam(1, 0.1, 1e-8, 0.5);
        let mut values = [2.0];
        adam.step(&mut values, &[0.0]);
        assert!((values[0] - (2.0 - 0.1 * 0.5 * 2.0)).abs() < 1e-12);
    }
}
