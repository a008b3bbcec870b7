use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use easyedit_core::{Error, HostTensor, Result};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::{Init, MendHparams};

/// One layer of the network: `z + max(0, (U V z + b) ⊙ scale + shift)`, of low rank and as wide as its input.
///
/// U is zero at the start, so the argument of the maximum is exactly 0 everywhere: the maximum must have the gradient 1 there, or U never
/// leaves 0. `clamp_min` has, a rectifier has not.
///
/// # Source
///
/// Mitchell et al. 2022, equation 3 and appendix D.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// U: `[width, rank]`.
    u: Tensor<2>,
    /// V: `[rank, width]`.
    v: Tensor<2>,
    /// b: `[1, width]`.
    bias: Tensor<2>,
    /// Of a network that several weights share: shift and scale of each, `[weights, width]`.
    modes: Option<[Tensor<2>; 2]>,
    /// Whether the input is added to the output.
    is_residual: bool,
}

/// Layers one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Mlp {
    layers: Vec<Layer>,
}

/// How the two factors of a gradient are transformed.
#[derive(Clone, Debug)]
pub(crate) enum Transform {
    /// Both by one network, side by side.
    Joint(Mlp),
    /// Each by its own, or not at all.
    Separate { x: Option<Mlp>, delta: Option<Mlp> },
}

/// Shape of a transform: widths `[in, out]` of its weights, and how many weights share it (`None` if each has its own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransformShape {
    pub(crate) widths: [usize; 2],
    pub(crate) modes: Option<usize>,
}

impl Layer {
    fn new(width: usize, modes: Option<usize>, hparams: &MendHparams, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let rank = hparams.rank.min(width);
        let (u, v) = match hparams.init {
            Init::Id => (Tensor::zeros([width, rank], device), normal([rank, width], rng, device)),
            // Glorot's uniform distribution, with the gain √2 of a rectifier in front of one.
            Init::Xavier => {
                let bound = |gain: f64| gain * (6.0 / (width + rank) as f64).sqrt();
                (uniform([width, rank], bound(2f64.sqrt()), rng, device), uniform([rank, width], bound(1.0), rng, device))
            }
        };
        let modes = modes.map(|count| [Tensor::zeros([count, width], device), Tensor::ones([count, width], device)]);
        Self { u, v, bias: Tensor::zeros([1, width], device), modes, is_residual: hparams.init == Init::Id }
    }

    fn forward(&self, z: Tensor<2>, mode: usize) -> Tensor<2> {
        let product = z.clone().matmul(self.v.clone().transpose()).matmul(self.u.clone().transpose()) + self.bias.clone();
        let product = match &self.modes {
            Some([shift, scale]) => product * scale.clone().narrow(0, mode, 1) + shift.clone().narrow(0, mode, 1),
            None => product,
        };
        let activated = product.clamp_min(0.0);
        if self.is_residual { activated + z } else { activated }
    }

    fn parts(&self) -> Vec<(&'static str, &Tensor<2>)> {
        let mut parts = vec![("u", &self.u), ("v", &self.v), ("bias", &self.bias)];
        if let Some([shift, scale]) = &self.modes {
            parts.extend([("mode_shift.weight", shift), ("mode_scale.weight", scale)]);
        }
        parts
    }

    fn parts_mut(&mut self) -> Vec<(&'static str, &mut Tensor<2>)> {
        let mut parts = vec![("u", &mut self.u), ("v", &mut self.v), ("bias", &mut self.bias)];
        if let Some([shift, scale]) = &mut self.modes {
            parts.extend([("mode_shift.weight", shift), ("mode_scale.weight", scale)]);
        }
        parts
    }
}

impl Mlp {
    fn new(width: usize, modes: Option<usize>, hparams: &MendHparams, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        Self { layers: (0..=hparams.n_hidden).map(|_| Layer::new(width, modes, hparams, rng, device)).collect() }
    }

    fn forward(&self, z: Tensor<2>, mode: usize) -> Tensor<2> {
        self.layers.iter().fold(z, |z, layer| layer.forward(z, mode))
    }
}

impl Transform {
    /// A transform as `hparams` want it; that of `init: id` returns its input.
    pub(crate) fn new(shape: TransformShape, hparams: &MendHparams, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let TransformShape { widths: [d_in, d_out], modes } = shape;
        if hparams.combine {
            return Self::Joint(Mlp::new(d_in + d_out, modes, hparams, rng, device));
        }
        let (wants_x, wants_delta) = match (hparams.one_sided, hparams.x_only, hparams.delta_only) {
            // The narrower side is transformed.
            (true, ..) => (d_in <= d_out, d_in > d_out),
            (_, true, _) => (true, false),
            (_, _, true) => (false, true),
            _ => (true, true),
        };
        let x = wants_x.then(|| Mlp::new(d_in, modes, hparams, rng, device));
        let delta = wants_delta.then(|| Mlp::new(d_out, modes, hparams, rng, device));
        Self::Separate { x, delta }
    }

