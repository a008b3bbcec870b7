use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;

use crate::config::positive;
use crate::{ModelConfig, Result};

/// Widest head that is believed.
const MAX_HEAD_DIM: usize = 4096;

/// Which dimensions of a head are rotated against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// Each of the first half with its counterpart of the second (LLaMA, GPT-NeoX).
    Halves,
    /// Each with its neighbour (GPT-J, ChatGLM2).
    Neighbours,
}

/// What of a head is rotated, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RotaryShape {
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// How many of its dimensions are rotated, the first ones; the others pass through.
    pub(crate) rotated: usize,
    pub(crate) pairing: Pairing,
    /// Key of the configuration that holds the base of the frequencies; 10,000 if it is absent.
    pub(crate) theta_key: &'static str,
}

impl RotaryShape {
    /// A head rotated as a whole, in halves.
    pub(crate) fn whole(head_dim: usize) -> Self {
        Self { head_dim, rotated: head_dim, pairing: Pairing::Halves, theta_key: "rope_theta" }
    }
}

/// Rotary position embedding.
///
/// # Source
///
/// Su et al., "RoFormer", 2021; the `llama3` scaling is that of Llama 3.1's reference code.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    shape: RotaryShape,
    /// Angle per position of each pair of a head's rotated dimensions.
    frequencies: Vec<f64>,
    /// `[head_dim, head_dim]`: what a product with it turns a pair `(x1, x2)` into is `(-x2, x1)`.
    quarter_turn: Tensor<2>,
}

impl Rotary {
    /// The embedding a configuration describes (`rope_theta`, and `rope_scaling` or the newer `rope_parameters`).
    ///
    /// # Errors
    ///
    /// [`Error::Format`](crate::Error::Format) if the head size is odd or absurd, or the scaling is of an unknown kind or lacks a number.
    pub(crate) fn of(config: &ModelConfig, shape: &RotaryShape, device: &Device) -> Result<Self> {
        let RotaryShape { head_dim, rotated, pairing, theta_key } = *shape;
        if head_dim > MAX_HEAD_DIM {
            return Err(config.error("head_dim", format!("is {head_dim}; heads of at most {MAX_HEAD_DIM} dimensions are believed")));
        }
        if !rotated.is_multiple_of(2) || rotated > head_dim || rotated == 0 {
            let message =
                format!("is {head_dim} and {rotated} dimensions of a head are rotated; rotary positions need an even number of them");
            return Err(config.error("head_dim", message));
        }
        let (key, scaling) = match (config.get("rope_scaling"), config.get("rope_parameters")) {
            (None, Some(parameters)) => ("rope_parameters", Some(parameters)),
            (scaling, _) => ("rope_scaling", scaling),
        };
        let theta = match scaling.and_then(|s| s.get("rope_theta")) {
            Some(theta) => positive(Some(theta), 0.0).ok_or_else(|| config.error(key, "has a rope_theta that is not a positive number"))?,
            None => config.positive_or(theta_key, 10_000.0)?,
        };
        let mut frequencies: Vec<f64> = (0..rotated / 2).map(|pair| theta.powf(-2.0 * pair as f64 / rotated as f64)).collect();
        if let Some(scaling) = scaling {
            scale(config, key, scaling, &mut frequencies)?;
        }
        let mut turn = vec![0f32; head_dim * head_dim];
        for pair in 0..rotated / 2 {
            let (first, second) = match pairing {
                Pairing::Halves => (pair, pair + rotated / 2),
                Pairing::Neighbours => (2 * pair, 2 * pair + 1),
            };
            turn[second * head_dim + first] = -1.0;
            turn[first * head_dim + second] = 1.0;
        }
        let quarter_turn = Tensor::from_data(TensorData::new(turn, [head_dim, head_dim]), device);
        Ok(Self { shape: *shape, frequencies, quarter_turn })
    }

    /// The rotations for tokens at `positions`; what is rotated is multiplied by `factor` as well (the scale of attention scores,
    /// which so costs no pass of its own).
    pub(crate) fn at(&self, positions: &[usize], factor: f64) -> Rotation {
        let RotaryShape { head_dim, rotated, pairing, .. } = self.shape;
        let mut cos = Vec::with_capacity(positions.len() * head_dim);
        let mut sin = Vec::with_capacity(positions.len() * head_dim);
        for position in positions {
            for dim in 0..head_dim {
                let angle = match pairing {
                    _ if dim >= rotated => 0.0,
                    Pairing::Halves => *position as f64 * self.frequencies[dim % (rotated / 2)],
                    Pairing::Neighbours => *position as f64 * self.frequencies[dim / 2],
                };
                cos.push((angle.cos() * factor) as f32);
                sin.push((angle.sin() * factor) as f32);
            }
        }
        let device = self.quarter_turn.device();
        let table = |values| Tensor::from_data(TensorData::new(values, [positions.len(), 1, head_dim]), &device);
        Rotation { cos: table(cos), sin: table(sin), quarter_turn: self.quarter_turn.clone() }
    }

    /// The rotations for the queries, with the scale of the scores, and for the keys of tokens at `positions`.
    pub(crate) fn for_attention(&self, positions: &[usize], scale: f64) -> Rotations {
        Rotations { query: self.at(positions, scale), key: self.at(positions, 1.0) }
    }
}

/// Rotations of queries (with the scale of the scores) and of keys.
pub(crate) struct Rotations {
    pub(crate) query: Rotation,
    pub(crate) key: Rotation,
}

/// The rotations of the tokens of one pass.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    cos: Tensor<3>,
    sin: Tensor<3>,
    quarter_turn: Tensor<2>,
}

