use std::collections::BTreeMap;

use easyedit_core::{
    Edit, EditContext, EditMethod, EditRequest, Error, Fingerprint, Hparams, LanguageModel, Matrix, Method, ModelSpec, Result, TensorDelta,
    WeightDelta, WeightLayout,
};
use easyedit_kernels::{
    Cholesky, Contexts, FactRow, FactStates, MomentNeeds, Preparation, ValueConfig, ValueSite, half_bare_row, optimize_value,
};
use serde_json::{Value, json};

use crate::MemitHparams;

/// The optimisation ends when the loss is below it.
const LOSS_THRESHOLD: f64 = 5e-2;
/// Requests whose contexts are run at once for their keys.
const REQUESTS_AT_ONCE: usize = 32;

/// The method: [`MemitHparams`] and what all its edits share.
#[derive(Debug)]
pub struct Memit {
    hparams: MemitHparams,
    preparation: Preparation,
}

impl Method for Memit {
    type Hparams = MemitHparams;
    const SUMMARY: &'static str = "many facts at once, spread over the MLPs of several layers (Meng et al. 2023)";

    fn new(hparams: MemitHparams) -> Self {
        Self { hparams, preparation: Preparation::default() }
    }

    fn hparams_for(spec: &ModelSpec) -> MemitHparams {
        MemitHparams::for_spec(spec)
    }
}

/// A request on its way: its contexts, and the hidden state that is wanted at its fact token.
struct Wanted {
    contexts: Contexts,
    /// Behind the last edited layer: `[d_model]`.
    hidden: Vec<f64>,
}

impl Memit {
    /// Uses these context templates instead of writing new ones; each holds one `{}`, the first is `"{}"`.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`] if they are not of that form.
    pub fn with_templates(mut self, templates: Vec<String>) -> Result<Self> {
        self.preparation.set_templates(templates)?;
        Ok(self)
    }

    /// Uses this factor of the second moment of layer `layer` instead of collecting statistics.
    pub fn with_moments(mut self, layer: usize, factor: Cholesky) -> Self {
        self.preparation.set_moments(layer, factor);
        self
    }

    fn check(&self, spec: &ModelSpec) -> Result<()> {
        spec.check_decoder_only(MemitHparams::METHOD)?;
        spec.check_mlp_out(&self.hparams.rewrite_module_tmp)?;
        self.hparams.layers.iter().try_for_each(|layer| spec.check_layer(*layer))
    }

    fn last_layer(&self) -> Result<usize> {
        self.hparams.layers.last().copied().ok_or_else(|| Error::hparams("layers is empty; name at least one layer to edit"))
    }

    /// Finds the hidden state wanted for one request, and what there is to tell about it.
    fn wanted(&self, model: &dyn LanguageModel, request: &EditRequest, context: &EditContext<'_>) -> Result<(Wanted, Value)> {
        let templates = self.preparation.templates();
        let contexts = Contexts::of(model, request, templates, self.hparams.fact_token)?;
        let layer = self.last_layer()?;
        let states = FactStates::collect(model, &contexts.rows, layer, true)?;
        let config = ValueConfig {
            steps: self.hparams.v_num_grad_steps,
            lr: self.hparams.v_lr,
            betas: [0.9, 0.999],
            weight_decay: self.hparams.v_weight_decay,
            clamp_norm_factor: self.hparams.clamp_norm_factor,
            kl_factor: self.hparams.kl_factor,
            loss_threshold: LOSS_THRESHOLD,
            site: ValueSite::BlockOutput,
        };
        let optimized = optimize_value(model, &states, &contexts.targets, &config, context.progress)?;
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let told = json!({
            "case_id": request.case_id,
            "layer": layer,
            "fact_token": contexts.fact_token,
            "subject_occurrences": contexts.occurrences,
            "contexts": contexts.templates,
            "losses": optimized.losses,
            "initial_norm": norm(&optimized.initial),
            "delta_norm": norm(&optimized.delta),
        });
        Ok((Wanted { contexts, hidden: optimized.value() }, told))
    }

    /// Each request's key in layer `layer`, averaged over its contexts: `[d_mlp]` each.
    fn keys(&self, model: &dyn LanguageModel, wanted: &[Wanted], layer: usize) -> Result<Vec<Vec<f64>>> {
        let mut keys = Vec::with_capacity(wanted.len());
        for group in wanted.chunks(REQUESTS_AT_ONCE) {
            let rows: Vec<FactRow> = group.iter().flat_map(|w| w.contexts.rows.iter().take(w.contexts.templates).map(up_to_fact)).collect();
            let states = FactStates::collect(model, &rows, layer, false)?;
            let mut start = 0;
            for templates in group.iter().map(|w| w.contexts.templates) {
                let own: Vec<usize> = (start..start + templates).collect();
                keys.push(half_bare_row(&states.keys().select_rows(&own), templates));
                start += templates;
            }
        }
        Ok(keys)
    }

