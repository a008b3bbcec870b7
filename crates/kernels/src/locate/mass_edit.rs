use std::collections::BTreeMap;

use easyedit_core::{
    CheckedRequest, Error, LanguageModel, Matrix, Module, ParamName, Result, Session, TensorDelta, WeightDelta, WeightLayout,
};
use serde_json::{Value, json};

use super::cached_values;
use crate::{Contexts, FactRow, LayerWalk, LocateSettings, OptimizedValue, Preparation, SolvedKeys, ValueConfig, ValueSite, half_bare_row};

/// A fact of which a layer writes less than this share of what it is to write is hardly written at all.
const LEAST_SHARE: f64 = 0.5;

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
pub type SolveKeys<'a> = dyn FnMut(&dyn LanguageModel, usize, &[Vec<f64>]) -> Result<SolvedKeys> + 'a;

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
    /// The hyperparameter that weighs what is kept against new keys, for diagnostics and warnings.
    pub weight_key: &'static str,
}

impl MassEdit<'_> {
    /// The changes that make `requests` true in `model`, and what there is to tell about each request.
    ///
    /// The weight of a layer changes by Σ r xᵀ, with x what `solve` gives for a request's key, and r the request's share of the residual. Of r
    /// the layer then answers the key with the share xᵀ k. The diagnostics list these shares, and a warning names the hyperparameter if one is
    /// below one half.
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
        requests: &[CheckedRequest],
        session: &Session,
        solve: &mut SolveKeys<'_>,
    ) -> Result<(BTreeMap<ParamName, TensorDelta>, Value)> {
        let layers = self.settings.layers;
        let Some(last) = layers.last().copied() else { return Err(Error::hparams("layers is empty; name at least one layer to edit")) };
        let templates = self.preparation.templates();
        let contexts = requests.iter().map(|request| Contexts::of(model, request, templates, self.settings.fact_token));
        let contexts = contexts.collect::<Result<Vec<Contexts>>>()?;
        let values = cached_values(model, &contexts, last, &self.values, session)?;

        let mut working = model.boxed_clone();
        let mut walk = FactWalk::new(model, &contexts)?;
        let read = if self.values.site == ValueSite::BlockOutput { Module::BlockOutput } else { Module::MlpOutput };
        let mut deltas = BTreeMap::new();
        let mut written = Vec::with_capacity(layers.len());
        session.progress().begin("editing layers", Some(layers.len() as u64));
        let outcome = layers.iter().enumerate().try_for_each(|(index, layer)| -> Result<()> {
            let keys = walk.keys(working.as_ref(), *layer)?;
            let now = walk.bare_prompts(working.as_ref(), last, read)?;
            let share = self.share.of(layers.len() - index);
            let residuals: Vec<Vec<f64>> = values.iter().zip(now).map(|(value, now)| residual(value, &now, share)).collect();
            let solved = solve(working.as_ref(), *layer, &keys)?;
            written.push(Written::of(*layer, &keys, &solved));
            let name = model.spec().mlp_out_weight(*layer);
            let layout = model.spec().parameter(&name)?.matrix_layout()?;
            let delta = outer(&residuals, &solved.vectors, layout)?.compact(&model.device())?;
            let base = working.fingerprint(&name)?;
            // Nothing reads the model behind the last layer.
            if index + 1 < layers.len() {
                let weight = working.weight(&name)?;
                working.set_weight(&name, weight + delta.to_tensor(&model.device()))?;
            }
            deltas.insert(name, TensorDelta::new(delta, base));
            session.progress().step(1)?;
            Ok(())
        });
        session.progress().end();
        outcome?;
        let case_ids: Vec<usize> = contexts.iter().map(|contexts| contexts.case_id).collect();
        written.iter().filter_map(|written| written.warning(&case_ids, self.weight_key)).for_each(|warning| tracing::warn!("{warning}"));
        let told = contexts.iter().zip(&values).enumerate().map(|(request, (contexts, value))| {
            let mut told = told(contexts, value, last);
            told["written"] = written.iter().map(|written| written.told(request, self.weight_key)).collect();
            told
        });
        Ok((deltas, told.collect()))
    }
}

/// How much of each request's residual a layer writes.
struct Written {
    layer: usize,
    /// The weight of what is kept.
    weight: f64,
    /// By request: 1 is all of it.
    shares: Vec<f64>,
}

impl Written {
    fn of(layer: usize, keys: &[Vec<f64>], solved: &SolvedKeys) -> Self {
        let share = |(key, x): (&Vec<f64>, &Vec<f64>)| key.iter().zip(x).map(|(k, x)| k * x).sum();
        Self { layer, weight: solved.weight, shares: keys.iter().zip(&solved.vectors).map(share).collect() }
    }

    fn told(&self, request: usize, weight_key: &str) -> Value {
        json!({ "layer": self.layer, "share": self.shares.get(request), weight_key: self.weight })
    }

    /// What there is to say if a request is hardly written.
    fn warning(&self, case_ids: &[usize], weight_key: &str) -> Option<String> {
        let below = self.shares.iter().filter(|share| **share < LEAST_SHARE).count();
        let (share, case_id) = self.shares.iter().zip(case_ids).min_by(|(a, _), (b, _)| a.total_cmp(b))?;
        (below > 0).then(|| {
            format!(
                "layer {} writes {:.2} % of what request {case_id} asks of it, and less than half for {below} of {} requests: {weight_key} is \
                 {:.4e}; lower it, or set it to auto",
                self.layer,
                100.0 * share,
                self.shares.len(),
                self.weight,
            )
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_hardly_written_is_named_with_the_setting() {
        let written = |weight: f64| {
            // One key k with x = k / (w + k k), as a second moment of 1 gives it.
            let keys = [vec![2.0, 0.0], vec![0.0, 1.0]];
            let solved = |key: &Vec<f64>| key.iter().map(|k| k / (weight + key.iter().map(|k| k * k).sum::<f64>())).collect();
            Written::of(3, &keys, &SolvedKeys { vectors: keys.iter().map(solved).collect(), weight })
        };
        assert_eq!(written(1.0).shares, [0.8, 0.5]);
        assert_eq!(written(1.0).warning(&[7, 9], "mom2_update_weight"), None);
        assert_eq!(written(1.0).told(1, "mom2_update_weight"), json!({"layer": 3, "share": 0.5, "mom2_update_weight": 1.0}));
        let warning = written(4.0).warning(&[7, 9], "mom2_update_weight").unwrap();
        assert!(warning.contains("layer 3 writes 20.00 % of what request 9 asks"), "{warning}");
        assert!(warning.contains("1 of 2 requests: mom2_update_weight is 4.0000e0"), "{warning}");
    }
}
