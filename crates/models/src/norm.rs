use burn::tensor::{Device, Tensor, TensorData};
use easyedit_core::{NormRole, ParameterRole, row_norm};

use crate::Result;
use crate::loader::Scope;
use crate::parameters::{ParamMut, ParamRef, Parameters, join, parameters};

/// The kind of a family's norms.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NormKind {
    Layer {
        epsilon: f64,
        /// Whether it has a weight and a bias.
        affine: bool,
    },
    Rms {
        epsilon: f64,
    },
}

impl NormKind {
    /// Loads the norm called `name` of activations of this width.
    pub(crate) fn load(self, scope: &Scope<'_>, name: &str, width: usize, role: NormRole) -> Result<Norm> {
        Ok(match self {
            Self::Layer { epsilon, affine: true } => Norm::Layer(Box::new(LayerNorm::load(scope, name, width, epsilon, role)?)),
            Self::Layer { epsilon, affine: false } => Norm::Layer(Box::new(LayerNorm::without_parameters(scope.device(), width, epsilon))),
            Self::Rms { epsilon } => Norm::Rms(Box::new(RmsNorm::load(scope, name, width, epsilon, role)?)),
        })
    }
}

/// A norm of either kind.
#[derive(Clone, Debug)]
pub(crate) enum Norm {
    Layer(Box<LayerNorm>),
    Rms(Box<RmsNorm>),
}

impl Norm {
    /// Normalises each row of `x: [tokens, width]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }
}

impl Parameters for Norm {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        match self {
            Self::Layer(norm) => norm.visit(path, see),
            Self::Rms(norm) => norm.visit(path, see),
        }
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        match self {
            Self::Layer(norm) => norm.visit_mut(path, see),
            Self::Rms(norm) => norm.visit_mut(path, see),
        }
    }
}

/// Root-mean-square norm: `x / sqrt(mean(x²) + ε) · w`.
///
/// # Source
///
/// Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
#[derive(Clone, Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor<1>,
    epsilon: f64,
    mean: Mean,
}

parameters!(RmsNorm { "weight" => weight });

impl RmsNorm {
    fn load(scope: &Scope<'_>, name: &str, width: usize, epsilon: f64, role: NormRole) -> Result<Self> {
        let weight = scope.vector(&join(name, "weight"), width, ParameterRole::NormWeight(role))?;
        let mean = Mean::new(width, &weight.device());
        Ok(Self { weight, epsilon, mean })
    }

    /// Normalises each row of `x: [tokens, width]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let norm = easyedit_core::Norm { weight: Some(&self.weight), bias: None, epsilon: self.epsilon, is_centred: false };
        row_norm(&x, norm).unwrap_or_else(|| self.composed(x))
    }

    /// The norm by the backend's operations.
    fn composed(&self, x: Tensor<2>) -> Tensor<2> {
        let scale = self.mean.of(x.clone() * x.clone()).add_scalar(self.epsilon).sqrt().recip();
        x * scale * self.weight.clone().unsqueeze()
    }
}

/// Layer norm: `(x - mean(x)) / sqrt(var(x) + ε) · w + b`.
///
/// # Source
///
/// Ba, Kiros and Hinton, "Layer Normalization", 2016.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    /// `w` and `b`; without them, 1 and 0.
    weight: Option<Tensor<1>>,
    bias: Option<Tensor<1>>,
    epsilon: f64,
    mean: Mean,
}

parameters!(LayerNorm { "weight" => weight, "bias" => bias });

impl LayerNorm {
    fn load(scope: &Scope<'_>, name: &str, width: usize, epsilon: f64, role: NormRole) -> Result<Self> {
        let weight = scope.vector(&join(name, "weight"), width, ParameterRole::NormWeight(role))?;
        let bias = scope.vector(&join(name, "bias"), width, ParameterRole::NormBias(role))?;
        Ok(Self { weight: Some(weight), bias: Some(bias), ..Self::without_parameters(scope.device(), width, epsilon) })
    }

    /// A norm that has neither weight nor bias.
    fn without_parameters(device: &Device, width: usize, epsilon: f64) -> Self {
        Self { weight: None, bias: None, epsilon, mean: Mean::new(width, device) }
    }

    /// Normalises each row of `x: [tokens, width]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let norm = easyedit_core::Norm { weight: self.weight.as_ref(), bias: self.bias.as_ref(), epsilon: self.epsilon, is_centred: true };
        row_norm(&x, norm).unwrap_or_else(|| self.composed(x))
    }

    /// The norm by the backend's operations.
    fn composed(&self, x: Tensor<2>) -> Tensor<2> {
        let centred = x.clone() - self.mean.of(x);
        let scale = self.mean.of(centred.clone() * centred.clone()).add_scalar(self.epsilon).sqrt().recip();
        let normed = centred * scale;
        let weighted = if let Some(weight) = &self.weight { normed * weight.clone().unsqueeze() } else { normed };
        if let Some(bias) = &self.bias { weighted + bias.clone().unsqueeze() } else { weighted }
    }
}

/// The mean of each row as a product with a column of `1/width`: its gradient is one product too, where that of a reduction is
/// several passes over the activations.
#[derive(Clone, Debug)]
struct Mean(Tensor<2>);

impl Mean {
    fn new(width: usize, device: &Device) -> Self {
        Self(Tensor::from_data(TensorData::new(vec![1.0 / width as f32; width], [width, 1]), device))
    }

    /// `[tokens, width]` -> `[tokens, 1]`
    fn of(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: Tensor<2>, want: &[f32]) {
        let got = got.into_data().try_to_vec::<f32>().unwrap();
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 1e-5, "{got:?} is not {want:?}");
        }
    }

    #[test]
    fn norms_match_their_formulas() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let x = Tensor::<2>::from_floats([[3.0, 4.0], [0.0, 2.0]], &device);
        let weight = Tensor::<1>::from_floats([1.0, 2.0], &device);
        let mean = Mean::new(2, &device);
        let rms = RmsNorm { weight: weight.clone(), epsilon: 0.0, mean: mean.clone() };
        let root = 12.5f32.sqrt();
        for normed in [rms.forward(x.clone()), rms.composed(x.clone())] {
            close(normed, &[3.0 / root, 8.0 / root, 0.0, 4.0 / 2f32.sqrt()]);
        }
        let bias = Tensor::from_floats([0.5, 0.0], &device);
        let layer = LayerNorm { weight: Some(weight), bias: Some(bias), epsilon: 0.0, mean };
        for normed in [layer.forward(x.clone()), layer.composed(x.clone())] {
            close(normed, &[-0.5, 2.0, -0.5, 2.0]);
        }
        close(LayerNorm::without_parameters(&device, 2, 0.0).forward(x), &[-1.0, 1.0, -1.0, 1.0]);
    }
}