    /// What is missing of each wanted hidden state in the bare prompt, behind the last edited layer: `[d_model]` each.
    fn residuals(&self, model: &dyn LanguageModel, wanted: &[Wanted]) -> Result<Vec<Vec<f64>>> {
        let layer = self.last_layer()?;
        let mut residuals = Vec::with_capacity(wanted.len());
        for group in wanted.chunks(REQUESTS_AT_ONCE) {
            let rows: Vec<FactRow> = group.iter().flat_map(|w| w.contexts.rows.first().map(up_to_fact)).collect();
            let now = FactStates::collect(model, &rows, layer, false)?.block_outputs(model)?;
            let width = now.shape()[1].max(1);
            for (wanted, now) in group.iter().zip(now.values().chunks_exact(width)) {
                residuals.push(wanted.hidden.iter().zip(now).map(|(wanted, now)| wanted - f64::from(*now)).collect());
            }
        }
        Ok(residuals)
    }
}

/// A context up to its fact token: what comes behind does not reach the key.
fn up_to_fact(row: &FactRow) -> FactRow {
    FactRow { ids: row.ids.iter().take(row.fact_index + 1).copied().collect(), fact_index: row.fact_index }
}

/// The change whose product with a key adds its share of the residual: `residuals · solvedᵀ`, one column of each per request.
fn spread(residuals: &[Vec<f64>], solved: &[Vec<f64>], share: f64, layout: WeightLayout) -> Result<WeightDelta> {
    let rows = |vectors: &[Vec<f64>], factor: f64| -> Result<Matrix> {
        let width = vectors.first().map_or(0, Vec::len);
        let values: Vec<f32> = vectors.iter().flatten().map(|v| (v * factor) as f32).collect();
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::NotFinite("the change of a weight is not finite; lower v_lr or clamp_norm_factor".into()));
        }
        Matrix::new(vectors.len(), width, values).ok_or_else(|| Error::Batch("the requests' vectors differ in width".into()))
    };
    let (residuals, solved) = (rows(residuals, share)?, rows(solved, 1.0)?);
    let (left, right) = match layout {
        WeightLayout::OutIn => (residuals.transpose(), solved),
        WeightLayout::InOut => (solved.transpose(), residuals),
    };
    Ok(WeightDelta::LowRank { left, right })
}

impl EditMethod for Memit {
    fn name(&self) -> &'static str {
        MemitHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn prepare(&mut self, model: &dyn LanguageModel, context: &EditContext<'_>) -> Result<()> {
        self.check(model.spec())?;
        self.preparation.write_templates(model, &self.hparams.context_template_length_params, context)?;
        let MemitHparams { layers, mom2_dataset, mom2_n_samples, stats_dir, model_name, .. } = &self.hparams;
        let needs = MomentNeeds { corpus: mom2_dataset, samples: *mom2_n_samples, tokens: None, stats_dir, model_name };
        self.preparation.collect_moments(model, layers, &needs, context)
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[EditRequest], context: &EditContext<'_>) -> Result<Edit> {
        self.prepare(model, context)?;
        let (mut wanted, mut diagnostics) = (Vec::new(), Vec::new());
        context.progress.begin("finding the wanted hidden states", Some(requests.len() as u64));
        for request in requests {
            let (one, told) = self.wanted(model, request, context)?;
            wanted.push(one);
            diagnostics.push(told);
            context.progress.advance(1);
        }
        context.progress.end();

        let mut working = model.boxed_clone();
        let mut deltas = BTreeMap::new();
        for (index, layer) in self.hparams.layers.iter().enumerate() {
            let keys = self.keys(working.as_ref(), &wanted, *layer)?;
            let residuals = self.residuals(working.as_ref(), &wanted)?;
            let moments = self.preparation.moments(*layer)?;
            let solved = moments.solve_with_keys(self.hparams.mom2_update_weight, &keys, &format!("the keys of layer {layer}"))?;
            let share = 1.0 / (self.hparams.layers.len() - index) as f64;
            let delta = spread(&residuals, &solved, share, model.spec().mlp_out_layout)?;
            let name = model.spec().mlp_out_weight(*layer);
            let weight = working.weight(&name)?;
            let base = Fingerprint::of(&weight)?;
            working.set_weight(&name, weight + delta.to_tensor(&model.device()))?;
            deltas.insert(name, TensorDelta { delta, base });
        }
        Ok(Edit {
            method: self.name().to_owned(),
            model: model.spec().name.clone(),
            family: model.spec().family.clone(),
            hparams: self.hparams(),
            seed: context.seed,
            requests: requests.to_vec(),
            diagnostics: Value::Array(diagnostics),
            deltas,
        })
    }
}
