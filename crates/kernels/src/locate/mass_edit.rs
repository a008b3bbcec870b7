use std::collections::BTreeMap;

use easyedit_core::{
    EditContext, EditRequest, Error, Fingerprint, LanguageModel, Matrix, Module, ParamName, Result, TensorDelta, WeightDelta, WeightLayout,
};
use serde_json::{Value, json};

use super::cached_values;
use crate::{Contexts, FactRow, LayerWalk, LocateSettings, OptimizedValue, Preparation, ValueConfig, ValueSite, half_bare_row};

/// Which part of what is still missing a layer writes, of those that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidualShare {
    /// One of `n` layers left writes 1/n, as MEMIT does.
    Linear,
    /// One of `n` layers left writes 1/√n, as PMET does.
    SquareRoot,
}

impl ResidualShare {
    fn of(self, layers_left: usize) -> f64 {
        match self {
            Self::Linear => 1.0 / layers_left as f64,
            Self::SquareRoot => 1.0 / (layers_left as f64).sqrt(),
        }
    }
}

/// Gets the model as it is before a layer is edited, the layer, and its keys, one of width `d_mlp` per request; gives as many vectors of that
/// width.
pub type SolveKeys<'a> = dyn FnMut(&dyn LanguageModel, usize, &[Vec<f64>]) -> Result<Vec<Vec<f64>>> + 'a;

/// Many facts written at once into the MLPs of one or several layers: the values wanted behind the last of them are optimised first; then
/// each layer in turn writes its share of what is still missing.
pub struct MassEdit<'a> {
    /// The method's settings.
    pub settings: LocateSettings<'a>,
    /// Its context templates.
    pub preparation: &'a Preparation,
    /// How values are optimised.
    pub values: ValueConfig,
    /// How the missing part is shared out.
    pub share: ResidualShare,
}

impl MassEdit<'_> {
    /// The changes that make `requests` true in `model`, and what there is to tell about each request.
    ///
    /// The weight of a layer changes by Σ r xᵀ, with x what `solve` gives for a request's key, and r the request's share of the residual.
    ///
    /// # Errors
    ///
    /// If a request cannot be read or its value not be optimised, naming it; or `solve` fails, or the change is not finite.
    ///
    /// # Source
    ///
    /// Meng et al., "Mass-Editing Memory in a Transformer", algorithm 1.
    pub fn run(
        &self,
        model: &dyn LanguageModel,
        requests: &[EditRequest],
        context: &EditContext<'_>,
        solve: &mut SolveKeys<'_>,
    ) -> Result<(BTreeMap<ParamName, TensorDelta>, Value)> {
        let layers = self.settings.layers;
        let Some(last) = layers.last().copied() else { return Err(Error::hparams("layers is empty; name at least one layer to edit")) };
        let templates = self.preparation.templates();
        let contexts = requests.iter().map(|request| Contexts::of(model, request, templates, self.settings.fact_token));
        let contexts = contexts.collect::<Result<Vec<Contexts>>>()?;
        let values = cached_values(model, &contexts, last, &self.values, context)?;

        let mut working = model.boxed_clone();
        let mut walk = FactWalk::new(model, &contexts)?;
        let read = if self.values.site == ValueSite::BlockOutput { Module::BlockOutput } else { Module::MlpOutput };
        let mut deltas = BTreeMap::new();
        context.progress.begin("editing layers", Some(layers.len() as u64));
        let outcome = layers.iter().enumerate().try_for_each(|(index, layer)| -> Result<()> {
            let keys = walk.keys(working.as_ref(), *layer)?;
            let now = walk.bare_prompts(working.as_ref(), last, read)?;
            let share = self.share.of(layers.len() - index);
            let residuals: Vec<Vec<f64>> = values.iter().zip(now).map(|(value, now)| residual(value, &now, share)).collect();
            let solved = solve(working.as_ref(), *layer, &keys)?;
            let delta = outer(&residuals, &solved, model.spec().mlp_out_layout)?.compact(&model.device())?;
            let name = model.spec().mlp_out_weight(*layer);
            let weight = working.weight(&name)?;
            let base = Fingerprint::of(&weight)?;
            working.set_weight(&name, weight + delta.to_tensor(&model.device()))?;
            deltas.insert(name, TensorDelta { delta, base });
            context.progress.advance(1);
            Ok(())
        });
        context.progress.end();
        outcome?;
        Ok((deltas, contexts.iter().zip(&values).map(|(contexts, value)| told(contexts, value, last)).collect()))
    }
}

