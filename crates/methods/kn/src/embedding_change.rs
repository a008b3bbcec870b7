//! The change of weights that turns neurons from the old answer to the new one.

use std::collections::BTreeMap;

use easyedit_core::tokens::encode_with_target;
use easyedit_core::{EditRequest, Fingerprint, LanguageModel, ParamName, Result, TensorDelta, WeightDelta, WeightLayout, tensor_values};

use crate::hparams::KnHparams;
use crate::neurons::Neuron;

/// What is added to the out-projection's column of each of a request's neurons: -λ₁ times the embedding of the old answer plus λ₂ times that of the
/// new one, `[d_model]`. Of an answer of several tokens it is the mean. Embeddings are those of the output head, towards which a change of an MLP's
/// output counts; in models whose head is tied, as in the paper's, they are the tokens' only ones.
///
/// # Source
///
/// Dai et al. 2022, section 5.2.
pub(crate) fn change_of_columns(model: &dyn LanguageModel, request: &EditRequest, old: &[u32], hparams: &KnHparams) -> Result<Vec<f32>> {
    let new = encode_with_target(model, &request.filled_prompt(), &request.target_new).map_err(|e| request.error(e.to_string()))?;
    let head = model.weight(&ParamName::weight_of(&model.spec().modules.lm_head, 0))?;
    let mean = |ids: &[u32]| -> Result<Vec<f32>> {
        let rows: Vec<usize> = ids.iter().map(|id| *id as usize).collect();
        if let Some(id) = rows.iter().find(|id| **id >= head.dims()[0]) {
            return Err(request.error(format!("token {id} has no embedding in a head of {} rows", head.dims()[0])));
        }
        tensor_values(&model.rows_of(head.clone(), &rows).mean_dim(0))
    };
    let (old, new) = (mean(old)?, mean(new.target())?);
    let change = old.iter().zip(new).map(|(old, new)| hparams.lambda_2 * f64::from(new) - hparams.lambda_1 * f64::from(*old));
    Ok(change.map(|v| v as f32).collect())
}

/// Changes of weights at single places, by layer.
#[derive(Default)]
pub(crate) struct Changes {
    layers: BTreeMap<usize, BTreeMap<u64, f32>>,
}

impl Changes {
    /// Adds `column: [d_model]` to the out-projection's column of each neuron; of a weight stored `[in, out]`, to its row.
    pub(crate) fn add(&mut self, model: &dyn LanguageModel, neurons: &[Neuron], column: &[f32]) {
        let spec = model.spec();
        for neuron in neurons {
            let places = self.layers.entry(neuron.layer).or_default();
            for (output, value) in column.iter().enumerate() {
                let place = match spec.mlp_out_layout {
                    WeightLayout::OutIn => output * spec.d_mlp + neuron.index,
                    WeightLayout::InOut => neuron.index * spec.d_model + output,
                };
                *places.entry(place as u64).or_default() += value;
            }
        }
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
            let (indices, values) = places.into_iter().unzip();
            let delta = WeightDelta::Sparse { shape: weight.dims(), indices, values };
            Ok((name, TensorDelta { delta, base: Fingerprint::of(&weight)? }))
        });
        deltas.collect()
    }
}
