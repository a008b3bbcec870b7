use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use easyedit_core::{Error, HostTensor, Result};
use rand_chacha::ChaCha8Rng;

use crate::MendHparams;
use crate::factors::WeightFactors;
use crate::inner::InnerWeights;
use crate::normalizer::Normalizer;
use crate::transform::{Transform, TransformShape, replace, to_host};

/// Name of the rates, in files.
pub(crate) const RATES: &str = "edit_lrs";

/// What MEND learns: a transform and statistics for each shape of weight (or each weight), and a rate for each weight.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    parts: Vec<Part>,
    /// For each weight its part, and its place among the weights of the part.
    places: Vec<(usize, usize)>,
    /// `[1, weights]`, in the order of the weights.
    rates: Tensor<2>,
    normalize: bool,
}

/// A transform with its statistics.
#[derive(Clone, Debug)]
struct Part {
    /// `mend.(in, out).`, or `mend.` and the weight's name with `#` for `.`.
    prefix: String,
    transform: Transform,
    normalizer: Normalizer,
}

/// What a network makes of the factors of a weight.
pub(crate) struct Transformed {
    /// x̃: `[edits, tokens, in]`.
    pub(crate) x: Tensor<3>,
    /// δ̃ times what it is added with, 0 where an edit has fewer tokens: `[edits, tokens, out]`.
    pub(crate) delta: Tensor<3>,
}

impl Network {
    /// A network at the start of its training.
    pub(crate) fn new(inner: &InnerWeights, hparams: &MendHparams, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let widths = inner.widths();
        let (mut parts, mut places): (Vec<Part>, Vec<(usize, usize)>) = (Vec::new(), Vec::new());
        let mut shapes: Vec<([usize; 2], usize)> = Vec::new();
        for (weight, widths) in inner.weights().iter().zip(&widths) {
            let known = hparams.shared.then(|| shapes.iter().position(|(shape, _)| shape == widths)).flatten();
            let part = known.unwrap_or_else(|| {
                shapes.push((*widths, 0));
                shapes.len() - 1
            });
            let mode = shapes.get(part).map_or(0, |(_, modes)| *modes);
            if let Some((_, modes)) = shapes.get_mut(part) {
                *modes += 1;
            }
            places.push((part, mode));
            if known.is_none() {
                let prefix = match hparams.shared {
                    true => format!("mend.({}, {}).", widths[0], widths[1]),
                    false => format!("mend.{}.", weight.name.as_str().replace('.', "#")),
                };
                let shape = TransformShape { widths: *widths, modes: None };
                parts.push(Part { prefix, transform: Transform::new(shape, hparams, rng, device), normalizer: Normalizer::new(*widths) });
            }
        }
        if hparams.shared {
            // Shift and scale need the number of weights of a shape, which is known only now.
            for (part, (widths, modes)) in parts.iter_mut().zip(&shapes) {
                part.transform = Transform::new(TransformShape { widths: *widths, modes: Some(*modes) }, hparams, rng, device);
            }
        }
        let rates = Tensor::full([1, inner.len()], hparams.edit_lr, device);
        Self { parts, places, rates, normalize: hparams.norm }
    }

    /// Every parameter with its name in files.
    pub(crate) fn parameters(&self) -> Vec<(String, &Tensor<2>)> {
        let nets = self
            .parts
            .iter()
            .flat_map(|part| part.transform.parameters().into_iter().map(|(name, tensor)| (format!("{}{name}", part.prefix), tensor)));
        nets.chain([(RATES.to_owned(), &self.rates)]).collect()
    }

