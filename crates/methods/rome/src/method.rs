use std::collections::BTreeMap;
use std::time::Instant;

use easyedit_core::{
    CheckedRequest, Edit, EditMethod, Hparams, LanguageModel, Method, ModelSpec, ParamName, Result, Session, TensorDelta, WeightDelta,
};
use easyedit_kernels::{
    Cholesky, Contexts, FactActivations, OptimizedValue, Preparation, ValueSite, half_bare_row, mean_row, optimize_values,
};
use serde_json::{Value, json};

use crate::RomeHparams;
use crate::insertion::{Insertion, dot};

/// The method: [`RomeHparams`] and what all its edits share.
#[derive(Debug)]
pub struct Rome {
    hparams: RomeHparams,
    preparation: Preparation,
}

impl Method for Rome {
    type Hparams = RomeHparams;
    const SUMMARY: &'static str = "rank-one edit of one MLP; one fact at a time (Meng et al. 2022)";

    fn new(hparams: RomeHparams) -> Self {
        Self { hparams, preparation: Preparation::default() }
    }

    fn hparams_for(spec: &ModelSpec) -> RomeHparams {
        RomeHparams::for_spec(spec)
    }
}

impl Rome {
    /// Uses these context templates instead of writing new ones; each holds one `{}`, the first is `"{}"`.
    ///
    /// # Errors
    ///
    /// [`Error::Hparams`](easyedit_core::Error::Hparams) if they are not of that form.
    pub fn with_templates(mut self, templates: Vec<String>) -> Result<Self> {
        self.preparation.set_templates(templates)?;
        Ok(self)
    }

    /// Uses this factor of the second moment of layer `layer` instead of collecting statistics.
    pub fn with_moments(mut self, layer: usize, factor: Cholesky) -> Self {
        self.preparation.set_moments(layer, factor);
        self
    }

    /// The change of one layer for one request, and what there is to tell about it.
    fn edit_layer(
        &self,
        model: &dyn LanguageModel,
        request: &CheckedRequest,
        layer: usize,
        session: &Session,
    ) -> Result<(WeightDelta, Value)> {
        let templates = self.preparation.templates();
        let started = Instant::now();
        let contexts = Contexts::of(model, request, templates, self.hparams.fact_token)?;
        if contexts.occurrences > 1 {
            tracing::warn!(
                "request {}: the subject occurs {} times in the prompt; the last occurrence is used",
                request.case_id(),
                contexts.occurrences
            );
        }
        let config = self.hparams.settings().value_config(ValueSite::MlpOutput);
        let mut found = None;
        optimize_values(model, &[&contexts], layer, &config, session.progress(), &mut |_, value, activations| {
            found = Some((value, activations));
            Ok(())
        })?;
        let (optimized, activations) = found.ok_or_else(|| request.error("no value was found"))?;
        let value_done = started.elapsed().as_secs_f64();
        let insertion = self.insertion(&activations, contexts.templates, layer, &optimized)?;
        // Times go to the log, not into the edit: the same seed gives the same file.
        tracing::info!(
            "request {}, layer {layer}: value {value_done:.2} s in {} passes, insertion {:.3} s",
            request.case_id(),
            optimized.losses.len(),
            started.elapsed().as_secs_f64() - value_done
        );
        let [initial_norm, delta_norm] = optimized.norms();
        let diagnostics = json!({
            "case_id": request.case_id(),
            "layer": layer,
            "fact_token": contexts.fact_token,
            "subject_occurrences": contexts.occurrences,
            "contexts": contexts.templates,
            "losses": optimized.losses,
            "initial_norm": initial_norm,
            "delta_norm": delta_norm,
            "value_norm": norm(&optimized.value()),
            "key_along_direction": insertion.key_along_direction,
            "update_norm": norm(&insertion.residual),
        });
        let layout = model.spec().parameter(&model.spec().mlp_out_weight(layer))?.matrix_layout()?;
        Ok((insertion.delta(layout), diagnostics))
    }

    fn insertion(&self, activations: &FactActivations, templates: usize, layer: usize, optimized: &OptimizedValue) -> Result<Insertion> {
        let consistent = self.hparams.consistent_keys;
        let mean = if consistent { half_bare_row } else { mean_row };
        let mean_key = mean(&activations.keys, templates);
        let direction = match self.hparams.mom2_adjustment {
            true => self.preparation.moments(layer)?.solve(&mean_key),
            false => mean_key.clone(),
        };
        if consistent {
            // δ was found relative to each context's own output: the averaged key's value is the averaged output plus δ.
            let output = mean(&activations.mlp_outputs, templates);
            let target: Vec<f64> = output.iter().zip(&optimized.delta).map(|(o, d)| o + d).collect();
            return Insertion::new(&direction, &mean_key, &output, &target);
        }
        let (key, output) = (mean_row(&activations.keys, 1), mean_row(&activations.mlp_outputs, 1));
        Insertion::new(&direction, &key, &output, &optimized.value())
    }
}

impl EditMethod for Rome {
    fn name(&self) -> &'static str {
        RomeHparams::METHOD
    }

    fn hparams(&self) -> Value {
        serde_json::to_value(&self.hparams).unwrap_or_default()
    }

    fn strength_hparams(&self) -> &'static [&'static str] {
        &["v_lr", "v_num_grad_steps", "clamp_norm_factor"]
    }

    fn prepare(&mut self, model: &dyn LanguageModel, session: &Session) -> Result<()> {
        self.preparation.prepare(model, &self.hparams.settings(), self.hparams.mom2_adjustment, session)
    }

    fn edit(&mut self, model: &dyn LanguageModel, requests: &[CheckedRequest], session: &Session) -> Result<Edit> {
        self.prepare(model, session)?;
        let mut working = model.boxed_clone();
        let mut deltas: BTreeMap<ParamName, TensorDelta> = BTreeMap::new();
        let mut diagnostics = Vec::new();
        let mut steps = requests.iter().flat_map(|request| self.hparams.layers.iter().map(move |layer| (request, *layer))).peekable();
        while let Some((request, layer)) = steps.next() {
            let (delta, told) = self.edit_layer(working.as_ref(), request, layer, session)?;
            diagnostics.push(told);
            let name = model.spec().mlp_out_weight(layer);
            // Nothing reads the model behind the last step.
            if steps.peek().is_some() {
                let weight = working.weight(&name)?;
                working.set_weight(&name, weight + delta.to_tensor(&model.device()))?;
            }
            let joined = match deltas.remove(&name) {
                Some(earlier) => TensorDelta::new(earlier.delta.then(&delta, &name)?, earlier.base),
                None => TensorDelta::new(delta, model.fingerprint(&name)?),
            };
            deltas.insert(name, joined);
        }
        Ok(Edit::of(self, model, requests, session.seed(), Value::Array(diagnostics), deltas))
    }
}

fn norm(values: &[f64]) -> f64 {
    dot(values, values).sqrt()
}
