//! The change of weights that turns neurons from the old answer to the new one.

use std::collections::{BTreeMap, BTreeSet};

use easyedit_core::tokens::TargetTokens;
use easyedit_core::{
    Capture, CheckedRequest, Error, LanguageModel, Module, ParamName, Result, Site, TensorDelta, TokenBatch, WeightDelta, WeightLayout,
    tensor_values,
};

use crate::hparams::KnHparams;
use crate::neurons::Neuron;

/// What is added to the out-projection's column of each of a request's neurons, `[d_model]` each: λ₂ times the direction of the new answer minus
/// λ₁ times that of the old one.
///
/// An answer's direction is Σ a e / Σ |a| over its tokens, with e the token's embedding and a the neuron's activation where the token is
/// predicted. For an answer of one token that is its embedding with the sign of the activation: what a neuron adds to the model's state is its
/// activation times its column, so a neuron below 0, of which gated MLPs have as many as above, takes away from the model's state what its
/// column gains. Of several tokens, each counts as the neuron acts on it.
///
/// Embeddings are those of the output head, towards which a change of an MLP's output counts; in models whose head is tied, as in the paper's,
/// they are the tokens' only ones.
///
/// # Source
///
/// Dai et al. 2022, section 5.2, whose update has no sign: in BERT's MLPs (GELU) a neuron that counts is above 0.
pub(crate) fn changes_of_columns(
    model: &dyn LanguageModel,
    request: &CheckedRequest,
    neurons: &[Neuron],
    [old, new]: [&TargetTokens; 2],
    hparams: &KnHparams,
) -> Result<Vec<Vec<f32>>> {
    let (old, new) = (directions(model, request, neurons, old)?, directions(model, request, neurons, new)?);
    let change = |(old, new): (Vec<f64>, Vec<f64>)| {
        old.iter().zip(new).map(|(old, new)| (hparams.lambda_2 * new - hparams.lambda_1 * old) as f32).collect::<Vec<f32>>()
    };
    Ok(old.into_iter().zip(new).map(change).collect())
}

/// The direction of one answer for each neuron; 0 for a neuron that does not act at any of the answer's tokens.
fn directions(model: &dyn LanguageModel, request: &CheckedRequest, neurons: &[Neuron], answer: &TargetTokens) -> Result<Vec<Vec<f64>>> {
    let head = model.weight(&ParamName::weight_of(&model.spec().modules.lm_head, 0))?;
    let rows: Vec<usize> = answer.target().iter().map(|id| *id as usize).collect();
    if let Some(id) = rows.iter().find(|id| **id >= head.dims()[0]) {
        return Err(request.error(format!("token {id} has no embedding in a head of {} rows", head.dims()[0])));
    }
    let embeddings = tensor_values(&model.rows_of(head, &rows))?;
    let width = model.spec().d_model;
    let keys = keys(model, neurons, answer)?;
    let direction = |neuron: &Neuron| -> Result<Vec<f64>> {
        let missing = || Error::Batch(format!("the model has no neuron {} in layer {}", neuron.index, neuron.layer));
        let keys = keys.get(&neuron.layer).ok_or_else(missing)?;
        let activation = |key: &[f32]| key.get(neuron.index).copied().map(f64::from).ok_or_else(missing);
        let activations = keys.chunks_exact(model.spec().d_mlp).map(activation).collect::<Result<Vec<f64>>>()?;
        let size: f64 = activations.iter().map(|a| a.abs()).sum();
        let mut direction = vec![0.0; width];
        if size > 0.0 {
            for (activation, embedding) in activations.iter().zip(embeddings.chunks_exact(width)) {
                direction.iter_mut().zip(embedding).for_each(|(sum, e)| *sum += activation / size * f64::from(*e));
            }
        }
        Ok(direction)
    };
    neurons.iter().map(direction).collect()
}

/// Activations of all neurons of the layers named, where the answer's tokens are predicted: by layer, `[tokens, d_mlp]`.
fn keys(model: &dyn LanguageModel, neurons: &[Neuron], answer: &TargetTokens) -> Result<BTreeMap<usize, Vec<f32>>> {
    let layers: BTreeSet<usize> = neurons.iter().map(|neuron| neuron.layer).collect();
    let mut capture = Capture::new(layers.iter().map(|layer| Site::new(*layer, Module::MlpKey)));
    let batch = TokenBatch::new(&[answer.input()])?;
    let mut pass = model.start(&[&answer.source], batch)?.with_prompts(vec![answer.start])?;
    model.hidden(&mut pass, &mut capture)?;
    let places: Vec<usize> = answer.predicting().collect();
    let of_layer = |layer: usize| {
        let site = Site::new(layer, Module::MlpKey);
        let seen = capture.get(site).ok_or_else(|| Error::Batch(format!("the model does not show its activations at {site}")))?;
        Ok((layer, tensor_values(&model.rows_of(seen.clone(), &places))?))
    };
    layers.into_iter().map(of_layer).collect()
}

/// Changes of weights at single places, by layer.
#[derive(Clone, Default)]
pub(crate) struct Changes {
    layers: BTreeMap<usize, BTreeMap<u64, f32>>,
}

impl Changes {
    /// The same with `factor` times its `columns: [d_model]` added to the out-projection's column of each neuron; of a weight stored
    /// `[in, out]`, to its row.
    ///
    /// # Errors
    ///
    /// If a weight is missing.
    pub(crate) fn with(&self, model: &dyn LanguageModel, neurons: &[Neuron], columns: &[Vec<f32>], factor: f64) -> Result<Self> {
        let spec = model.spec();
        let mut changes = self.clone();
        for (neuron, column) in neurons.iter().zip(columns) {
            let layout = spec.parameter(&spec.mlp_out_weight(neuron.layer))?.matrix_layout()?;
            let places = changes.layers.entry(neuron.layer).or_default();
            for (output, value) in column.iter().enumerate() {
                let place = match layout {
                    WeightLayout::OutIn => output * spec.d_mlp + neuron.index,
                    WeightLayout::InOut => neuron.index * spec.d_model + output,
                };
                *places.entry(place as u64).or_default() += (factor * f64::from(*value)) as f32;
            }
        }
        Ok(changes)
    }

    /// A clone of the model with the changes in its weights.
    ///
    /// # Errors
    ///
    /// If a weight is missing.
    pub(crate) fn applied(&self, model: &dyn LanguageModel) -> Result<Box<dyn LanguageModel>> {
        let mut changed = model.boxed_clone();
        for (layer, places) in &self.layers {
            let name = model.spec().mlp_out_weight(*layer);
            let weight = model.weight(&name)?;
            let delta = sparse(weight.dims(), places.clone());
            changed.set_weight(&name, weight + delta.to_tensor(&model.device()))?;
        }
        Ok(changed)
    }

    /// The changes as deltas of the model's weights.
    ///
    /// # Errors
    ///
    /// If a weight is missing.
    pub(crate) fn deltas(self, model: &dyn LanguageModel) -> Result<BTreeMap<ParamName, TensorDelta>> {
        let deltas = self.layers.into_iter().map(|(layer, places)| {
            let name = model.spec().mlp_out_weight(layer);
            let weight = model.weight(&name)?;
            let base = model.fingerprint(&name)?;
            Ok((name, TensorDelta::new(sparse(weight.dims(), places), base)))
        });
        deltas.collect()
    }
}

fn sparse(shape: [usize; 2], places: BTreeMap<u64, f32>) -> WeightDelta {
    let (indices, values) = places.into_iter().unzip();
    WeightDelta::Sparse { shape, indices, values }
}
