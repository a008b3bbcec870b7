use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use easyedit_core::{Error, Result, tensor_values};

/// What predictions say of the tokens they should be, with the way back in closed form: softmax minus target, so that nothing of the
/// vocabulary's size has to be kept for a backward pass.
#[derive(Clone, Debug)]
pub struct TargetLikelihood {
    /// Log-probability of each target.
    pub log_probs: Vec<f32>,
    /// Whether each target is the most probable token.
    pub predicted: Vec<bool>,
    /// Derivative of the weighted sum of negative log-probabilities by the logits: `[positions, vocabulary]`.
    pub slope: Tensor<2>,
}

/// The loss of predicting `ids`, one per row of `log_probs: [positions, vocabulary]`, each with its weight. The log-probabilities carry no
/// gradients.
///
/// # Errors
///
/// [`Error::Batch`] if there are not as many ids and weights as rows, or the device fails.
pub fn target_likelihood(log_probs: &Tensor<2>, ids: &[u32], weights: &[f32]) -> Result<TargetLikelihood> {
    let [count, _] = log_probs.dims();
    if ids.len() != count || weights.len() != count {
        return Err(Error::Batch(format!("{count} predictions do not fit {} targets with {} weights", ids.len(), weights.len())));
    }
    let device = log_probs.device();
    let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [count, 1]), &device);
    let weights = Tensor::<2>::from_data(TensorData::new(weights.to_vec(), [count, 1]), &device);
    let of_targets = tensor_values(&log_probs.clone().gather(1, ids.clone()))?;
    let best = tensor_values(&log_probs.clone().max_dim(1))?;
    let predicted = of_targets.iter().zip(best).map(|(target, best)| *target >= best).collect();
    let slope = (log_probs.clone().exp() * weights.clone()).scatter(1, ids, -weights, IndexingUpdateOp::Add);
    Ok(TargetLikelihood { log_probs: of_targets, predicted, slope })
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation;

    use super::*;

    #[test]
    fn the_slope_is_that_of_the_weighted_loss() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let logits = Tensor::<2>::from_floats([[1.0, -0.5, 0.3], [0.2, 2.0, -1.0]], &device);
        let loss = |logits: Tensor<2>| target_likelihood(&activation::log_softmax(logits, 1), &[2, 1], &[0.5, 2.0]).unwrap();
        let at = loss(logits.clone());
        assert_eq!(at.predicted, [false, true]);
        let value = |loss: &TargetLikelihood| -0.5 * loss.log_probs[0] - 2.0 * loss.log_probs[1];
        let slope = tensor_values(&at.slope).unwrap();
        for place in 0..6 {
            let mut step = [[0f32; 3]; 2];
            step[place / 3][place % 3] = 1e-2;
            let step = Tensor::<2>::from_floats(step, &device);
            let numeric = (value(&loss(logits.clone() + step.clone())) - value(&loss(logits.clone() - step))) / 2e-2;
            assert!((numeric - slope[place]).abs() < 1e-3, "{place}: {numeric} and {}", slope[place]);
        }
        assert!(target_likelihood(&logits, &[1], &[1.0]).unwrap_err().to_string().contains("2 predictions"));
    }
}
