use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use easyedit_core::{HostTensor, Result, tensor_values};

/// The sum of the gradients of some iterations.
#[derive(Clone, Debug, Default)]
pub(crate) struct GradientSum {
    sums: BTreeMap<String, Tensor<2>>,
}

impl GradientSum {
    /// Adds gradients times `share`; `false`, and nothing is added, if one of them is not finite.
    pub(crate) fn add(&mut self, gradients: BTreeMap<String, Tensor<2>>, share: f64) -> Result<bool> {
        if !joint_norm(gradients.values())?.is_finite() {
            return Ok(false);
        }
        for (name, gradient) in gradients {
            let gradient = gradient * share;
            let sum = match self.sums.remove(&name) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            self.sums.insert(name, sum);
        }
        Ok(true)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Takes the sums out, scaled down to the joint norm `most`, and the joint norm that they had.
    pub(crate) fn take_clipped(&mut self, most: f64) -> Result<(BTreeMap<String, Tensor<2>>, f64)> {
        let sums = std::mem::take(&mut self.sums);
        let norm = joint_norm(sums.values())?;
        // As `torch.nn.utils.clip_grad_norm_` has it.
        let factor = most / (norm + 1e-6);
        let clipped = sums.into_iter().map(|(name, sum)| (name, if factor < 1.0 { sum * factor } else { sum }));
        Ok((clipped.collect(), norm))
    }

    /// The sums by names that begin with `gradient.`.
    pub(crate) fn state(&self) -> Result<BTreeMap<String, HostTensor>> {
        self.sums.iter().map(|(name, sum)| Ok((format!("gradient.{name}"), HostTensor::from_matrix(sum)?))).collect()
    }

    /// Takes over what [`state`](Self::state) has given.
    pub(crate) fn load(&mut self, state: &BTreeMap<String, HostTensor>, names: &[String], device: &Device) -> Result<()> {
        self.sums.clear();
        for name in names {
            let key = format!("gradient.{name}");
            if let Some(sum) = state.get(&key) {
                self.sums.insert(name.clone(), sum.to_matrix(&key, device)?);
            }
        }
        Ok(())
    }
}

/// Root of the sum of all squares, in f64.
fn joint_norm<'a>(gradients: impl Iterator<Item = &'a Tensor<2>>) -> Result<f64> {
    let mut sum = 0f64;
    for gradient in gradients {
        // Rows first: a sum of few numbers in f32, and the rest in f64.
        let rows = tensor_values(&(gradient.clone() * gradient.clone()).sum_dim(1))?;
        sum += rows.iter().map(|row| f64::from(*row)).sum::<f64>();
    }
    Ok(sum.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_averaged_clipped_and_skipped() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let gradients = |a: f32, b: f32| {
            BTreeMap::from([
                ("a".to_owned(), Tensor::<2>::from_floats([[a]], &device)),
                ("b".to_owned(), Tensor::<2>::from_floats([[b]], &device)),
            ])
        };
        let mut sum = GradientSum::default();
        assert!(sum.add(gradients(4.0, 0.0), 0.5).unwrap());
        assert!(!sum.add(gradients(1.0, f32::NAN), 0.5).unwrap());
        assert!(sum.add(gradients(2.0, 8.0), 0.5).unwrap());
        let mut again = GradientSum::default();
        again.load(&sum.state().unwrap(), &["a".into(), "b".into()], &device).unwrap();
        for (mut sum, most, want) in [(sum, 10.0, [3.0, 4.0]), (again, 1.0, [0.6, 0.8])] {
            let (clipped, norm) = sum.take_clipped(most).unwrap();
            assert_eq!(norm, 5.0);
            let got: Vec<f32> = clipped.values().map(|g| tensor_values(g).unwrap()[0]).collect();
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{got:?}");
            assert!(sum.is_empty());
        }
    }
}