impl Rotation {
    /// Rotates every head of `x: [tokens, heads * head_dim]`.
    pub(crate) fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        let [tokens, width] = x.dims();
        let [_, _, head_dim] = self.cos.dims();
        let heads = width / head_dim;
        // The quarter turn as a product: one operation, and one for its gradient, where slicing and joining take several.
        let turned = x.clone().reshape([tokens * heads, head_dim]).matmul(self.quarter_turn.clone());
        let turned = turned.reshape([tokens, heads, head_dim]) * self.sin.clone();
        (x.reshape([tokens, heads, head_dim]) * self.cos.clone() + turned).reshape([tokens, width])
    }
}

fn scale(config: &ModelConfig, key: &str, scaling: &Value, frequencies: &mut [f64]) -> Result<()> {
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str);
    let number = |name: &str| {
        let value = scaling.get(name).ok_or_else(|| config.error(key, format!("lacks {name}")))?;
        positive(Some(value), 0.0).ok_or_else(|| config.error(key, format!("has {name} {value}, which is not a positive number")))
    };
    match kind {
        Some("default") => {}
        Some("linear") => {
            let factor = number("factor")?;
            frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
        }
        Some("llama3") => {
            let factor = number("factor")?;
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            let context = number("original_max_position_embeddings")?;
            if high <= low {
                return Err(config.error(key, format!("has high_freq_factor {high}, which must be above low_freq_factor {low}")));
            }
            for frequency in frequencies {
                // How often the pair turns within the context the model was first trained on.
                let turns = context * *frequency / std::f64::consts::TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                *frequency *= kept + (1.0 - kept) / factor;
            }
        }
        Some(other) => {
            return Err(config.error(key, format!("is of the kind {other:?}; known are default, linear and llama3")));
        }
        None => return Err(config.error(key, "has no rope_type; known are default, linear and llama3")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rotary(scaling: Value) -> Result<Rotary> {
        let device = easyedit_core::device::select("cpu").unwrap();
        let config = ModelConfig::new(json!({"model_type": "llama", "rope_theta": 100.0, "rope_scaling": scaling}), "config.json")?;
        Rotary::of(&config, &RotaryShape::whole(4), &device)
    }

    #[test]
    fn halves_turn_against_each_other() {
        let rotary = rotary(Value::Null).unwrap();
        let x = Tensor::<2>::from_floats([[1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 0.0, 0.0]], &rotary.quarter_turn.device());
        let y = rotary.at(&[3], 2.0).apply(x).into_data().try_to_vec::<f32>().unwrap();
        // Frequencies are 1 and 1/10.
        let (c, s, c2, s2) = (3f32.cos(), 3f32.sin(), 0.3f32.cos(), 0.3f32.sin());
        let want = [c - 3.0 * s, 2.0 * c2 - 4.0 * s2, 3.0 * c + s, 4.0 * c2 + 2.0 * s2, c, 0.0, s, 0.0];
        for (got, want) in y.iter().zip(want) {
            assert!((got - 2.0 * want).abs() < 1e-5, "{y:?}");
        }
    }

    #[test]
    fn neighbours_turn_against_each_other_and_the_rest_of_a_head_passes() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let config = ModelConfig::new(json!({"model_type": "gptj", "base": 100.0}), "config.json").unwrap();
        let shape = RotaryShape { head_dim: 6, rotated: 4, pairing: Pairing::Neighbours, theta_key: "base" };
        let x = Tensor::<2>::from_floats([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], &device);
        let y = Rotary::of(&config, &shape, &device).unwrap().at(&[3], 1.0).apply(x).into_data().try_to_vec::<f32>().unwrap();
        let (c, s, c2, s2) = (3f32.cos(), 3f32.sin(), 0.3f32.cos(), 0.3f32.sin());
        let want = [c - 2.0 * s, 2.0 * c + s, 3.0 * c2 - 4.0 * s2, 4.0 * c2 + 3.0 * s2, 5.0, 6.0];
        for (got, want) in y.iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{y:?}");
        }
        for rotated in [0, 3, 8] {
            assert!(Rotary::of(&config, &RotaryShape { rotated, ..shape }, &device).is_err());
        }
    }

    #[test]
    fn scalings_change_the_frequencies() {
        assert_eq!(rotary(json!({"type": "linear", "factor": 4.0})).unwrap().frequencies, [0.25, 0.025]);
        assert_eq!(rotary(json!({"rope_type": "default"})).unwrap().frequencies, [1.0, 0.1]);
        let llama3 = |context: f64| {
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": context})
        };
        // With a context of 8π the pairs turn 4 and 0.4 times: the first is kept, the second slowed by the whole factor.
        let context = 8.0 * std::f64::consts::PI;
        let got = rotary(llama3(context)).unwrap().frequencies;
        assert!((got[0] - 1.0).abs() < 1e-12 && (got[1] - 0.1 / 8.0).abs() < 1e-12, "{got:?}");
        // 2.5 turns are half way between 1 and 4.
        let got = rotary(llama3(5.0 * std::f64::consts::PI)).unwrap().frequencies;
        assert!((got[0] - (0.5 + 0.5 / 8.0)).abs() < 1e-12, "{got:?}");
    }

    #[test]
    fn unknown_or_incomplete_scalings_are_errors() {
        for bad in
            [json!({"rope_type": "yarn", "factor": 2.0}), json!({"rope_type": "linear"}), json!({}), json!({"type": "linear", "factor": 0})]
        {
            let message = rotary(bad).unwrap_err().to_string();
            assert!(message.contains("rope_scaling"), "{message}");
        }
    }
}