/// What is missing of a wanted value, times a layer's share.
fn residual(value: &OptimizedValue, now: &[f32], share: f64) -> Vec<f64> {
    value.initial.iter().zip(&value.delta).zip(now).map(|((initial, delta), now)| (initial + delta - f64::from(*now)) * share).collect()
}

fn told(contexts: &Contexts, value: &OptimizedValue, layer: usize) -> Value {
    let [initial_norm, delta_norm] = value.norms();
    json!({
        "case_id": contexts.case_id,
        "layer": layer,
        "fact_token": contexts.fact_token,
        "subject_occurrences": contexts.occurrences,
        "contexts": contexts.templates,
        "losses": value.losses,
        "initial_norm": initial_norm,
        "delta_norm": delta_norm,
    })
}

/// The templates' contexts of all requests on their way through the layers.
struct FactWalk {
    walk: LayerWalk,
    /// Per request, its first context (the bare prompt) and their number.
    of_request: Vec<(usize, usize)>,
}

impl FactWalk {
    fn new(model: &dyn LanguageModel, contexts: &[Contexts]) -> Result<Self> {
        let rows: Vec<&FactRow> = contexts.iter().flat_map(|contexts| contexts.rows.iter().take(contexts.templates)).collect();
        let mut start = 0;
        let of_request = contexts.iter().map(|contexts| {
            start += contexts.templates;
            (start - contexts.templates, contexts.templates)
        });
        Ok(Self { of_request: of_request.collect(), walk: LayerWalk::new(model, &rows)? })
    }

    /// Each request's key in layer `layer`, averaged over its contexts: `[d_mlp]` each.
    fn keys(&mut self, model: &dyn LanguageModel, layer: usize) -> Result<Vec<Vec<f64>>> {
        let keys = self.walk.keys(model, layer)?;
        let own = |(first, count): &(usize, usize)| keys.select_rows(&(*first..first + count).collect::<Vec<usize>>());
        Ok(self.of_request.iter().map(|request| half_bare_row(&own(request), request.1)).collect())
    }

    /// What `module` of layer `layer` gives at the fact token of each bare prompt: `[d_model]` each.
    fn bare_prompts(&self, model: &dyn LanguageModel, layer: usize, module: Module) -> Result<Vec<Vec<f32>>> {
        let rows: Vec<usize> = self.of_request.iter().map(|(first, _)| *first).collect();
        let now = self.walk.activations(model, &rows, layer, module)?;
        Ok(now.values().chunks_exact(now.shape()[1].max(1)).map(<[f32]>::to_vec).collect())
    }
}

/// The change `Σ r xᵀ` of a weight stored in `layout`.
fn outer(residuals: &[Vec<f64>], solved: &[Vec<f64>], layout: WeightLayout) -> Result<WeightDelta> {
    let rows = |vectors: &[Vec<f64>]| -> Result<Matrix> {
        let width = vectors.first().map_or(0, Vec::len);
        let values: Vec<f32> = vectors.iter().flatten().map(|v| *v as f32).collect();
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::NotFinite("the change of a weight is not finite; lower v_lr or clamp_norm_factor".into()));
        }
        Matrix::new(vectors.len(), width, values).ok_or_else(|| Error::Batch("the requests' vectors differ in width".into()))
    };
    let (residuals, solved) = (rows(residuals)?, rows(solved)?);
    let (left, right) = match layout {
        WeightLayout::OutIn => (residuals.transpose(), solved),
        WeightLayout::InOut => (solved.transpose(), residuals),
    };
    Ok(WeightDelta::LowRank { left, right })
}