    /// As [`parameters`](Self::parameters), to be replaced.
    pub(crate) fn parameters_mut(&mut self) -> Vec<(String, &mut Tensor<2>)> {
        let mut parameters = Vec::new();
        for Part { prefix, transform, .. } in &mut self.parts {
            parameters.extend(transform.parameters_mut().into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
        }
        parameters.push((RATES.to_owned(), &mut self.rates));
        parameters
    }

    /// A copy whose parameters ask for gradients.
    pub(crate) fn tracked(&self) -> Self {
        let mut tracked = self.clone();
        for (_, tensor) in tracked.parameters_mut() {
            *tensor = Tensor::from_inner(tensor.clone()).require_grad();
        }
        tracked
    }

    /// Takes the tokens of a weight into the statistics.
    pub(crate) fn see(&mut self, weight: usize, factors: &WeightFactors) {
        if let Some(part) = self.places.get(weight).and_then(|(part, _)| self.parts.get_mut(*part)) {
            part.normalizer.add(&factors.x, &factors.delta);
        }
    }

    /// The factors of a weight, normalised; as they are, if the settings do without.
    pub(crate) fn normalized(&self, weight: usize, mut factors: WeightFactors) -> Result<WeightFactors> {
        if self.normalize {
            self.part(weight)?.normalizer.apply(&mut factors.x, &mut factors.delta)?;
        }
        Ok(factors)
    }

    /// Transforms normalised factors of a weight for a change of it by `strength` times its rate. `None` if there are no tokens.
    pub(crate) fn transform(&self, weight: usize, factors: &WeightFactors, strength: f64, device: &Device) -> Result<Option<Transformed>> {
        let Some(padded) = factors.padded() else { return Ok(None) };
        let (edits, tokens) = (factors.edits(), padded.tokens);
        let [d_in, d_out] = factors.widths;
        let matrix = |values: Vec<f32>, width: usize| Tensor::<2>::from_data(TensorData::new(values, [edits * tokens, width]), device);
        let (x, delta, real) = (matrix(padded.x, d_in), matrix(padded.delta, d_out), matrix(padded.real, 1));
        let (x, delta, real) = if self.rates.is_autodiff() {
            (Tensor::from_inner(x), Tensor::from_inner(delta), Tensor::from_inner(real))
        } else {
            (x, delta, real)
        };
        let (_, mode) = self.places.get(weight).copied().unwrap_or_default();
        let [x, delta] = self.part(weight)?.transform.forward(x, delta, mode);
        let rate = self.rates.clone().narrow(1, weight, 1) * strength;
        let delta = delta * (real * rate);
        Ok(Some(Transformed { x: x.reshape([edits, tokens, d_in]), delta: delta.reshape([edits, tokens, d_out]) }))
    }

    fn part(&self, weight: usize) -> Result<&Part> {
        let part = self.places.get(weight).and_then(|(part, _)| self.parts.get(*part));
        part.ok_or_else(|| Error::Batch(format!("there is no inner weight number {weight}")))
    }

    /// Parameters and statistics, as files hold them.
    pub(crate) fn state(&self) -> Result<BTreeMap<String, HostTensor>> {
        let mut state = BTreeMap::new();
        for (name, tensor) in self.parameters() {
            let stored = if name == RATES { HostTensor::from_row(tensor)? } else { to_host(&name, tensor)? };
            state.insert(name, stored);
        }
        for part in &self.parts {
            state.extend(part.normalizer.state().into_iter().map(|(name, tensor)| (format!("{}{name}", part.prefix), tensor)));
        }
        Ok(state)
    }

    /// Takes over what a file holds. Names of older files of the reference begin with `gtn.` instead of `mend.`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] naming what is missing or misshapen; the network is then of no use.
    pub(crate) fn load(&mut self, state: &BTreeMap<String, HostTensor>) -> Result<()> {
        let renamed: BTreeMap<String, HostTensor>;
        let state = match state.keys().any(|name| name.starts_with("gtn.")) {
            true => {
                let new = |name: &String| name.strip_prefix("gtn.").map_or_else(|| name.clone(), |rest| format!("mend.{rest}"));
                renamed = state.iter().map(|(name, tensor)| (new(name), tensor.clone())).collect();
                &renamed
            }
            false => state,
        };
        for (name, tensor) in self.parameters_mut() {
            replace(&name, tensor, state)?;
        }
        for Part { prefix, normalizer, .. } in &mut self.parts {
            normalizer.load(prefix, state)?;
        }
        Ok(())
    }
}