    /// The transformed factors of the weight that has the place `mode` among those that share the transform.
    ///
    /// # Shapes
    ///
    /// `x: [tokens, in]`, `delta: [tokens, out]`; so are the results.
    pub(crate) fn forward(&self, x: Tensor<2>, delta: Tensor<2>, mode: usize) -> [Tensor<2>; 2] {
        match self {
            Self::Joint(mlp) => {
                let [d_in, d_out] = [x.dims()[1], delta.dims()[1]];
                let z = mlp.forward(Tensor::cat(vec![x, delta], 1), mode);
                [z.clone().narrow(1, 0, d_in), z.narrow(1, d_in, d_out)]
            }
            Self::Separate { x: x_net, delta: delta_net } => {
                let through = |net: &Option<Mlp>, z: Tensor<2>| match net {
                    Some(net) => net.forward(z, mode),
                    None => z,
                };
                [through(x_net, x), through(delta_net, delta)]
            }
        }
    }

    fn mlps(&self) -> Vec<(&'static str, &Mlp)> {
        match self {
            Self::Joint(mlp) => vec![("mlp", mlp)],
            Self::Separate { x, delta } => [("mlp1", x), ("mlp2", delta)].into_iter().filter_map(|(n, m)| Some((n, m.as_ref()?))).collect(),
        }
    }

    /// Parameters by their names in the reference, without the transform's own.
    pub(crate) fn parameters(&self) -> Vec<(String, &Tensor<2>)> {
        let mut parameters = Vec::new();
        for (name, mlp) in self.mlps() {
            for (number, layer) in mlp.layers.iter().enumerate() {
                parameters.extend(layer.parts().into_iter().map(|(part, tensor)| (format!("{name}.layers.{number}.{part}"), tensor)));
            }
        }
        parameters
    }

    /// As [`parameters`](Self::parameters), to be replaced.
    pub(crate) fn parameters_mut(&mut self) -> Vec<(String, &mut Tensor<2>)> {
        let mlps: Vec<(&'static str, &mut Mlp)> = match self {
            Self::Joint(mlp) => vec![("mlp", mlp)],
            Self::Separate { x, delta } => [("mlp1", x), ("mlp2", delta)].into_iter().filter_map(|(n, m)| Some((n, m.as_mut()?))).collect(),
        };
        let mut parameters = Vec::new();
        for (name, mlp) in mlps {
            for (number, layer) in mlp.layers.iter_mut().enumerate() {
                parameters.extend(layer.parts_mut().into_iter().map(|(part, tensor)| (format!("{name}.layers.{number}.{part}"), tensor)));
            }
        }
        parameters
    }
}

/// A parameter as the reference's files hold it: biases are vectors.
pub(crate) fn to_host(name: &str, tensor: &Tensor<2>) -> Result<HostTensor> {
    if name.ends_with(".bias") { HostTensor::from_row(tensor) } else { HostTensor::from_matrix(tensor) }
}

/// Replaces `tensor`, the parameter `name`, by what a file holds.
///
/// # Errors
///
/// [`Error::Tensor`] if it is missing, or misshapen.
pub(crate) fn replace(name: &str, tensor: &mut Tensor<2>, state: &BTreeMap<String, HostTensor>) -> Result<()> {
    let stored = state.get(name).ok_or_else(|| {
        Error::tensor(name, "is missing from the trained file; shared, combine and n_hidden have to be those of its training")
    })?;
    let value = stored.to_matrix(name, &tensor.device())?;
    if value.dims() != tensor.dims() {
        return Err(Error::tensor(
            name,
            format!(
                "has shape {:?} in the trained file, but the settings ask for {:?}; see rank and inner_params",
                value.dims(),
                tensor.dims()
            ),
        ));
    }
    *tensor = value;
    Ok(())
}

fn normal(shape: [usize; 2], rng: &mut ChaCha8Rng, device: &Device) -> Tensor<2> {
    // Box and Muller's transform.
    let mut draw = || {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()) as f32
    };
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| draw()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn uniform(shape: [usize; 2], bound: f64, rng: &mut ChaCha8Rng, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| rng.random_range(-bound..bound) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}
