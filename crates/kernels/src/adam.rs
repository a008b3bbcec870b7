/// Adam on a vector in host memory, in f64.
///
/// # Source
///
/// Kingma and Ba, "Adam: A Method for Stochastic Optimization", algorithm 1; ε is added to the root of the corrected second moment, as
/// PyTorch does.
#[derive(Clone, Debug)]
pub(crate) struct Adam {
    lr: f64,
    betas: [f64; 2],
    epsilon: f64,
    step: i32,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Adam {
    pub(crate) fn new(size: usize, lr: f64, betas: [f64; 2], epsilon: f64) -> Self {
        Self { lr, betas, epsilon, step: 0, first: vec![0.0; size], second: vec![0.0; size] }
    }

    /// One descent step of `values` along `gradient`.
    pub(crate) fn step(&mut self, values: &mut [f64], gradient: &[f64]) {
        self.step += 1;
        let [b1, b2] = self.betas;
        let correction = [1.0 - b1.powi(self.step), 1.0 - b2.powi(self.step)];
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((value, g), (first, second)) in values.iter_mut().zip(gradient).zip(moments) {
            *first = b1 * *first + (1.0 - b1) * g;
            *second = b2 * *second + (1.0 - b2) * g * g;
            *value -= self.lr * (*first / correction[0]) / ((*second / correction[1]).sqrt() + self.epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_has_the_size_of_the_learning_rate() {
        let mut adam = Adam::new(2, 0.5, [0.9, 0.999], 1e-8);
        let mut values = [1.0, 1.0];
        adam.step(&mut values, &[3.0, -0.01]);
        assert!((values[0] - 0.5).abs() < 1e-6 && (values[1] - 1.5).abs() < 1e-5, "{values:?}");
    }

    #[test]
    fn two_steps_match_the_recurrence_by_hand() {
        let mut adam = Adam::new(1, 0.1, [0.9, 0.999], 0.0);
        let mut values = [0.0];
        adam.step(&mut values, &[1.0]);
        adam.step(&mut values, &[2.0]);
        let first: f64 = (0.9 * 0.1 + 0.1 * 2.0) / (1.0 - 0.81);
        let second: f64 = (0.999 * 0.001 + 0.001 * 4.0) / (1.0 - 0.999f64.powi(2));
        assert!((values[0] - (-0.1 - 0.1 * first / second.sqrt())).abs() < 1e-12);
    }
}
