use burn::tensor::{Tensor, activation};
use easyedit_core::nearest_name;

use crate::{Error, ModelConfig, Result, elementwise};

/// Names of activation functions in Hugging Face configurations.
const NAMES: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
];

/// An activation function between two projections of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x σ(x)`
    Silu,
    /// `x Φ(x)`, exactly.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// `x σ(1.702 x)`
    QuickGelu,
    /// `max(x, 0)`
    Relu,
}

impl Activation {
    /// The activation that `key` of a configuration names.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the name is unknown.
    pub(crate) fn of(config: &ModelConfig, key: &str, default: &str) -> Result<Self> {
        Self::named(config, key, config.text_or(key, default)?)
    }

    /// The activation called `name`, which stands under `key` of a configuration.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the name is unknown.
    pub(crate) fn named(config: &ModelConfig, key: &str, name: &str) -> Result<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation).ok_or_else(|| unknown(config, key, name))
    }

    /// Applies the function to every element.
    pub(crate) fn forward(self, x: Tensor<2>) -> Tensor<2> {
        let fused = match self {
            Self::Silu => elementwise::unary(&x, elementwise::silu),
            Self::GeluTanh => elementwise::unary(&x, elementwise::gelu_tanh),
            Self::QuickGelu => elementwise::unary(&x, elementwise::quick_gelu),
            Self::Gelu | Self::Relu => None,
        };
        fused.unwrap_or_else(|| self.composed(x))
    }

    /// The function of `gate`, times `up`: the middle of a gated MLP.
    pub(crate) fn gated(self, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
        let fused = match self {
            Self::Silu => elementwise::gated(&gate, &up, elementwise::silu),
            Self::GeluTanh => elementwise::gated(&gate, &up, elementwise::gelu_tanh),
            Self::QuickGelu => elementwise::gated(&gate, &up, elementwise::quick_gelu),
            Self::Gelu | Self::Relu => None,
        };
        fused.unwrap_or_else(|| self.composed(gate) * up)
    }

    /// The function by the backend's own operations.
    fn composed(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Silu => activation::silu(x),
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::QuickGelu => x.clone() * activation::sigmoid(x.mul_scalar(1.702)),
            Self::Relu => activation::relu(x),
        }
    }
}

fn unknown(config: &ModelConfig, key: &str, name: &str) -> Error {
    let names = NAMES.iter().map(|(known, _)| *known);
    let hint = nearest_name(name, names.clone()).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
    config.error(key, format!("is {name:?}, which is no known activation{hint} (known: {})", names.collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_match_the_definitions() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let at = |activation: Activation, x: f32| {
            activation.forward(Tensor::from_floats([[x]], &device)).into_data().try_to_vec::<f32>().unwrap()[0]
        };
        for x in [-3.0f32, -0.7, 0.0, 0.4, 2.5] {
            let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
            let tanh = 0.5 * x * (1.0 + ((2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
            assert!((at(Activation::Silu, x) - x * sigmoid(x)).abs() < 1e-6);
            assert!((at(Activation::QuickGelu, x) - x * sigmoid(1.702 * x)).abs() < 1e-6);
            assert!((at(Activation::GeluTanh, x) - tanh).abs() < 1e-6);
            assert!((at(Activation::Gelu, x) - tanh).abs() < 1e-3);
            assert_eq!(at(Activation::Relu, x), x.max(0.0));
        }
        assert!((at(Activation::Gelu, 1.0) - 0.841_344_8).abs() < 1e-5);
    }

    #[test]
    fn unknown_names_get_a_suggestion() {
        let config = ModelConfig::new(json!({"model_type": "gpt2", "act": "gelu_nev"}), "config.json").unwrap();
        let message = Activation::of(&config, "act", "silu").unwrap_err().to_string();
        assert!(message.contains("did you mean gelu_new"), "{message}");
        assert_eq!(Activation::of(&config, "absent", "silu").unwrap(), Activation::Silu);
    }
}
