use easyedit_core::{Error, Matrix, Result, WeightDelta, WeightLayout};

/// The least change after which a weight stored in `layout` answers `key` with `residual` more than before: δ kᵀ / (kᵀ k).
///
/// # Shapes
///
/// `key: [d_mlp]`, `residual: [d_model]`; the change has rank one.
///
/// # Errors
///
/// [`Error::NotFinite`] if the key is zero, or a number is not finite.
pub(crate) fn least_change(key: &[f32], residual: &[f64], layout: WeightLayout) -> Result<WeightDelta> {
    let square: f64 = key.iter().map(|k| f64::from(*k).powi(2)).sum();
    let scaled: Vec<f32> = residual.iter().map(|r| (r / square) as f32).collect();
    let (key, scaled) = match layout {
        WeightLayout::OutIn => (Matrix::row(key.to_vec()), Matrix::column(scaled)),
        WeightLayout::InOut => (Matrix::column(key.to_vec()), Matrix::row(scaled)),
    };
    let delta = match layout {
        WeightLayout::OutIn => WeightDelta::LowRank { left: scaled, right: key },
        WeightLayout::InOut => WeightDelta::LowRank { left: key, right: scaled },
    };
    if delta.is_finite() {
        Ok(delta)
    } else {
        Err(Error::NotFinite("the key of the fact is zero; the fact cannot be written at this token".into()))
    }
}

#[cfg(test)]
mod tests {
    use easyedit_core::{device, tensor_values};

    use super::*;

    #[test]
    fn the_key_is_answered_with_the_residual_in_both_layouts() {
        let (key, residual) = ([3.0f32, 4.0, 0.0], [1.0, -2.0]);
        let values =
            |layout| tensor_values(&least_change(&key, &residual, layout).unwrap().to_tensor(&device::select("cpu").unwrap())).unwrap();
        let (out_in, in_out) = (values(WeightLayout::OutIn), values(WeightLayout::InOut));
        for out in 0..2 {
            let answer: f64 = (0..3).map(|i| f64::from(out_in[out * 3 + i] * key[i])).sum();
            assert!((answer - residual[out]).abs() < 1e-6);
            assert!((0..3).all(|i| out_in[out * 3 + i] == in_out[i * 2 + out]));
        }
        assert!(least_change(&[0.0; 3], &residual, WeightLayout::OutIn).is_err());
    }
}
