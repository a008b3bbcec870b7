use easyedit_core::{Error, Matrix, Result, WeightDelta, WeightLayout};

/// The rank-one change after which the weight answers a key with a wanted value.
///
/// # Source
///
/// Meng et al., "Locating and Editing Factual Associations in GPT", equation 2.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Insertion {
    /// Unit vector along C⁻¹ k*: `[d_mlp]`.
    pub(crate) direction: Vec<f64>,
    /// What is added to the output per unit of the key along `direction`: `[d_model]`.
    pub(crate) residual: Vec<f64>,
    /// k · direction.
    pub(crate) key_along_direction: f64,
}

impl Insertion {
    /// The change that turns the output `output` for the key `key` into `target`, along `direction` (of any length).
    pub(crate) fn new(direction: &[f64], key: &[f64], output: &[f64], target: &[f64]) -> Result<Self> {
        let length = dot(direction, direction).sqrt();
        let direction: Vec<f64> = direction.iter().map(|d| d / length).collect();
        let key_along_direction = dot(key, &direction);
        let residual: Vec<f64> = target.iter().zip(output).map(|(t, o)| (t - o) / key_along_direction).collect();
        if !length.is_finite() || length == 0.0 || residual.iter().any(|r| !r.is_finite()) {
            return Err(Error::NotFinite(format!(
                "the key is orthogonal to the direction of the update (k · u = {key_along_direction}); the fact cannot be written at this token"
            )));
        }
        Ok(Self { direction, residual, key_along_direction })
    }

    /// The change of a weight stored in `layout`.
    pub(crate) fn delta(&self, layout: WeightLayout) -> WeightDelta {
        let narrow = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let (direction, residual) = (narrow(&self.direction), narrow(&self.residual));
        let (left, right) = match layout {
            WeightLayout::OutIn => (Matrix::column(residual), Matrix::row(direction)),
            WeightLayout::InOut => (Matrix::column(direction), Matrix::row(residual)),
        };
        WeightDelta::LowRank { left, right }
    }
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(matrix: &WeightDelta) -> Vec<f32> {
        let device = easyedit_core::device::select("cpu").unwrap();
        Matrix::from_tensor(&matrix.to_tensor(&device)).unwrap().values().to_vec()
    }

    #[test]
    fn the_changed_weight_answers_the_key_with_the_target() {
        // W = [[1, 0], [0, 1]] stored [out, in]; key (3, 4); target (1, -1).
        let (key, output, target) = ([3.0, 4.0], [3.0, 4.0], [1.0, -1.0]);
        let insertion = Insertion::new(&[2.0, 0.5], &key, &output, &target).unwrap();
        let delta = values(&insertion.delta(WeightLayout::OutIn));
        for out in 0..2 {
            let change = f64::from(delta[out * 2]) * key[0] + f64::from(delta[out * 2 + 1]) * key[1];
            assert!((output[out] + change - target[out]).abs() < 1e-5);
        }
        let transposed = values(&insertion.delta(WeightLayout::InOut));
        assert_eq!([delta[0], delta[1], delta[2], delta[3]], [transposed[0], transposed[2], transposed[1], transposed[3]]);
    }

    #[test]
    fn a_key_orthogonal_to_the_update_is_an_error() {
        assert!(Insertion::new(&[1.0, 0.0], &[0.0, 1.0], &[0.0], &[1.0]).is_err());
        assert!(Insertion::new(&[0.0, 0.0], &[0.0, 1.0], &[0.0], &[1.0]).is_err());
    }
}
